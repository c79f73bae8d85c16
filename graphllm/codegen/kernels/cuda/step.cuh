// What a kernel is told of the step that it is part of: 32-bit words in memory, which the host or the last step's choice
// has written. They are read when they are asked for, so that a kernel may look at them only after it has waited.
#pragma once

#include "prelude.cuh"

namespace graphllm {

constexpr int HEADER_WORDS = 4;  // before the rows, of which each has an id, a position and a slot

struct Word {
    const int* at;
    __device__ operator int() const { return *at; }
};

struct Column {
    const int* at;
    __device__ int operator[](int t) const { return at[3 * t]; }
};

struct Step {
    Word live;               // rows 0 … live - 1 are there
    const int* rows;         // the row that is asked for
    Column ids, pos, slot;   // of each row
    int block, blocks;       // this block's place among those that share a kernel's work

    __device__ Step(const int* words, int block, int blocks)
        : live{words},
          rows(words + 1),
          ids{words + HEADER_WORDS},
          pos{words + HEADER_WORDS + 1},
          slot{words + HEADER_WORDS + 2},
          block(block),
          blocks(blocks) {}
};

// A block's turns at units of work: its part of them, all at once.
//
//   for (Turns turns(step, n); turns.next();) … units turns.first … turns.last - 1
struct Turns {
    int first, last;
    bool fresh = true;

    __device__ Turns(const Step& step, int units) {
        const int each = units / step.blocks, more = units % step.blocks;
        first = step.block * each + (step.block < more ? step.block : more);
        last = first + each + (step.block < more);
    }
    __device__ bool next() {
        const bool now = fresh;
        fresh = false;
        return now;
    }
};

}  // namespace graphllm
