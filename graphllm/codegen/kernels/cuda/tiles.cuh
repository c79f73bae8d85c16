// Products of many rows in f32, a tile of the result at a time: for what the tensor cores have no exact way to compute.
//
// Activations may be staged in memory first, by a launch of its own, so that no tile has to norm or round a row again.
#pragma once

#include "integer.cuh"

namespace graphllm {

// A row of activations by a block: normed, and rounded to bf16 where the IR says so. Shared memory: BLOCK_ROOM floats.
template <bool ROUND, class S, class Lead>
__device__ inline void stage_row(const S* from, const Lead& lead, int k, float* to, unsigned char* shared) {
    float* room = reinterpret_cast<float*>(shared);
    float r = 1.0f;
    if (Lead::NORM) {
        float squares = 0;
        for (int i = threadIdx.x; i < k; i += blockDim.x) {
            const float v = to_float(from[i]);
            squares = fmaf(v, v, squares);
        }
        r = 1.0f / sqrtf(by_block::block_sum(squares, room) / float(k) + lead.eps);
    }
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        const float v = Lead::NORM ? to_float(from[i]) * r * lead.gain(i) : to_float(from[i]);
        to[i] = ROUND ? to_float(from_float<bf16>(v)) : v;
    }
}

// The same, rounded to int8 groups of G and widened again. Shared memory: BLOCK_ROOM + k floats.
template <int G, class S, class Lead>
__device__ inline void stage_integers(const S* from, const Lead& lead, int k, float* to, unsigned char* shared) {
    float* wide = reinterpret_cast<float*>(shared) + BLOCK_ROOM;
    stage_row<false>(from, lead, k, wide, shared);
    sync_block();
    for (int g = warp_index(); g * G < k; g += warp_count()) {
        const int n = k - g * G < G ? k - g * G : G;
        const float* x = wide + g * G;
        float most = 0;
        for (int i = lane_index(); i < n; i += WARP) {
            const float size = fabsf(x[i]);
            most = most > size || most != most ? most : size;
        }
        const float scale = warp_max(most) / 127.0f;
        for (int i = lane_index(); i < n; i += WARP) to[g * G + i] = float(by_warp::rounded(x[i], scale)) * scale;
    }
}

constexpr int TILE_T = 32;  // rows of activations in a tile
constexpr int TILE_K = 16;

__device__ constexpr int tiles_floats(int columns) {
    return TILE_K * (columns + 1 + TILE_T + 1) + TILE_T * columns;
}

// Block (u, b): UNIT columns of each of PIECES pieces, rows b * TILE_T …. ``source`` gives f32 rows.
template <int UNIT, int PIECES, class Weights, class Live, class Source, class Finish>
__device__ inline void linear_tiles(const Weights& weights, int n, const Live& live_rows, const Source& source,
                                    const Finish& finish, unsigned char* shared) {
    constexpr int COLUMNS = UNIT * PIECES, DOWN = THREADS / 8, ACROSS = 8;
    constexpr int M = (COLUMNS + DOWN - 1) / DOWN, N = TILE_T / ACROSS;  // results of a thread
    let_consumers_start();
    wait_for_producers();
    const int u = blockIdx.x, t0 = blockIdx.y * TILE_T, k = weights.k, live = live_rows;
    if (t0 >= live) return;
    float* w = reinterpret_cast<float*>(shared);  // [TILE_K, COLUMNS + 1]
    float* x = w + TILE_K * (COLUMNS + 1);        // [TILE_K, TILE_T + 1]
    float* tile = x + TILE_K * (TILE_T + 1);      // [TILE_T, COLUMNS]
    const int down = threadIdx.x % DOWN, across = threadIdx.x / DOWN;
    float sums[M][N] = {};
#pragma unroll 1
    for (int k0 = 0; k0 < k; k0 += TILE_K) {
        for (int i = threadIdx.x; i < COLUMNS * TILE_K; i += THREADS) {
            const int column = i / TILE_K, kk = k0 + i % TILE_K, j = u * UNIT + column % UNIT;
            const long long row = (long long)(column / UNIT) * n + (j < n ? j : n - 1);
            w[i % TILE_K * (COLUMNS + 1) + column] = kk < k ? weights.at(row, kk) : 0.0f;
        }
        for (int i = threadIdx.x; i < TILE_T * TILE_K; i += THREADS) {
            const int t = t0 + i / TILE_K, kk = k0 + i % TILE_K;
            x[i % TILE_K * (TILE_T + 1) + i / TILE_K] = t < live && kk < k ? to_float(source(t)[kk]) : 0.0f;
        }
        sync_block();
#pragma unroll
        for (int kk = 0; kk < TILE_K; ++kk) {
            float b[N];
#pragma unroll
            for (int j = 0; j < N; ++j) b[j] = x[kk * (TILE_T + 1) + across + j * ACROSS];
#pragma unroll
            for (int i = 0; i < M; ++i) {
                const int column = down + i * DOWN;
                const float a = column < COLUMNS ? w[kk * (COLUMNS + 1) + column] : 0.0f;
#pragma unroll
                for (int j = 0; j < N; ++j) sums[i][j] = fmaf(a, b[j], sums[i][j]);
            }
        }
        sync_block();
    }
#pragma unroll
    for (int i = 0; i < M; ++i)
#pragma unroll
        for (int j = 0; j < N; ++j)
            if (down + i * DOWN < COLUMNS) tile[(across + j * ACROSS) * COLUMNS + down + i * DOWN] = sums[i][j];
    sync_block();
    const int count = n - u * UNIT < UNIT ? n - u * UNIT : UNIT, rows = live - t0 < TILE_T ? live - t0 : TILE_T;
#pragma unroll 1
    for (int t = warp_index(); t < rows; t += WARPS) finish(Tile{tile, COLUMNS, UNIT, t}, u, count, t0 + t, t0 + t + 1);
}

}  // namespace graphllm
