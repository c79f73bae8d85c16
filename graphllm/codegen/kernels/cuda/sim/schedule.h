// Who runs next, and where threads meet.
//
// A thread runs until it must wait, and then some other that need not wait runs, drawn by the seed: mostly one of the same
// warp, whose stacks are at hand. The last to come to a meeting lets the others go, and any of them may be the first.
#pragma once

#include "report.h"

namespace graphllm::sim {

constexpr unsigned long long SPINS = 20'000'000;  // atomic operations with no end of a thread: they wait in vain

inline Warp& warp_of(const Thread& t) { return t.block->warps[t.index / LANES]; }
inline unsigned lane_bit(const Thread& t) { return 1u << t.index % LANES; }

inline void make_ready(Block& b, unsigned warp, unsigned lanes) {
    if (!lanes) return;
    b.warps[warp].ready |= lanes;
    b.ready |= 1u << warp;
}

inline Thread* choose(Block& b) {
    if (!b.ready) return nullptr;
    const uint64_t random = b.machine->order.draw();
    if (!(b.ready >> b.current & 1) || (random & 63) == 0) b.current = some_bit(b.ready, unsigned(random >> 8));
    const unsigned lane = some_bit(b.warps[b.current].ready, unsigned(random >> 16));
    return &b.threads[b.current * LANES + lane];
}

inline void go_home(Thread& from) {
    current = nullptr;
    switch_fiber(from.fiber, machine->home);
}

// Lets others run. The caller goes on when it is chosen, which may be at once if it is ready.
inline void give_way(Thread& from) {
    Block& b = *from.block;
    if (machine->together && machine->order.once_in(4)) return go_home(from);
    Thread* to = choose(b);
    if (to == &from) return;
    if (!to) return go_home(from);
    current = to;
    switch_fiber(from.fiber, to->fiber);
}

inline void stop(Thread& t, Stop why, Site site) {
    Warp& w = warp_of(t);
    w.ready &= ~lane_bit(t);
    if (!w.ready) t.block->ready &= ~(1u << t.index / LANES);
    t.stop = why;
    t.site = site;
}

inline bool same(Site a, Site b) { return a.file == b.file && a.line == b.line; }

// All of ``lanes`` go on.
inline void release_warp(Block& b, unsigned warp) {
    Warp& w = b.warps[warp];
    const unsigned lanes = w.at_warp;
    w.at_warp = 0;
    w.meeting = nullptr;
    w.turn ^= 1;
    ++w.meetings;
    w.took_part[w.turn] = 0;
    make_ready(b, warp, lanes);
}

// Comes to a meeting of the warp, where the last one does ``last``; returns the turn that it was.
template <class F>
inline unsigned meet_warp_as(const char* what, Site site, F last) {
    Thread& t = *current;
    Warp& w = warp_of(t);
    const unsigned turn = w.turn;
    t.site = site;
    if (!w.meeting) {
        w.meeting = what;
        w.site = site;
    } else if (w.meeting != what || !same(w.site, site)) {
        fail(format("%s at ", what) + words(site) + ", where others of its warp are in " + w.meeting + " at " +
             words(w.site) + "; expected all lanes of a warp at the same place");
    }
    w.took_part[turn] |= lane_bit(t);
    stop(t, Stop::warp, site);
    w.at_warp |= lane_bit(t);
    if (w.at_warp == w.alive) {
        last(w);
        release_warp(*t.block, t.index / LANES);
    }
    give_way(t);
    t.stop = Stop::nothing;
    return turn;
}

inline void release_block(Block& b) {
    b.arrived = 0;
    b.meeting = nullptr;
    ++b.epoch;
    for (unsigned i = 0; i < b.warp_count; ++i) {
        make_ready(b, i, b.warps[i].at_block);
        b.warps[i].at_block = 0;
    }
}

inline void meet_block_at(Site site) {
    Thread& t = *current;
    Block& b = *t.block;
    if (!b.meeting) {
        b.meeting = "sync_block";
        b.site = site;
    } else if (!same(b.site, site)) {
        t.stop = Stop::block;
        t.site = site;
        fail("divergent sync_block at " + words(site) + ", where others of its block are at " + words(b.site));
    }
    stop(t, Stop::block, site);
    warp_of(t).at_block |= lane_bit(t);
    if (++b.arrived == b.alive) release_block(b);
    give_way(t);
    t.stop = Stop::nothing;
}

// A thread's kernel has returned.
inline void end_thread(Thread& t) {
    Block& b = *t.block;
    Warp& w = warp_of(t);
    machine->idle = 0;
    stop(t, Stop::end, {});
    w.alive &= ~lane_bit(t);
    --b.alive;
    if (w.at_warp && w.at_warp == w.alive) {
        if (strcmp(w.meeting, "sync_warp") != 0)
            fail(std::string("has ended, where others of its warp are in ") + w.meeting + " at " + words(w.site));
        ++w.epoch;
        release_warp(b, t.index / LANES);
    }
    if (b.arrived && b.arrived == b.alive) release_block(b);
}

}  // namespace graphllm::sim
