// Rows of n floats, element by element. ``y`` may be ``x``.
#pragma once

#include <type_traits>

#include "simd.h"

namespace graphllm {

// y[i] = f(a[i], b[i], …), sixteen at a time.
template <class F, class... X>
inline void for_lanes(int n, float* y, F f, const X*... x) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) store(y + i, f(load(x + i)...));
    if (i < n) store_part(y + i, f(load_part(x + i, n - i)...), n - i);
}

inline void add(const float* a, const float* b, int n, float* y) {
    for_lanes(n, y, [](VF p, VF q) { return p + q; }, a, b);
}

inline void mul(const float* a, const float* b, int n, float* y) {
    for_lanes(n, y, [](VF p, VF q) { return p * q; }, a, b);
}

inline VF silu(VF x) { return x / (exp(-x) + 1.0f); }

inline void silu(const float* x, int n, float* y) {
    for_lanes(n, y, [](VF p) { return silu(p); }, x);
}

inline void swiglu(const float* gate, const float* up, int n, float* y) {
    for_lanes(n, y, [](VF p, VF q) { return silu(p) * q; }, gate, up);
}

template <class S>
inline void copy(const S* x, int n, S* y) {
    std::memmove(y, x, n * sizeof(S));
}

template <class S>
inline void narrow(const float* x, int n, S* y) {
    int i = 0;
#if !defined(GRAPHLLM_PORTABLE) && defined(__F16C__)
    if constexpr (std::is_same<S, f16>::value)
        for (; i + 8 <= n; i += 8) {
            const __m128i eight = _mm256_cvtps_ph(read<__m256>(x + i), _MM_FROUND_TO_NEAREST_INT);
            std::memcpy(y + i, &eight, sizeof eight);
        }
#endif
    for (; i < n; ++i) from_float(x[i], y[i]);
}

}  // namespace graphllm
