// What a kernel is told of the step that it is part of.
#pragma once

#include "team.h"

namespace graphllm {

struct Range {
    int first, last;  // [first, last)
};

// What is left of a thread's part of some units: how many were taken, under the number of the loop over them.
struct alignas(64) Part {
    std::atomic<uint64_t> taken;
};

struct Step {
    int thread, threads;     // this thread's place in the team; 0 is the caller
    Barrier* barrier;        // of the team
    unsigned char* arena;    // of the plan, at a cache line
    unsigned char* scratch;  // this thread's own, at a cache line
    const int32_t *ids, *pos, *slot, *rows;  // inputs of the step
    int live;                                // rows 0 … live - 1 are there
    Part* parts;                             // one for each thread
    mutable uint64_t loop;                   // how many loops over units came before, since the team began

    template <class T>
    T* at(long offset) const {
        return reinterpret_cast<T*>(arena + offset);
    }

    void wait() const { barrier->wait(threads); }

    // This thread's part of ``units``: in one piece, and no thread has more than one more than another.
    Range share(int units) const { return share_of(thread, units); }

    // ``f(range)`` for all units, whoever comes first: a thread takes its own part bit by bit, then what others have not
    // come to, so that one which is kept from its core keeps the team waiting no longer than it must. Ranges are multiples
    // of ``least``, but for the last one of a part.
    template <class F>
    void each(int units, int least, F f) const {
        if (threads == 1) return f(Range{0, units});
        ++loop;
        for (int i = 0; i < threads; ++i) {
            const int whose = thread + i < threads ? thread + i : thread + i - threads;
            const Range part = share_of(whose, units);
            for (Range some; take(parts[whose].taken, part, least, some);) f(some);
        }
    }

  private:
    static constexpr int UNITS = 24;  // bits of a number of units

    Range share_of(int whose, int units) const {
        const int each = units / threads, more = units % threads;
        const int first = whose * each + (whose < more ? whose : more);
        return {first, first + each + (whose < more)};
    }

    // Half of what is left of a part. Who is in an earlier loop finds the part of a later one, and nothing left: nobody
    // leaves a loop before all of it has been taken.
    bool take(std::atomic<uint64_t>& taken, Range part, int least, Range& some) const {
        uint64_t seen = taken.load(std::memory_order_relaxed);
        for (;;) {
            const int done = seen >> UNITS < loop ? 0 : int(seen & ((1 << UNITS) - 1)), left = part.last - part.first - done;
            if (seen >> UNITS > loop || left <= 0) return false;
            const int half = left < 2 * least ? least : left / 2 / least * least, count = half < left ? half : left;
            if (!taken.compare_exchange_weak(seen, loop << UNITS | uint64_t(done + count), std::memory_order_relaxed))
                continue;
            some = {part.first + done, part.first + done + count};
            return true;
        }
    }
};

// A row number within a table of n rows, whatever a damaged plan asks for.
inline int clip(int row, int n) { return row < 0 ? 0 : row >= n ? n - 1 : row; }

}  // namespace graphllm
