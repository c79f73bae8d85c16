// Causal grouped-query attention over a cache [B,K,S,d]: every query head of a group reads a key, and a value, once.
#pragma once

#include "linear.h"

namespace graphllm {

struct Heads {
    int queries, keys, size, context;  // H, K, d and S
};

// Private bytes of a thread.
constexpr long attention_bytes(Heads h) {
    return 4L * (h.queries / h.keys) * ((h.context + LANES - 1) / LANES * LANES + 2 * LANES + (h.size + LANES - 1) / LANES * LANES);
}

template <class S>
inline float dot(const float* a, const S* b, int n) {
    VF sums[2] = {};
    int i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        sums[0] += load(a + i) * load(b + i);
        sums[1] += load(a + i + LANES) * load(b + i + LANES);
    }
    for (; i < n; i += LANES) {
        const int left = n - i < LANES ? n - i : LANES;
        sums[0] += left < LANES ? load_part(a + i, left) * load_part(b + i, left) : load(a + i) * load(b + i);
    }
    return sum(sums[0] + sums[1]);
}

// y += p * v.
template <class S>
inline void accumulate(float p, const S* v, int n, float* y) {
    for_lanes(n, y, [p](VF a, VF b) { return a + b * p; }, static_cast<const float*>(y), v);
}

// Scores to probabilities, in place; n of them.
inline void softmax(float* x, int n) {
    float most = x[0];
    for (int i = 1; i < n; ++i) most = x[i] > most ? x[i] : most;
    for_lanes(n, x, [most](VF a) { return exp(a - most); }, static_cast<const float*>(x));
    VF sums = {};
    int i = 0;
    for (; i + LANES <= n; i += LANES) sums += load(x + i);
    if (i < n) sums += load_part(x + i, n - i);
    const float r = 1.0f / sum(sums);
    for_lanes(n, x, [r](VF a) { return a * r; }, static_cast<const float*>(x));
}

// y [T,H,d] of rows q [T,H,d]. Row t sees positions up to its own, at most ``window`` of them unless that is 0.
template <class S>
inline void attention(const Step& step, const float* q, const S* keys, const S* values, float* y, int rows, Heads heads,
                      float scale, int window) {
    const int d = heads.size, group = heads.queries / heads.keys;
    const int ld = (heads.context + LANES - 1) / LANES * LANES;
    float* scores = reinterpret_cast<float*>(step.scratch);
    const Range mine = step.share(rows * heads.keys);
    for (int i = mine.first; i < mine.last; ++i) {
        const int t = i / heads.keys, head = i % heads.keys, position = step.pos[t];
        const int first = window > 0 && position + 1 > window ? position + 1 - window : 0, n = position + 1 - first;
        const long at = ((long(step.slot[t]) * heads.keys + head) * heads.context + first) * d;
        const float* query = q + (long(t) * heads.queries + head * group) * d;
        float* out = y + (long(t) * heads.queries + head * group) * d;
        for (int j = 0; j < n; ++j)
            for (int h = 0; h < group; ++h) scores[h * ld + j] = dot(query + h * d, keys + at + long(j) * d, d) * scale;
        for (int h = 0; h < group; ++h) softmax(scores + h * ld, n);
        std::memset(out, 0, sizeof(float) * group * d);
        for (int j = 0; j < n; ++j)
            for (int h = 0; h < group; ++h) accumulate(scores[h * ld + j], values + at + long(j) * d, d, out + h * d);
    }
}

}  // namespace graphllm
