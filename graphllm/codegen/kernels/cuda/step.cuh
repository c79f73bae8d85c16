// What a kernel is told of the step that it is part of: 32-bit words in memory, which the host or the last step's choice
// has written. They are read when they are asked for, so that a kernel may look at them only after it has waited.
#pragma once

#include "prelude.cuh"

namespace graphllm {

constexpr int HEADER_WORDS = 16;  // before the rows, of which each has an id, a position and a slot

struct Word {
    const int* at;
    __device__ operator int() const { return *at; }
};

struct Column {
    const int* at;
    __device__ int operator[](int t) const { return at[3 * t]; }
};

struct Range {
    int first, last;  // [first, last)
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

    // This block's part of ``units``.
    __device__ Range share(int units) const {
        const int each = units / blocks, more = units % blocks;
        const int first = block * each + (block < more ? block : more);
        return {first, first + each + (block < more)};
    }
};

}  // namespace graphllm
