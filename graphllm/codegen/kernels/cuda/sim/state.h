// What a simulated GPU is made of: threads in warps in blocks, launches of kernels, and the machine that runs them.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "calls.h"
#include "fiber.h"
#include "order.h"

namespace graphllm::sim {

constexpr unsigned LANES = 32, WARPS = 32, THREADS = LANES * WARPS;
constexpr size_t SHARED = 232448;        // bytes that the largest card has for a block
constexpr size_t ZONE = 1024;            // bytes on either side of a block's shared memory that nobody may touch
constexpr unsigned char POISON = 0xFF;   // floats of it are NaN
constexpr size_t COLOUR = 1088;          // keeps the tops of stacks out of each other's cache lines
#ifdef GRAPHLLM_ASAN
constexpr size_t STACK = size_t(256) << 10;
#else
constexpr size_t STACK = size_t(64) << 10;
#endif

struct Block;
struct Machine;

// 16 bytes on their way to shared memory.
struct Copy {
    unsigned char* to;
    const unsigned char* from;  // null for zeros
    Site site;
    bool done;
};

// One by one where threads wait, and what for.
enum class Stop : unsigned char { nothing, warp, block, producers, end };

// The latest releases of other blocks that a thread's next fence lets it see (watch.h).
struct Clock;
struct Seen {
    const Clock* clock;
    size_t count;
};

struct alignas(64) Thread {
    Fiber fiber;
    Block* block = nullptr;
    unsigned index = 0;
    Stop stop = Stop::nothing;
    bool waited = false;  // for producers
    Site site{};
    unsigned fenced = 0;  // 1 + the block's epoch at its last fence; 0 where there was none
    std::vector<Copy> copies;
    std::vector<size_t> groups;  // ends of the committed ones within ``copies``
    std::vector<Seen> seen;
};

struct Operand {
    float* d;
    const unsigned* a;
    const unsigned* b;
};

// Sets of lanes as bits.
struct Warp {
    unsigned ready = 0;      // can go on
    unsigned alive = 0;      // have not ended
    unsigned at_warp = 0;    // wait for the rest of the warp
    unsigned at_block = 0;   // wait for the rest of the block
    unsigned at_wait = 0;    // wait for other launches
    unsigned turn = 0;       // of ``values``: the lanes of one meeting read while the first of the next write
    unsigned epoch = 0;      // meetings that order memory
    unsigned meetings = 0;   // all
    const char* meeting = nullptr;
    Site site{};
    unsigned long long values[2][LANES];
    unsigned took_part[2] = {0, 0};
    Operand operands[LANES];
};

// A launch as the driver describes it, and what of it is running.
struct Range {  // bytes that the launch may touch, of one of its arguments
    unsigned char* begin;
    uint64_t size;
    uint32_t argument;
    uint32_t written;
};
struct Launch {
    const char* name;
    void (*kernel)(void* const* arguments);
    void* const* arguments;
    const Range* ranges;
    uint32_t range_count;  // 0: any memory
    uint32_t grid_x, grid_y, block, shared;
};
struct Grid {
    const Launch* launch = nullptr;
    uint32_t first = 0;  // number of its first block, among all that ever ran
    uint32_t last = 0;   // one past that of its last block
    std::vector<unsigned> order;
    size_t begun = 0, ended = 0;
    size_t pause = ~size_t(0);  // after so many blocks others run ahead again
    std::vector<Block*> held;  // begun ahead of time
    const Range* found[2] = {nullptr, nullptr};  // the last one that was read, and written (watch.h)
    bool cleared = false;      // all ahead of it are done
    bool waited = false;       // a thread of it has asked
};

struct Cell;

// A release of one block that another has seen: what it wrote before ``epoch`` is there, and in it what ``thread`` wrote.
struct Release {
    uint32_t serial;
    unsigned epoch, thread;
};
constexpr unsigned ANY = ~0u;
struct Known {
    Release release;
    unsigned since, by;  // epoch in which, and thread by which it was seen
};
struct Clock {
    std::vector<Release> releases;
};

struct Block {
    Machine* machine = nullptr;
    Grid* grid = nullptr;
    Index index{}, size{}, grid_size{};
    uint32_t serial = 0;
    unsigned warp_count = 0, alive = 0, arrived = 0, epoch = 0;
    unsigned ready = 0;    // warps that have lanes that can go on
    unsigned current = 0;  // the warp that ran last
    unsigned waited_since = ANY;  // the first epoch in which a thread had waited for producers
    bool torn = true;      // its fibers stand somewhere in a kernel that was given up
    unsigned prepared = 0;   // warps that have stacks
    const char* meeting = nullptr;
    Site site{};
    unsigned char* room = nullptr;  // shared memory with its zones
    unsigned char* shared = nullptr;
    Cell* cells = nullptr;  // of shared memory
    std::vector<Known> known;
    Warp warps[WARPS];
    std::vector<Thread> threads;
    unsigned char* stacks[WARPS] = {};
};

// A piece of the device's memory.
struct Memory {
    unsigned char* begin;
    size_t size;
    Cell* cells;  // null where nothing writes
};

struct Machine {
    explicit Machine(uint64_t seed) : order(seed) {}
    Order order;
    Fiber home;
    bool ahead = false;     // launches begin before those ahead of them have ended
    bool together = false;  // all blocks of a launch run at the same time
    bool failed = false;
    std::string message;
    size_t now = 0;       // the launch that runs
    uint32_t serial = 1;  // of the next block
    uint32_t run_first = 1;  // of the first block of this run
    unsigned long long idle = 0;  // atomic operations since a thread last ended
    std::deque<Grid> grids;
    std::vector<std::unique_ptr<Block>> blocks;
    std::vector<Block*> spare;
    std::vector<Memory> memories;  // by address
    std::map<const void*, Clock> clocks;
};

extern Thread* current;   // the one that runs; null while the machine itself does
extern Machine* machine;  // the one that runs

// Pages that take no memory until they are touched; null where there are none.
inline unsigned char* pages(size_t bytes) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
    flags |= MAP_NORESERVE;
#endif
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    return at == MAP_FAILED ? nullptr : static_cast<unsigned char*>(at);
}

inline void give_back(void* at, size_t bytes) {
#ifdef GRAPHLLM_ASAN
    __asan_unpoison_memory_region(at, bytes);  // of frames that were left for good, for whoever has it next
#endif
    munmap(at, bytes);
}

}  // namespace graphllm::sim
