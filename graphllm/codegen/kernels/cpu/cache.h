// One head of one row into the KV cache.
#pragma once

#include "elementwise.h"

namespace graphllm {

template <class S>
inline void cache_row(const float* x, int d, S* to) {
    narrow(x, d, to);
}

}  // namespace graphllm
