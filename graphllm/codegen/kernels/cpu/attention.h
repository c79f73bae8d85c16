// Causal grouped-query attention over a cache [B,K,S,d]: every query head of a group reads a key, and a value, once.
#pragma once

#include "linear.h"

namespace graphllm {

struct Heads {
    int queries, keys, context;  // H, K and S
};

// A cache of int8 rows, and the scale of each.
struct Rounded {
    const int8_t* rows;
    const float* scales;
};

template <class S>
inline const S* rows_of(const S* cache) {
    return cache;
}
inline const int8_t* rows_of(Rounded cache) { return cache.rows; }

// x[j] *= the scale of row first + j, if the cache has any; n of them.
template <class S>
inline void rescale(float*, const S*, long, int) {}
inline void rescale(float* x, Rounded cache, long first, int n) { mul(x, cache.scales + first, n, x); }

constexpr int BLOCK = 64;  // keys that the heads of a group score one after the other

// Private bytes of a thread.
constexpr long attention_bytes(Heads h) {
    return 4L * (h.queries / h.keys) * ((h.context + LANES - 1) / LANES * LANES);
}

// Heads of at most half a vector, and of a size that divides it, share one with those of other positions.
template <int D>
constexpr int together() {
    return D < LANES && LANES % D == 0 ? LANES / D : 1;
}

template <int D, class S>
inline float dot(const float* a, const S* b) {
    VF sums[2] = {};
    int i = 0;
    for (; i + 2 * LANES <= D; i += 2 * LANES) {
        sums[0] += load(a + i) * load(b + i);
        sums[1] += load(a + i + LANES) * load(b + i + LANES);
    }
    for (; i < D; i += LANES) {
        const int left = D - i < LANES ? D - i : LANES;
        sums[0] += left < LANES ? load_part(a + i, left) * load_part(b + i, left) : load(a + i) * load(b + i);
    }
    return sum(sums[0] + sums[1]);
}

// scores[j] = scale * query . key j, j < n.
template <int D, class S>
inline void score(const float* query, const S* keys, int n, float scale, float* scores) {
    constexpr int P = together<D>();
    int j = 0;
    if (P > 1) {
        float repeated[LANES];
        for (int l = 0; l < LANES; ++l) repeated[l] = query[l % D];
        const VF q = load(repeated);
        for (; j + P <= n; j += P) {
            const VF products = q * load(keys + long(j) * D);
            for (int p = 0; p < P; ++p) {
                float s = 0;
                for (int e = 0; e < D; ++e) s += products[p * D + e];
                scores[j + p] = s * scale;
            }
        }
    }
    for (; j < n; ++j) scores[j] = dot<D>(query, keys + long(j) * D) * scale;
}

// y [D] = the values' mean under n probabilities.
template <int D, class S>
inline void mix(const float* probabilities, const S* values, int n, float* y) {
    constexpr int P = together<D>(), V = (D + LANES - 1) / LANES, TAIL = D % LANES;
    int j = 0;
    VF sums[V] = {};
    if (P > 1) {
        VF shared = {};
        for (; j + P <= n; j += P) {
            VF weights;
            for (int l = 0; l < LANES; ++l) weights[l] = probabilities[j + l / D];
            shared += weights * load(values + long(j) * D);
        }
        for (int l = 0; l < LANES; ++l) sums[0][l % D] += shared[l];
    }
    for (; j < n; ++j) {
        const VF p = all(probabilities[j]);
        const S* value = values + long(j) * D;
        for (int v = 0; v < V; ++v) {
            const bool part = TAIL != 0 && v == V - 1;
            sums[v] += p * (part ? load_part(value + v * LANES, TAIL) : load(value + v * LANES));
        }
    }
    for (int v = 0; v < V; ++v) {
        if (TAIL != 0 && v == V - 1)
            store_part(y + v * LANES, sums[v], TAIL);
        else
            store(y + v * LANES, sums[v]);
    }
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

// y [T,H,D] of rows q [T,H,D]. Row t sees positions up to its own, at most ``window`` of them unless that is 0.
template <int D, class Cache>
inline void attention(const Step& step, const float* q, Cache keys, Cache values, float* y, int rows, Heads heads,
                      float scale, int window) {
    const int group = heads.queries / heads.keys;
    const int ld = (heads.context + LANES - 1) / LANES * LANES;
    float* scores = reinterpret_cast<float*>(step.scratch);
    const Range mine = step.share(rows * heads.keys);
    for (int i = mine.first; i < mine.last; ++i) {
        const int t = i / heads.keys, head = i % heads.keys, position = step.pos[t];
        const int first = window > 0 && position + 1 > window ? position + 1 - window : 0, n = position + 1 - first;
        const long row = (long(step.slot[t]) * heads.keys + head) * heads.context + first, at = row * D;
        const float* query = q + (long(t) * heads.queries + head * group) * D;
        float* out = y + (long(t) * heads.queries + head * group) * D;
        // keys and values of a group's heads come from memory once: blocks of them stay in the first-level cache
        for (int j = 0; j < n; j += BLOCK)
            for (int h = 0; h < group; ++h)
                score<D>(query + h * D, rows_of(keys) + at + long(j) * D, n - j < BLOCK ? n - j : BLOCK, scale, scores + h * ld + j);
        for (int h = 0; h < group; ++h) {
            rescale(scores + h * ld, keys, row, n);
            softmax(scores + h * ld, n);
            rescale(scores + h * ld, values, row, n);
            mix<D>(scores + h * ld, rows_of(values) + at, n, out + h * D);
        }
    }
}

}  // namespace graphllm
