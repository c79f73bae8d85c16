// The simulator as a translation unit, and what the driver calls.
#include <cstdlib>
#include <mutex>

#include "kernels.h"
#include "run.h"

#define GRAPHLLM_API extern "C" __attribute__((visibility("default")))

namespace graphllm::sim {

static const Registered* registered = nullptr;

Registered::Registered(const char* name, Entry entry, unsigned parameters)
    : name(name), entry(entry), parameters(parameters), next(registered) {
    registered = this;
}

static std::mutex busy;  // there is one ``current``

}  // namespace graphllm::sim

using namespace graphllm::sim;

GRAPHLLM_API int graphllm_sim_abi() { return 1; }

GRAPHLLM_API int graphllm_sim_watches() { return WATCH; }

// A kernel by name and how many parameters it has; null where there is none.
GRAPHLLM_API Entry graphllm_sim_kernel(const char* name, unsigned* parameters) {
    for (const Registered* r = registered; r; r = r->next)
        if (strcmp(r->name, name) == 0) {
            *parameters = r->parameters;
            return r->entry;
        }
    return nullptr;
}

GRAPHLLM_API Machine* graphllm_sim_open(uint64_t seed, int ahead, int together) {
    Machine* m = new Machine(seed);
    m->ahead = ahead;
    m->together = together;
    return m;
}

// Memory of exactly that size, full of NaN; null where there is none.
GRAPHLLM_API void* graphllm_sim_allocate(Machine* m, uint64_t size) {
    void* at;
    if (posix_memalign(&at, 256, size)) return nullptr;
    std::memset(at, POISON, size);
    const auto begin = static_cast<unsigned char*>(at);
    auto& all = m->memories;
    auto place = std::find_if(all.begin(), all.end(), [&](const Memory& other) { return other.begin > begin; });
    all.insert(place, {begin, size, nullptr});
    return at;
}

// Has an allocation watched. False where there is no memory to do it by.
GRAPHLLM_API int graphllm_sim_watch(Machine* m, const unsigned char* begin) {
    for (Memory& memory : m->memories)
        if (WATCH && memory.begin == begin && !memory.cells) {
            memory.cells = reinterpret_cast<Cell*>(pages((memory.size / 4 + 1) * sizeof(Cell)));
            return memory.cells != nullptr;
        }
    return 1;
}

GRAPHLLM_API void graphllm_sim_begin(Machine* m, const Launch* launches, uint64_t count) { begin(*m, launches, count); }

GRAPHLLM_API int graphllm_sim_go_on(Machine* m, int milliseconds) {
    const std::lock_guard<std::mutex> held(busy);
    const State state = go_on(*m, milliseconds);
    machine = nullptr;
    return static_cast<int>(state);
}

GRAPHLLM_API const char* graphllm_sim_message(const Machine* m) { return m->message.c_str(); }

GRAPHLLM_API void graphllm_sim_close(Machine* m) {
    for (auto& b : m->blocks) {
        give_back(b->room, SHARED + 2 * ZONE);
        if (b->cells) give_back(b->cells, (SHARED / 4 + 4) * sizeof(Cell));
        for (unsigned char* stack : b->stacks)
            if (stack) give_back(stack, LANES * (STACK + COLOUR));
    }
    for (Memory& memory : m->memories) {
        free(memory.begin);
        if (memory.cells) give_back(memory.cells, (memory.size / 4 + 1) * sizeof(Cell));
    }
    delete m;
}
