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

// out[r][0 … 32) += x[r] . panel, for R rows.
template <int R>
inline void block(const float* const* x, int depth, const float* panel, float* out, int ld, int count) {
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
            sums[r][0] += a * x[r][k];
            sums[r][1] += b * x[r][k];
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

// out[t*ld + i] = row t . weight row n0 + i, i < count; ``room`` has DEPTH * (PANEL + 1) floats.
template <class W>
inline void many(const W& weights, long n0, int count, const float* const* x, int rows, float* out, int ld, float* room) {
    float* panel = room + DEPTH;
    for (int t = 0; t < rows; ++t) std::memset(out + long(t) * ld, 0, count * sizeof(float));
    for (int j = 0; j < count; j += PANEL) {
        const int columns = count - j < PANEL ? count - j : PANEL;
        for (int k = 0; k < weights.k; k += DEPTH) {
            const int depth = weights.k - k < DEPTH ? weights.k - k : DEPTH;
            pack(weights, n0 + j, columns, k, depth, panel, room);
            const float* at[6];
            int t = 0;
            for (; t + 6 <= rows; t += 6) {
                for (int r = 0; r < 6; ++r) at[r] = x[t + r] + k;
                block<6>(at, depth, panel, out + long(t) * ld + j, ld, columns);
            }
            for (; t < rows; ++t) {
                at[0] = x[t] + k;
                block<1>(at, depth, panel, out + long(t) * ld + j, ld, columns);
            }
        }
    }
}

}  // namespace graphllm
