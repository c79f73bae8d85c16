// Rows of a table, as f32.
#pragma once

#include "elementwise.h"

namespace graphllm {

template <class S>
inline void widen(const S* x, int n, float* y) {
    for_lanes(n, y, [](VF v) { return v; }, x);
}

// int8 groups: the first one starts at ``q``, the last one may be short.
template <class S>
inline void dequantize(const int8_t* q, const S* scale, int n, int group, float* y) {
    for (int i = 0; i < n; i += group) {
        const float s = to_float(scale[i / group]);
        for_lanes(n - i < group ? n - i : group, y + i, [s](VF v) { return v * s; }, q + i);
    }
}

}  // namespace graphllm
