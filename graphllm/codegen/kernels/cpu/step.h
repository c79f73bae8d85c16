// What a kernel is told of the step that it is part of.
#pragma once

#include "team.h"

namespace graphllm {

struct Range {
    int first, last;  // [first, last)
};

struct Step {
    int thread, threads;     // this thread's place in the team; 0 is the caller
    Barrier* barrier;        // of the team
    unsigned char* arena;    // of the plan, at a cache line
    unsigned char* scratch;  // this thread's own, at a cache line
    const int32_t *ids, *pos, *slot, *rows;  // inputs of the step
    int live;                                // rows 0 … live - 1 are there

    template <class T>
    T* at(long offset) const {
        return reinterpret_cast<T*>(arena + offset);
    }

    void wait() const { barrier->wait(threads); }

    // This thread's part of ``units``: in one piece, and no thread has more than one more than another.
    Range share(int units) const {
        const int each = units / threads, more = units % threads;
        const int first = thread * each + (thread < more ? thread : more);
        return {first, first + each + (thread < more)};
    }
};

// A row number within a table of n rows, whatever a damaged plan asks for.
inline int clip(int row, int n) { return row < 0 ? 0 : row >= n ? n - 1 : row; }

}  // namespace graphllm
