// One head of one row into the KV cache, and rows as int8.
#pragma once

#include "integer.h"

namespace graphllm {

template <class S>
inline void cache_row(const float* x, int d, S* to) {
    narrow(x, d, to);
}

inline void cache_row(const float* x, int d, int8_t* q, float* scale) { *scale = round_group(x, d, q); }

// Groups of n elements, each under a scale of its own.
inline void quantize(const float* x, int n, int group, int8_t* q, float* scale) {
    for (int i = 0; i < n; i += group) *scale++ = round_group(x + i, n - i < group ? n - i : group, q + i);
}

}  // namespace graphllm
