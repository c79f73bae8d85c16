// What a kernel is told of the step that it is part of.
#pragma once

#include "called.h"
#include "team.h"

namespace graphllm {

struct Range {
    int first, last;  // [first, last)
};

// What is left of a thread's part of some units: how many were taken, under the number of the loop over them.
struct alignas(64) Part {
    std::atomic<uint64_t> taken;
};

// Every thread that takes part in a step goes through all of it. Until it has taken a unit of a kernel it must not touch
// what kernels read and write: others may be far ahead.
struct Step {
    int thread, threads;     // this thread's place in the team; 0 is the caller
    Progress* progress;      // of the team
    unsigned char* arena;    // of the plan, at a cache line
    unsigned char* scratch;  // this thread's own, at a cache line
    const int32_t *ids, *pos, *slot, *rows;  // inputs of the step
    int live;                                // rows 0 … live - 1 are there
    Part* parts;                             // one for each thread
    mutable uint64_t loops, due;             // loops over units, and units of them all, since the team began

    template <class T>
    T* at(long offset) const {
        return reinterpret_cast<T*>(arena + offset);
    }

    // Returns when all units so far are done.
    void wait() const {
        if (threads > 1) progress->wait(due);
    }

    // The same, when all threads have come here too.
    void meet() const {
        if (threads == 1) return;
        due += threads;
        progress->add(1);
        wait();
    }
};

// Turns at units 0 … n - 1 of a loop: each thread takes its own part bit by bit, then what others have not come to.
//
//   for (Turns turns(step, n); turns.next();) … units turns.first … turns.last - 1
//
// The loop must not be left before ``next`` says so. Ranges are multiples of ``least``, but for the last one of a part.
class Turns {
  public:
    int first = 0, last = 0;

    Turns(const Step& step, int units, int least = 1) : step_(step), units_(units), least_(least) {
        ++step.loops;
        step.due += units;
    }

    bool next() {
        if (step_.threads == 1) {
            first = last, last = units_;
            return first < last;
        }
        return share();
    }

  private:
    static constexpr int UNITS = 24;  // bits of a number of units

    GRAPHLLM_ONCE bool share() {
        for (done_ += last - first; turn_ < step_.threads; ++turn_) {
            const int whose = step_.thread + turn_ < step_.threads ? step_.thread + turn_ : step_.thread + turn_ - step_.threads;
            if (take(step_.parts[whose].taken, part_of(whose))) return true;
        }
        if (done_ > 0) step_.progress->add(done_);
        return false;
    }

    // In one piece, and none has more than one more than another.
    Range part_of(int whose) const {
        const int each = units_ / step_.threads, more = units_ % step_.threads;
        const int start = whose * each + (whose < more ? whose : more);
        return {start, start + each + (whose < more)};
    }

    // Half of what is left of a part. Who is in an earlier loop finds the part of a later one, and nothing left: nobody
    // leaves a loop before all of it has been taken.
    bool take(std::atomic<uint64_t>& taken, Range part) {
        uint64_t seen = taken.load(std::memory_order_relaxed);
        const uint64_t loop = step_.loops;
        for (;;) {
            const int gone = seen >> UNITS < loop ? 0 : int(seen & ((1 << UNITS) - 1)), left = part.last - part.first - gone;
            if (seen >> UNITS > loop || left <= 0) return false;
            const int half = left < 2 * least_ ? least_ : left / 2 / least_ * least_, count = half < left ? half : left;
            if (!taken.compare_exchange_weak(seen, loop << UNITS | uint64_t(gone + count), std::memory_order_relaxed))
                continue;
            first = part.first + gone, last = first + count;
            return true;
        }
    }

    const Step& step_;
    const int units_, least_;
    int turn_ = 0;
    uint64_t done_ = 0;
};

// A row number within a table of n rows, whatever a damaged plan asks for.
inline int clip(int row, int n) { return row < 0 ? 0 : row >= n ? n - 1 : row; }

}  // namespace graphllm
