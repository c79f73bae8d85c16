// Root mean square norm of a row (Zhang and Sennrich 2019, arXiv:1910.07467).
#pragma once

#include "elementwise.h"

namespace graphllm {

inline void rmsnorm(const float* x, const float* gain, int n, float eps, float* y) {
    VF squares[2] = {};
    int i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        const VF a = load(x + i), b = load(x + i + LANES);
        squares[0] += a * a;
        squares[1] += b * b;
    }
    for (; i < n; i += LANES) {
        const VF a = n - i < LANES ? load_part(x + i, n - i) : load(x + i);
        squares[0] += a * a;
    }
    const float r = 1.0f / __builtin_sqrtf(sum(squares[0] + squares[1]) / float(n) + eps);
    for_lanes(n, y, [r](VF a, VF g) { return a * r * g; }, x, gain);
}

}  // namespace graphllm
