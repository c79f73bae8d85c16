// What went wrong, in words: the kernel, the block and thread, the line, and who waits where.
#pragma once

#include <cstdarg>

#include "state.h"

namespace graphllm::sim {

inline std::string format(const char* text, ...) __attribute__((format(printf, 1, 2)));
inline std::string format(const char* text, ...) {
    char line[512];
    va_list list;
    va_start(list, text);
    vsnprintf(line, sizeof line, text, list);
    va_end(list);
    return line;
}

inline std::string words(Site site) {
    if (!site.file) return "an unknown line";
    const char* slash = strrchr(site.file, '/');
    return format("%s:%d", slash ? slash + 1 : site.file, site.line);
}

inline std::string words(const Block& block) {
    return format("kernel %s, block (%u, %u)", block.grid->launch->name, block.index.x, block.index.y);
}

inline void blame(Block& block, const std::string& what) {
    Machine& m = *block.machine;
    if (!m.failed) m.message = words(block) + ": " + what;
    m.failed = true;
}

// Gives up: the thread that runs does not go on, nor does any other.
[[noreturn]] inline void fail(const std::string& what) {
    Thread* thread = current;
    blame(*thread->block, format("thread %u: ", thread->index) + what);
    current = nullptr;
    for (;;) switch_fiber(thread->fiber, machine->home);
}

// Who waits where, the first of each sort of waiting.
inline std::string waiting(const Block& block) {
    struct Sort {
        Stop stop;
        Site site;
        unsigned first, count;
    };
    std::vector<Sort> sorts;
    for (unsigned i = 0; i < block.size.x; ++i) {
        const Thread& t = block.threads[i];
        bool found = false;
        for (Sort& s : sorts)
            if (s.stop == t.stop && (t.stop == Stop::end || (s.site.file == t.site.file && s.site.line == t.site.line))) {
                ++s.count;
                found = true;
            }
        if (!found) sorts.push_back({t.stop, t.site, i, 1});
    }
    std::string out;
    for (size_t i = 0; i < sorts.size() && i < 6; ++i) {
        const Sort& s = sorts[i];
        if (i) out += ", ";
        out += s.count == 1 ? format("thread %u ", s.first) : format("%u threads from %u on ", s.count, s.first);
        const char* one = s.count == 1 ? "s" : "";
        switch (s.stop) {
            case Stop::end: out += s.count == 1 ? "has ended" : "have ended"; break;
            case Stop::warp: out += format("wait%s for the warp at ", one) + words(s.site); break;
            case Stop::block: out += format("wait%s for the block at ", one) + words(s.site); break;
            case Stop::producers: out += format("wait%s for other launches at ", one) + words(s.site); break;
            case Stop::nothing: out += s.count == 1 ? "runs" : "run"; break;
        }
    }
    return out;
}

}  // namespace graphllm::sim
