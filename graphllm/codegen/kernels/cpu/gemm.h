// Products of many rows: weights are widened and packed, a block of K at a time, and read once a call.
#pragma once

#include "weights.h"

namespace graphllm {

constexpr int PANEL = 2 * LANES;  // columns of a packed panel
constexpr int DEPTH = 256;        // elements of K in a panel: with 32 columns it fills 32 kB, a first-level cache

// panel[k][j] = weight row n0 + j at k0 + k; columns from ``count`` on are 0.
template <class W>
inline void pack(const W& weights, long n0, int count, int k0, int depth, float* panel, float* room) {
    for (int j = 0; j < PANEL; ++j) {
        if (j < count) {
            weights.widened(n0 + j, k0, depth, room);
            for (int k = 0; k < depth; ++k) panel[k * PANEL + j] = room[k];
        } else {
            for (int k = 0; k < depth; ++k) panel[k * PANEL + j] = 0;
        }
    }
}

// out[r][0 … 32) += x[r] . panel, for R rows of x, DEPTH floats apart.
template <int R>
inline void block(const float* x, int depth, const float* panel, float* out, int ld, int count) {
    VF sums[R][2];
    for (int r = 0; r < R; ++r) {
        sums[r][0] = count >= PANEL ? load(out + r * ld) : load_part(out + r * ld, count < LANES ? count : LANES);
        sums[r][1] = count >= PANEL   ? load(out + r * ld + LANES)
                     : count > LANES  ? load_part(out + r * ld + LANES, count - LANES)
                                      : VF{};
    }
    for (int k = 0; k < depth; ++k) {
        const VF a = load(panel + k * PANEL), b = load(panel + k * PANEL + LANES);
        for (int r = 0; r < R; ++r) {
            sums[r][0] += a * x[r * DEPTH + k];
            sums[r][1] += b * x[r * DEPTH + k];
        }
    }
    for (int r = 0; r < R; ++r) {
        if (count >= PANEL) {
            store(out + r * ld, sums[r][0]);
            store(out + r * ld + LANES, sums[r][1]);
        } else {
            store_part(out + r * ld, sums[r][0], count < LANES ? count : LANES);
            if (count > LANES) store_part(out + r * ld + LANES, sums[r][1], count - LANES);
        }
    }
}

// Row t as ``many`` reads it: [k / DEPTH][t][k % DEPTH]. Rows a power of two apart would fall on one set of a cache.
inline void arrange(const float* x, int k, int t, int rows, float* to) {
    for (int at = 0; at < k; at += DEPTH)
        std::memcpy(to + (long(at) * rows + long(t) * DEPTH), x + at, sizeof(float) * (k - at < DEPTH ? k - at : DEPTH));
}

// out[t*ld + i] = row t . weight row n0 + i, i < count; x as arranged; ``room`` has DEPTH * (PANEL + 1) floats.
template <class W>
inline void many(const W& weights, long n0, int count, const float* x, int rows, float* out, int ld, float* room) {
    float* panel = room + DEPTH;
    for (int t = 0; t < rows; ++t) std::memset(out + long(t) * ld, 0, count * sizeof(float));
    for (int j = 0; j < count; j += PANEL) {
        const int columns = count - j < PANEL ? count - j : PANEL;
        for (int k = 0; k < weights.k; k += DEPTH) {
            const int depth = weights.k - k < DEPTH ? weights.k - k : DEPTH;
            pack(weights, n0 + j, columns, k, depth, panel, room);
            const float* at = x + long(k) * rows;
            int t = 0;
            for (; t + 6 <= rows; t += 6)
                block<6>(at + long(t) * DEPTH, depth, panel, out + long(t) * ld + j, ld, columns);
            for (; t < rows; ++t) block<1>(at + long(t) * DEPTH, depth, panel, out + long(t) * ld + j, ld, columns);
        }
    }
}

}  // namespace graphllm
