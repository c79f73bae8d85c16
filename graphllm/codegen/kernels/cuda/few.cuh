// Products of few rows: every row of weights is read once, in 16-byte loads, and multiplied with all rows of activations.
//
// The first weights are asked for before the kernel waits for those ahead of it, so that memory is busy while they end.
// From then on DEPTH * ROWS chunks of each lane are on their way at any time.
#pragma once

#include "step.cuh"
#include "team.cuh"
#include "weights.cuh"

namespace graphllm {

constexpr int WARPS = 8;
constexpr int THREADS = WARPS * WARP;

// Finished columns in shared memory: ``piece`` floats from the gate's to those of up.
struct Tile {
    float* rows;
    int ld, piece, first;
    __device__ float* row(int t) const { return rows + (first + t) * ld; }
};

// What is done to rows of activations first.
struct AsTheyAre {
    static constexpr bool NORM = false;
    __device__ float gain(int) const { return 1.0f; }
    static constexpr float eps = 0;
};
struct Norm {
    static constexpr bool NORM = true;
    const float* gains;
    float eps;
    __device__ float gain(int i) const { return gains[i]; }
};

// T rows; a block has UNIT columns of each of PIECES pieces of the product. Warps share a row of weights by SPLIT.
template <int T, int UNIT, int PIECES, int ROWS, int SPLIT, int DEPTH>
struct Few {
    static constexpr int COLUMNS = UNIT * PIECES;
    static constexpr int PASS = WARPS / SPLIT * ROWS;  // rows of weights at a time
    static constexpr int PASSES = (COLUMNS + PASS - 1) / PASS;
};

// Activation rows into planes, times the norm's gain; factor[t] is what their products are still to be multiplied by.
template <int PER, class Source, class Lead>
__device__ inline void stage_rows(const Source& source, const Lead& lead, bool round, int rows, int k, float* x,
                                  float* factor, float* room) {
    const int ld = Planes<PER>::floats(k), plane = ld / Planes<PER>::COUNT;
    for (int t = 0; t < rows; ++t) {
        const auto* from = source(t);
        float squares = 0;
        for (int i = threadIdx.x; i < ld; i += THREADS) {
            const float v = i < k ? to_float(from[i]) : 0.0f;
            squares = fmaf(v, v, squares);
            x[t * ld + Planes<PER>::place(i, plane)] = Lead::NORM && i < k ? v * lead.gain(i) : v;
        }
        if (!Lead::NORM) continue;
        const float r = 1.0f / sqrtf(by_block::block_sum(squares, room) / float(k) + lead.eps);
        if (threadIdx.x == 0) factor[t] = round ? 1.0f : r;
        if (round)
            for (int i = threadIdx.x; i < ld; i += THREADS) x[t * ld + i] *= r;  // each thread its own, wherever they lie
    }
}

// Rounds staged rows to bf16, as the IR says of some.
__device__ inline void round_rows(float* x, int n) {
    for (int i = threadIdx.x; i < n; i += THREADS) x[i] = to_float(from_float<bf16>(x[i]));
}

__device__ constexpr int few_floats(int t, int columns, int split, int x) {
    return x + up(t, 4) + BLOCK_ROOM + t * columns * (split > 1 ? split + 1 : 1);
}

// y = x @ w.T for the columns of this block; ``finish`` takes them row by row, a warp each.
//
// Shared memory: few_floats(T, COLUMNS, SPLIT, T * Planes<PER>::floats(k)).
template <int T, int UNIT, int PIECES, int ROWS, int SPLIT, int DEPTH, bool ROUND = false, class Weights, class Live,
          class Source, class Lead, class Finish>
__device__ inline void linear_few(const Weights& weights, int n, const Live& live_rows, const Source& source,
                                  const Lead& lead, const Finish& finish, unsigned char* shared) {
    using Shape = Few<T, UNIT, PIECES, ROWS, SPLIT, DEPTH>;
    constexpr int PER = Weights::PER, STRIDE = WARP * SPLIT;
    const int u = blockIdx.x, chunks = weights.chunks();
    const int steps = (chunks + STRIDE * DEPTH - 1) / (STRIDE * DEPTH);
    const int part = warp_index() % SPLIT, group = warp_index() / SPLIT;
    const auto column = [=](int pass, int r) { return pass * Shape::PASS + group * ROWS + r; };
    const auto row_of = [=](int pass, int r) -> long long {  // of weights; behind the end any will do
        const int i = column(pass, r) < Shape::COLUMNS ? column(pass, r) : Shape::COLUMNS - 1;
        const int j = u * UNIT + i % UNIT;
        return (long long)(i / UNIT) * n + (j < n ? j : n - 1);
    };
    typename Weights::Held held[DEPTH][ROWS];
    const auto fetch = [&](int d, int pass, int step) {
        const int c = (step * DEPTH + d) * STRIDE + part * WARP + lane_index();
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
            held[d][r] = c < chunks ? weights.load(row_of(pass, r), c) : typename Weights::Held{};
    };
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) fetch(d, 0, 0);
    let_consumers_start();
    wait_for_producers();

