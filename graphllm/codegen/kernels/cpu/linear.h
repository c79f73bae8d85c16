// The driver of a matrix product with what comes before and after it. Rows of weights are cut into units; each thread
// computes its units for all rows and hands every finished tile to ``finish`` while it is still in cache.
//
//   source(t, room) -> const float*            activation row t, where it lies or computed into ``room`` [K]
//   finish(tile, u, count, t0, t1)             rows t0 … t1 of unit u: piece p of row t at tile + (p*(t1-t0) + t-t0) * unit
#pragma once

#include "gemm.h"
#include "step.h"

namespace graphllm {

// ``count`` matrices, of one shape, one below the other: gate and up.
struct Pieces {
    int count, rows;
};

constexpr int FEW = 8;  // rows that a pass over the weights serves without packing them

// Private bytes of a thread. The generator asks for the most that any kernel needs.
constexpr long few_bytes(int k, int pieces, int unit) {
    return 4L * FEW * ((k + LANES - 1) / LANES * LANES + long(pieces) * unit);
}
constexpr long many_bytes(int k, int most, int pieces, int unit) {
    return 4L * (DEPTH * (PANEL + 1) + k + long(pieces) * most * unit);
}

template <class W, class Source, class Finish>
inline void linear_few(const Step& step, const W& weights, int rows, Pieces pieces, int unit, int units, int last,
                       Source source, Finish finish) {
    const Range mine = step.share(units);
    if (mine.first == mine.last) return;
    const int k = weights.k, ldx = (k + LANES - 1) / LANES * LANES;
    float* x = reinterpret_cast<float*>(step.scratch);
    float* tile = x + FEW * ldx;
    for (int t = 0; t < rows; ++t) {  // every thread for itself: that is less work than waiting for another's
        const float* row = source(t, x + t * ldx);
        if (row != x + t * ldx) std::memcpy(x + t * ldx, row, k * sizeof(float));
    }
    for (int u = mine.first; u < mine.last; ++u) {
        const int count = u == units - 1 ? last : unit;
        for (int p = 0; p < pieces.count; ++p) {
            const long n0 = long(p) * pieces.rows + long(u) * unit;
            float* out = tile + p * rows * unit;
            switch (rows) {
                case 1: weights.template few<1>(n0, count, x, ldx, out, unit); break;
                case 2: weights.template few<2>(n0, count, x, ldx, out, unit); break;
                default:
                    for (int t = 0; t < rows; t += 4) {
                        const int at = rows - t >= 4 || rows < 4 ? t : rows - 4;  // rows computed twice are the same
                        if (rows < 4) {
                            weights.template few<3>(n0, count, x, ldx, out, unit);
                        } else {
                            weights.template few<4>(n0, count, x + at * ldx, ldx, out + at * unit, unit);
                        }
                    }
            }
        }
        finish(tile, u, count, 0, rows);
    }
}

// ``shared`` has room for all rows, arranged: [ceil(K / DEPTH)][rows][DEPTH].
template <class W, class Source, class Finish>
inline void linear_many(const Step& step, const W& weights, int rows, Pieces pieces, int unit, int units, int last,
                        Source source, Finish finish, float* shared) {
    const int k = weights.k;
    float* room = reinterpret_cast<float*>(step.scratch);
    float *row = room + DEPTH * (PANEL + 1), *tile = row + k;
    const Range some = step.share(rows);
    for (int t = some.first; t < some.last; ++t) arrange(source(t, row), k, t, rows, shared);
    step.wait();
    const Range mine = step.share(units);
    for (int u = mine.first; u < mine.last; ++u) {
        const int count = u == units - 1 ? last : unit;
        for (int p = 0; p < pieces.count; ++p) {
            const long n0 = long(p) * pieces.rows + long(u) * unit;
            many(weights, n0, count, shared, rows, tile + long(p) * rows * unit, unit, room);
        }
        finish(tile, u, count, 0, rows);
    }
}

}  // namespace graphllm
