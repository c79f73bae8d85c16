// Runs launches: their blocks in a drawn order, one after another or together, and those of later launches ahead of time.
#pragma once

#include <chrono>

#include "answers.h"

namespace graphllm::sim {

using Time = std::chrono::steady_clock;

constexpr size_t HELD = 24;               // blocks that wait for their producers at a time
constexpr size_t TOGETHER = size_t(1) << 16;  // threads that stand at a time
#if GRAPHLLM_ARCH >= 900
constexpr bool OVERLAPS = true;
#else
constexpr bool OVERLAPS = false;  // launches follow each other
#endif

// What every fiber does for good: a kernel's thread, and again for the next block.
inline void thread_body() {
    fiber_begins();
    for (;;) {
        Thread& t = *current;
        const Launch& launch = *t.block->grid->launch;
        launch.kernel(launch.arguments);
        end_thread(t);
        give_way(t);
    }
}

inline void guard(Block& b, size_t shared, bool closed) {
#ifdef GRAPHLLM_ASAN
    __asan_unpoison_memory_region(b.room, SHARED + 2 * ZONE);
    if (!closed) return;
    __asan_poison_memory_region(b.room, size_t(b.shared - b.room));
    __asan_poison_memory_region(b.shared + shared, size_t(b.room + SHARED + 2 * ZONE - (b.shared + shared)));
#else
    if (!closed) return;
    std::memset(b.shared - 64, 0xA5, 64);
    std::memset(b.shared + shared, 0xA5, 256);
#endif
}

inline bool guarded(const Block& b, size_t shared) {
#ifdef GRAPHLLM_ASAN
    (void)b, (void)shared;
#else
    for (int i = 1; i <= 64; ++i)
        if (b.shared[-i] != 0xA5) return false;
    for (size_t i = 0; i < 256; ++i)
        if (b.shared[shared + i] != 0xA5) return false;
#endif
    return true;
}

// A block with everything it needs, or null where there is no memory for it.
inline Block* new_block(Machine& m) {
    if (!m.spare.empty()) {
        Block* b = m.spare.back();
        m.spare.pop_back();
        return b;
    }
    auto made = std::make_unique<Block>();
    made->machine = &m;
    made->threads.resize(THREADS);
    made->room = pages(SHARED + 2 * ZONE);
    if (!made->room) return nullptr;
    made->shared = made->room + ZONE - 48;  // a multiple of 16, and no more
    if (WATCH) {
        made->cells = reinterpret_cast<Cell*>(pages((SHARED / 4 + 4) * sizeof(Cell)));
        if (!made->cells) return nullptr;
    }
    m.blocks.push_back(std::move(made));
    return m.blocks.back().get();
}

inline bool prepare_fibers(Block& b) {
    const unsigned from = b.torn ? 0 : b.prepared;
    for (unsigned w = from; w < b.warp_count; ++w) {
        if (!b.stacks[w]) b.stacks[w] = pages(LANES * (STACK + COLOUR));
        if (!b.stacks[w]) return false;
        for (unsigned i = 0; i < LANES; ++i) {
            Thread& t = b.threads[w * LANES + i];
            t.index = w * LANES + i;
            t.block = &b;
            t.fiber.prepare(b.stacks[w] + i * (STACK + COLOUR), STACK, thread_body);
        }
    }
    b.prepared = b.torn ? b.warp_count : std::max(b.prepared, b.warp_count);
    b.torn = false;
    return true;
}

// Block number ``number`` of a grid, its threads about to begin; null where there is no memory.
inline Block* begin_block(Machine& m, Grid& grid, unsigned number) {
    Block* b = new_block(m);
    if (!b) return nullptr;
    const Launch& launch = *grid.launch;
    b->grid = &grid;
    b->index = {number % launch.grid_x, number / launch.grid_x};
    b->size = {launch.block, 1};
    b->grid_size = {launch.grid_x, launch.grid_y};
    b->serial = grid.first + number;
    b->warp_count = launch.block / LANES;
    b->alive = launch.block;
    b->arrived = b->epoch = b->ready = b->current = 0;
    b->meeting = nullptr;
    b->known.clear();
    b->waited_since = OVERLAPS ? ANY : 0;
    if (!prepare_fibers(*b)) return nullptr;
    for (unsigned w = 0; w < b->warp_count; ++w) {
        Warp& warp = b->warps[w];
        warp.alive = ~0u;
        warp.ready = warp.at_warp = warp.at_block = warp.at_wait = warp.turn = warp.epoch = warp.meetings = 0;
        warp.took_part[0] = warp.took_part[1] = 0;
        warp.meeting = nullptr;
        make_ready(*b, w, ~0u);
    }
    for (unsigned i = 0; i < launch.block; ++i) {
        Thread& t = b->threads[i];
        t.stop = Stop::nothing;
        t.waited = !OVERLAPS;
        t.fenced = 0;
        t.copies.clear();
        t.groups.clear();
        t.seen.clear();
    }
    guard(*b, launch.shared, false);
    std::memset(b->shared, POISON, launch.shared);
    guard(*b, launch.shared, true);
    return b;
}

// Runs until none of its threads can go on.
inline void enter(Machine& m, Block& b) {
    Thread* to = choose(b);
    if (!to) return;
    current = to;
    switch_fiber(m.home, to->fiber);
    current = nullptr;
}

// False where it failed. ``done``: it has ended.
inline bool look_after(Machine& m, Block& b, bool may_wait, bool& done) {
    done = b.alive == 0;
    if (m.failed) return false;
    const size_t shared = b.grid->launch->shared;
    if (done) {
        if (!guarded(b, shared)) {
            blame(b, format("has written outside its %zu bytes of shared memory", shared));
            return false;
        }
        m.spare.push_back(&b);
        return true;
    }
    if (b.ready) return true;
    bool waits = false;
    for (unsigned w = 0; w < b.warp_count; ++w) waits |= b.warps[w].at_wait != 0;
    if (may_wait && waits) return true;
    blame(b, "its threads wait for each other for ever: " + waiting(b));
    return false;
}

inline bool no_memory(Machine& m, const Grid& grid) {
    m.failed = true;
    m.message = format("kernel %s: no memory for another block of %u threads", grid.launch->name, grid.launch->block);
    return false;
}

// Lets some blocks of later launches do what they do before they wait for this one.
inline bool run_ahead(Machine& m, size_t now) {
    const unsigned most[] = {0, 1, 4, 16};
    for (size_t later = now + 1; later < m.grids.size() && later <= now + 2; ++later) {
        Grid& grid = m.grids[later];
        for (unsigned left = most[m.order.below(4)]; left && grid.begun < grid.order.size(); --left) {
            size_t held = 0;
            for (const Grid& g : m.grids) held += g.held.size();
            if (held >= HELD) return true;
            Block* b = begin_block(m, grid, grid.order[grid.begun++]);
            if (!b) return no_memory(m, grid);
            enter(m, *b);
            while (b->ready && !m.failed) enter(m, *b);
            bool done;
            if (!look_after(m, *b, true, done)) return false;
            if (!done) grid.held.push_back(b);
        }
        if (m.order.once_in(2)) break;
    }
    return true;
}

inline void clear_to_run(Grid& grid) {
    grid.cleared = true;
    for (Block* b : grid.held)
        for (unsigned w = 0; w < b->warp_count; ++w) {
            make_ready(*b, w, b->warps[w].at_wait);
            b->warps[w].at_wait = 0;
        }
}

inline Block* next_block(Machine& m, Grid& grid) {
    const bool fresh = grid.begun < grid.order.size();
    if (!grid.held.empty() && (!fresh || m.order.once_in(2))) {
        const unsigned i = m.order.below(unsigned(grid.held.size()));
        std::swap(grid.held[i], grid.held.back());
        Block* b = grid.held.back();
        grid.held.pop_back();
        return b;
    }
    return begin_block(m, grid, grid.order[grid.begun++]);
}

// Runs blocks until ``deadline``; ``more``: some are left.
inline bool run_one_by_one(Machine& m, size_t now, Time::time_point deadline, bool& more) {
    Grid& grid = m.grids[now];
    for (;;) {
        more = grid.begun < grid.order.size() || !grid.held.empty();
        if (!more || Time::now() > deadline) return true;
        for (int i = 0; i < 16 && (grid.begun < grid.order.size() || !grid.held.empty()); ++i) {
            if (grid.ended++ == grid.pause && !run_ahead(m, now)) return false;
            Block* b = next_block(m, grid);
            if (!b) return no_memory(m, grid);
            while (b->ready && !m.failed) enter(m, *b);
            bool done;
            if (!look_after(m, *b, false, done)) return false;
        }
    }
}

inline bool run_together(Machine& m, Grid& grid) {
    std::vector<Block*> running = grid.held;
    grid.held.clear();
    if (grid.order.size() * grid.launch->block > TOGETHER) {
        m.failed = true;
        m.message = format("kernel %s: %zu blocks cannot run together; expected at most %zu", grid.launch->name,
                           grid.order.size(), TOGETHER / grid.launch->block);
        return false;
    }
    while (grid.begun < grid.order.size()) {
        Block* b = begin_block(m, grid, grid.order[grid.begun++]);
        if (!b) return no_memory(m, grid);
        running.push_back(b);
    }
    while (!running.empty()) {
        const unsigned i = m.order.below(unsigned(running.size()));
        Block* b = running[i];
        enter(m, *b);
        bool done;
        if (!look_after(m, *b, false, done)) return false;
        if (done) {
            running[i] = running.back();
            running.pop_back();
        }
    }
    return true;
}

inline void describe(Machine& m, const Launch& launch) {
    m.grids.emplace_back();
    Grid& grid = m.grids.back();
    grid.launch = &launch;
    const unsigned blocks = launch.grid_x * launch.grid_y;
    grid.first = m.serial;
    grid.last = m.serial += blocks;
    m.order.shuffle(grid.order, blocks);
}

// Every block stands somewhere in a kernel that nobody will go on with.
inline void give_up(Machine& m) {
    m.spare.clear();
    for (auto& b : m.blocks) {
        b->torn = true;
        m.spare.push_back(b.get());
    }
}

// Launches to be run, one after another. What was begun before and has not ended is given up.
inline void begin(Machine& m, const Launch* launches, size_t count) {
    if (m.now < m.grids.size()) give_up(m);
    m.failed = false;
    m.message.clear();
    m.grids.clear();
    m.clocks.clear();
    m.now = 0;
    if (m.serial > 0xF0000000u) m.serial = 1;
    m.run_first = m.serial;
    for (size_t i = 0; i < count; ++i) describe(m, launches[i]);
}

inline bool start_launch(Machine& m) {
    Grid& grid = m.grids[m.now];
    if (grid.cleared) return true;
    if (m.ahead && OVERLAPS) {
        grid.pause = m.order.below(unsigned(grid.order.size()) + 1);
        if (!run_ahead(m, m.now)) return false;
    }
    clear_to_run(grid);
    return true;
}

inline bool end_launch(Machine& m) {
    Grid& grid = m.grids[m.now];
    if (OVERLAPS && !grid.waited) {
        m.failed = true;
        m.message = format("kernel %s: has ended, and none of its threads has called wait_for_producers", grid.launch->name);
        return false;
    }
    ++m.now;
    return true;
}

enum class State : int { failed = -1, done = 0, more = 1 };

// Goes on for some time. Where it failed, ``m.message`` says how.
inline State go_on(Machine& m, int milliseconds) {
    const auto deadline = Time::now() + std::chrono::milliseconds(milliseconds);
    machine = &m;
    stand_here(m.home);
    while (m.now < m.grids.size()) {
        bool more = false;
        const bool fine = start_launch(m) && (m.together ? run_together(m, m.grids[m.now])
                                                         : run_one_by_one(m, m.now, deadline, more));
        if (fine && more) return State::more;
        if (!fine || !end_launch(m)) {
            give_up(m);
            m.now = m.grids.size();
            return State::failed;
        }
    }
    return State::done;
}

}  // namespace graphllm::sim
