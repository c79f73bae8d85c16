// No #pragma once: team.cuh includes this twice.
// Rows of n floats, by a team; included once for each kind of team. ``y`` may be ``x``. When a function returns, what it
// has written is there for the whole team.

template <class F>
__device__ inline void for_each(int n, F f) {
#pragma unroll TEAM_UNROLL
    for (int i = team_index(); i < n; i += team_size()) f(i);
    team_sync();
}

__device__ inline void add(const float* a, const float* b, int n, float* y) {
    for_each(n, [=](int i) { y[i] = a[i] + b[i]; });
}

__device__ inline void mul(const float* a, const float* b, int n, float* y) {
    for_each(n, [=](int i) { y[i] = a[i] * b[i]; });
}

__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }

__device__ inline void silu(const float* x, int n, float* y) {
    for_each(n, [=](int i) { y[i] = silu(x[i]); });
}

__device__ inline void swiglu(const float* gate, const float* up, int n, float* y) {
    for_each(n, [=](int i) { y[i] = silu(gate[i]) * up[i]; });
}

template <class S>
__device__ inline void copy(const S* x, int n, S* y) {
    for_each(n, [=](int i) { y[i] = x[i]; });
}

template <class S>
__device__ inline void widen(const S* x, int n, float* y) {
    for_each(n, [=](int i) { y[i] = to_float(x[i]); });
}

template <class S>
__device__ inline void narrow(const float* x, int n, S* y) {
    for_each(n, [=](int i) { y[i] = from_float<S>(x[i]); });
}

// int8 groups: the first one starts at ``q``, the last one may be short.
template <class S>
__device__ inline void dequantize(const int8_t* q, const S* scale, int n, int group, float* y) {
    for_each(n, [=](int i) { y[i] = float(q[i]) * to_float(scale[i / group]); });
}

// Root mean square norm (Zhang and Sennrich 2019, arXiv:1910.07467).
__device__ inline void rmsnorm(const float* x, const float* gain, int n, float eps, float* y) {
    float squares = 0;
#pragma unroll TEAM_UNROLL
    for (int i = team_index(); i < n; i += team_size()) squares += x[i] * x[i];
    const float r = 1.0f / sqrtf(team_sum(squares) / float(n) + eps);
    for_each(n, [=](int i) { y[i] = x[i] * r * gain[i]; });
}

// turn[i] = scale * (cos, sin) of position * freqs[i] (Su et al. 2021, arXiv:2104.09864).
__device__ inline void rotation(int position, const float* freqs, int pairs, float scale, float* turn) {
#pragma unroll 1
    for (int i = team_index(); i < pairs; i += team_size()) {
        float sine, cosine;
        sincosf(float(position) * freqs[i], &sine, &cosine);
        turn[2 * i] = scale * cosine;
        turn[2 * i + 1] = scale * sine;
    }
    team_sync();
}

// Pairs (x[2i], x[2i+1]) of d elements.
__device__ inline void rope_interleaved(const float* x, const float* turn, int d, float* y) {
    for_each(d / 2, [=](int i) {
        const float u = x[2 * i], v = x[2 * i + 1], c = turn[2 * i], s = turn[2 * i + 1];
        y[2 * i] = u * c - v * s;
        y[2 * i + 1] = u * s + v * c;
    });
}

// Pairs (x[i], x[i+d/2]) of a whole head.
__device__ inline void rope_half(const float* x, const float* turn, int d, float* y) {
    const int half = d / 2;
    for_each(half, [=](int i) {
        const float u = x[i], v = x[i + half], c = turn[2 * i], s = turn[2 * i + 1];
        y[i] = u * c - v * s;
        y[i + half] = u * s + v * c;
    });
}

// x / scale as int8, to nearest even; 0 where that is no number.
__device__ inline int8_t rounded(float x, float scale) {
    const float q = rintf(x / scale);
    if (!(q - q == 0.0f)) return 0;
    return static_cast<int8_t>(q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q);
}

// A group of n elements as int8; its scale, the largest magnitude / 127, which is NaN if one is.
__device__ inline float round_group(const float* x, int n, int8_t* q) {
    float most = 0;
#pragma unroll TEAM_UNROLL
    for (int i = team_index(); i < n; i += team_size()) {
        const float size = fabsf(x[i]);
        most = most > size || most != most ? most : size;
    }
    const float scale = team_max(most) / 127.0f;
    for_each(n, [=](int i) { q[i] = rounded(x[i], scale); });
    return scale;
}

// Groups of n elements, each under a scale of its own; the last may be short.
__device__ inline void quantize(const float* x, int n, int group, int8_t* q, float* scale) {
#pragma unroll 1
    for (int i = 0; i < n; i += group) {
        const float s = round_group(x + i, n - i < group ? n - i : group, q + i);
        if (team_index() == 0) scale[i / group] = s;
    }
    team_sync();
}

// What the experts of a row gave, x [used,n], each by its share; in their order.
__device__ inline void expert_sum(const float* x, const float* shares, int used, int n, float* y) {
    for_each(n, [=](int i) {
        float sum = x[i] * shares[0];
        for (int u = 1; u < used; ++u) sum += x[(long long)u * n + i] * shares[u];
        y[i] = sum;
    });
}

// A head, or a part of one, into a cache.
template <class S>
__device__ inline void cache_row(const float* x, int d, S* to) {
    narrow(x, d, to);
}
__device__ inline void cache_row(const float* x, int d, int8_t* q, float* scale) {
    const float s = round_group(x, d, q);
    if (team_index() == 0) *scale = s;
}
