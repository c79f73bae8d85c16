// Looks at every access to memory: is it inside what the launch may touch, and is it ordered with those of other threads?
//
// The compiler reports accesses (-fsanitize=thread, whose own runtime is not linked; hooks.h takes its place). Beside each
// four bytes a cell holds who wrote them last and who has read them since. Two accesses are ordered by
//
//     sync_block, within a block         sync_warp, within a warp
//     shuffle and mma, within a warp, but for reads before them alone: what was written before may not be seen after
//     fence, atomic, atomic, fence       from one block of a launch to another
//     wait_for_producers                 from launch to launch
//
// Where cells are too small for the truth (bytes of a word written by several threads) nothing is said.
#pragma once

#include <dlfcn.h>

#include <algorithm>

#include "schedule.h"

namespace graphllm::sim {

enum : uint8_t { MANY = 1, WARPS_OF = 2, ATOMIC = 4, ON_ITS_WAY = 8 };

struct Trace {
    uint32_t serial;  // of the block; 0 for nobody
    uint32_t epoch, warp_epoch;
    uint32_t code;  // where in the kernels' code
    uint16_t thread;
    uint8_t bytes, flags;
};
struct Cell {
    Trace write, read;
};

struct Place {
    Site site;
    const void* pc;
};

#ifdef GRAPHLLM_SIM_WATCH

// Where the kernels' code begins.
inline const char* code_begin() {
    static const char* const begin = [] {
        Dl_info info;
        const bool found = dladdr(reinterpret_cast<const void*>(&code_begin), &info);
        return found ? static_cast<const char*>(info.dli_fbase) : nullptr;
    }();
    return begin;
}

inline uint32_t code_at(const void* pc) { return uint32_t(static_cast<const char*>(pc) - code_begin() - 1); }

// The driver knows the line (addr2line).
inline std::string words(uint32_t code) { return format("{+%x}", code); }
inline std::string words(Place place) { return place.site.file ? words(place.site) : words(code_at(place.pc)); }

inline std::string name_of(const Block& b, const unsigned char* at) {
    if (size_t(at - b.room) < SHARED + 2 * ZONE)
        return format("shared memory %+lld of %u bytes", static_cast<long long>(at - b.shared), b.grid->launch->shared);
    const Range* best = nullptr;
    const Launch& launch = *b.grid->launch;
    for (uint32_t i = 0; i < launch.range_count; ++i) {
        const Range& r = launch.ranges[i];
        if (at >= r.begin && (!best || r.begin > best->begin || (r.begin == best->begin && r.size > best->size))) best = &r;
    }
    if (best)
        return format("argument %u %+lld of %llu bytes", best->argument, static_cast<long long>(at - best->begin),
                      static_cast<unsigned long long>(best->size));
    const Memory* last = nullptr;
    for (const Memory& m : machine->memories)
        if (at >= m.begin) last = &m;
    if (last) return format("%lld bytes into an allocation of %zu", static_cast<long long>(at - last->begin), last->size);
    return "an address before all memory";
}

inline std::string access_words(const Block& b, const unsigned char* at, unsigned n, bool write, Place place) {
    return format("%s %u bytes at ", write ? "writes" : "reads", n) + words(place) + ", " + name_of(b, at);
}

// Meetings of a thread's warp so far that order what it did before them.
inline unsigned meetings(const Thread& t, const Block& b, bool write) {
    const Warp& w = b.warps[t.index / LANES];
    return write ? w.epoch : w.meetings;
}

// Whether ``t`` may rely on what happened there: a write, or reads.
inline bool ordered(const Trace& what, bool write, const Thread& t, const Block& b) {
    if (what.serial == b.serial) {
        if (what.epoch < b.epoch) return true;
        const bool same_warp = !(what.flags & WARPS_OF) && what.thread / LANES == t.index / LANES;
        if (same_warp && what.warp_epoch < meetings(t, b, write)) return true;
        return !(what.flags & MANY) && what.thread == t.index;
    }
    if (what.serial < machine->run_first) return true;
    const Grid& grid = *b.grid;
    if (what.serial < grid.first) return t.waited || b.waited_since < b.epoch;
    if (what.serial >= grid.last) return false;  // of a later launch, which has not waited
    if (b.known.empty()) return false;
    const Known& k = b.known[what.serial - grid.first];
    if (!k.release.serial || !(k.by == t.index || k.since < b.epoch)) return false;
    return what.epoch < k.release.epoch ||
           (what.epoch == k.release.epoch && (k.release.thread == ANY || k.release.thread == what.thread));
}

[[noreturn]] inline void race(const Trace& other, bool other_wrote, const unsigned char* at, unsigned n, bool write,
                              Place place) {
    Thread& t = *current;
    Block& b = *t.block;
    std::string who = other.flags & MANY ? format("other threads than %u alone", other.thread)
                                         : format("thread %u", other.thread);
    std::string why = "with no barrier between";
    if (other.serial != b.serial) {
        for (const Grid& g : machine->grids)
            if (other.serial >= g.first && other.serial < g.last) {
                const unsigned block = other.serial - g.first;
                who += format(" of block (%u, %u)", block % g.launch->grid_x, block / g.launch->grid_x);
                if (&g != b.grid) who += std::string(" of kernel ") + g.launch->name;
            }
        if (other.serial < b.grid->first) why = "in an earlier launch, and has not waited for producers";
        else if (other.serial >= b.grid->last) why = "in a later launch that had not waited for producers";
        else why = "with nothing to order the two blocks";
    }
    fail(access_words(b, at, n, write, place) + ": a race; " + who + (other_wrote ? " wrote it at " : " read it at ") +
         words(other.code) + " " + why);
}

inline void look(Cell& c, uint8_t bytes, Thread& t, Block& b, const unsigned char* at, unsigned n, bool write, uint8_t flags,
                 Place place) {
    const Trace own{b.serial, b.epoch, meetings(t, b, write), code_at(place.pc), uint16_t(t.index), bytes, flags};
    if (c.write.serial && (c.write.bytes & bytes)) {
        if ((c.write.flags & ON_ITS_WAY) && c.write.serial == b.serial)
            fail(access_words(b, at, n, write, place) + ": a copy to there is on its way; copies_wait comes before");
        const bool both_atomic = (c.write.flags & ATOMIC) && (flags & ATOMIC);
        const bool unclear = (c.write.flags & MANY) && c.write.serial == b.serial;
        if (!both_atomic && !unclear && !ordered(c.write, true, t, b)) race(c.write, true, at, n, write, place);
    }
    if (!write) {
        Trace& r = c.read;
        if (r.serial != b.serial || r.epoch != b.epoch) {
            r = own;
        } else {
            if (r.thread != t.index) r.flags |= MANY;
            if (r.thread / LANES != t.index / LANES) r.flags |= WARPS_OF;
            r.thread = uint16_t(t.index);
            r.code = own.code;
            r.warp_epoch = std::max(r.warp_epoch, own.warp_epoch);
            r.bytes |= bytes;
        }
        return;
    }
    if (c.read.serial && (c.read.bytes & bytes) && !ordered(c.read, false, t, b)) {
        const bool halves = bytes != 0xF && c.read.bytes != bytes;  // another may have read the other half
        if (!halves) race(c.read, false, at, n, write, place);
    }
    c.read.serial = 0;
    Trace& w = c.write;
    if (w.serial == b.serial && w.epoch == b.epoch && bytes != 0xF) {
        if (w.thread != t.index) w.flags |= MANY;
        w.thread = uint16_t(t.index);
        w.warp_epoch = own.warp_epoch;
        w.code = own.code;
        w.bytes |= bytes;
        w.flags |= flags;
    } else {
        w = own;
    }
}

inline void look_along(Cell* cells, size_t offset, const unsigned char* at, unsigned n, bool write, uint8_t flags, Place place,
                       uint32_t only = 0) {
    Thread& t = *current;
    const size_t end = offset + n;
    for (size_t word = offset / 4; word * 4 < end; ++word) {
        Cell& c = cells[word];
        if (only) {  // shared memory: what an earlier block did there is over
            if (c.write.serial != only) c.write.serial = 0;
            if (c.read.serial != only) c.read.serial = 0;
        }
        const size_t from = std::max(word * 4, offset), to = std::min(word * 4 + 4, end);
        look(c, uint8_t(((1u << (to - from)) - 1) << (from - word * 4)), t, *t.block, at, n, write, flags, place);
    }
}

inline bool holds(const unsigned char* begin, size_t size, const unsigned char* at, unsigned n) {
    const size_t offset = size_t(at - begin);
    return offset < size && offset + n <= size;
}

// Whether the launch has told that it touches these bytes. What was found last is looked at first.
inline bool told(Grid& grid, const unsigned char* at, unsigned n, bool write) {
    const Range*& last = grid.found[write];
    if (last && holds(last->begin, last->size, at, n)) return true;
    for (uint32_t i = 0; i < grid.launch->range_count; ++i) {
        const Range& r = grid.launch->ranges[i];
        if ((r.written || !write) && holds(r.begin, r.size, at, n)) {
            last = &r;
            return true;
        }
    }
    return false;
}

inline const Memory* memory_at(const unsigned char* at, unsigned n) {
    const auto& all = machine->memories;
    static const Memory* last = nullptr;
    if (last >= all.data() && last < all.data() + all.size() && holds(last->begin, last->size, at, n)) return last;
    auto found = std::upper_bound(all.begin(), all.end(), at, [](const unsigned char* a, const Memory& m) { return a < m.begin; });
    if (found == all.begin()) return nullptr;
    --found;
    last = &*found;
    return holds(found->begin, found->size, at, n) ? last : nullptr;
}

// A table of constants in the kernels' own code.
inline bool is_constant(const void* at) {
    Dl_info there;
    return dladdr(at, &there) && there.dli_fbase == code_begin();
}

inline void access(const void* pointer, unsigned n, bool write, uint8_t flags, Place place) {
    Thread* t = current;
    if (!t) return;
    const auto at = static_cast<const unsigned char*>(pointer);
    if (size_t(at - t->fiber.low) < t->fiber.size) return;
    Block& b = *t->block;
    const Launch& launch = *b.grid->launch;
    if (size_t(at - b.room) < SHARED + 2 * ZONE) {
        const size_t offset = size_t(at - b.shared);
        if (offset + n > launch.shared || offset > launch.shared)
            fail(access_words(b, at, n, write, place) + ": out of bounds");
        return look_along(b.cells, offset, at, n, write, flags, place, b.serial);
    }
    const Memory* memory = memory_at(at, n);
    if (!memory) {
        if (!write && is_constant(at)) return;
        fail(access_words(b, at, n, write, place) + ": out of bounds");
    }
    if (launch.range_count && !told(*b.grid, at, n, write))
        fail(access_words(b, at, n, write, place) +
             (told(*b.grid, at, n, false) ? ": the launch may only read it" : ": out of bounds"));
    if (memory->cells) look_along(memory->cells, size_t(at - memory->begin), at, n, write, flags, place);
}

inline void aligned_access(const void* at, unsigned n, bool write, Place place) {
    if (reinterpret_cast<uintptr_t>(at) % n && current)
        fail(access_words(*current->block, static_cast<const unsigned char*>(at), n, write, place) +
             format(": misaligned; expected a multiple of %u", n));
    access(at, n, write, 0, place);
}

// What this thread's block is known to have written by its last fence is for whoever sees this atomic operation.
inline void release_and_see(const void* at) {
    Thread& t = *current;
    Block& b = *t.block;
    Clock& clock = machine->clocks[at];
    t.seen.push_back({&clock, clock.releases.size()});
    if (!t.fenced) return;
    clock.releases.push_back({b.serial, t.fenced - 1, t.index});
    for (const Known& k : b.known)
        if (k.release.serial && (k.by == t.index || k.since < b.epoch)) clock.releases.push_back(k.release);
}

inline void fence_passed() {
    Thread& t = *current;
    Block& b = *t.block;
    t.fenced = b.epoch + 1;
    const Grid& grid = *b.grid;
    for (const Seen& s : t.seen)
        for (size_t i = 0; i < s.count; ++i) {
            const Release& r = s.clock->releases[i];
            if (r.serial == b.serial || r.serial < grid.first || r.serial >= grid.last) continue;
            if (b.known.empty()) b.known.resize(grid.last - grid.first);
            Known& k = b.known[r.serial - grid.first];
            if (!k.release.serial || k.release.epoch < r.epoch) {
                k = {r, b.epoch, t.index};
            } else if (k.release.epoch == r.epoch && k.release.thread != r.thread) {
                k.release.thread = ANY;
            }
        }
    t.seen.clear();
}

inline void copy_arrived(Cell* cells, size_t offset) {
    Thread& t = *current;
    Block& b = *t.block;
    for (unsigned i = 0; i < 4; ++i) {
        Trace& w = cells[offset / 4 + i].write;
        w = {b.serial, b.epoch, meetings(t, b, true), w.code, uint16_t(t.index), 0xF, 0};
    }
}

#endif

}  // namespace graphllm::sim