    const int ld = Planes<PER>::floats(weights.k), plane = ld / Planes<PER>::COUNT;
    const int live = T == 1 ? 1 : int(live_rows) < T ? int(live_rows) : T;
    float *x = reinterpret_cast<float*>(shared), *factor = x + T * ld, *room = factor + up(T, 4);
    float *tile = room + BLOCK_ROOM, *parts = tile + T * Shape::COLUMNS;
    stage_rows<PER>(source, lead, ROUND, live, weights.k, x, factor, room);
    if (ROUND) {
        sync_block();
        round_rows(x, live * ld);
    }
    for (int i = live * ld + threadIdx.x; i < T * ld; i += THREADS) x[i] = 0;
    sync_block();

#pragma unroll 1
    for (int pass = 0; pass < Shape::PASSES; ++pass) {
        float sums[ROWS][T] = {};
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            const bool on = step + 1 < steps, more = on || pass + 1 < Shape::PASSES;
#pragma unroll
            for (int d = 0; d < DEPTH; ++d) {
                typename Weights::Held now[ROWS];
#pragma unroll
                for (int r = 0; r < ROWS; ++r) now[r] = held[d][r];
                if (more) fetch(d, on ? pass : pass + 1, on ? step + 1 : 0);
                const int c = (step * DEPTH + d) * STRIDE + part * WARP + lane_index();
                if (c >= chunks) continue;
#pragma unroll
                for (int t = 0; t < T; ++t)
#pragma unroll
                    for (int r = 0; r < ROWS; ++r) sums[r][t] += weights.dot(now[r], x + t * ld + c * 4, plane);
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int t = 0; t < T; ++t) {
                const float sum = warp_sum(sums[r][t]);
                const int i = column(pass, r);
                if (lane_index() != 0 || i >= Shape::COLUMNS || t >= live) continue;
                if (SPLIT == 1)
                    tile[t * Shape::COLUMNS + i] = Lead::NORM ? sum * factor[t] : sum;
                else
                    parts[(part * T + t) * Shape::COLUMNS + i] = sum;
            }
    }
    sync_block();
    if (SPLIT > 1) {
#pragma unroll 1
        for (int i = threadIdx.x; i < live * Shape::COLUMNS; i += THREADS) {
            float sum = 0;
            for (int p = 0; p < SPLIT; ++p) sum += parts[p * T * Shape::COLUMNS + i];
            tile[i] = Lead::NORM ? sum * factor[i / Shape::COLUMNS] : sum;
        }
        sync_block();
    }
    const int count = n - u * UNIT < UNIT ? n - u * UNIT : UNIT;
#pragma unroll 1
    for (int t = warp_index(); t < live; t += WARPS) finish(Tile{tile, Shape::COLUMNS, UNIT, t}, u, count, t, t + 1);
}

}  // namespace graphllm
