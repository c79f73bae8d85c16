// Causal grouped-query attention of a prompt's rows, which are successive positions of one sequence: a block has one query
// head and a tile of rows, and reads each tile of keys and values once for all of them.
#pragma once

#include "attention.cuh"

namespace graphllm {

constexpr int MANY_THREADS = 256;

// Rows of queries in a tile: fewer where heads are so wide that shared memory would not hold them.
__device__ constexpr int tile_queries(int d) { return d > 128 ? 16 : 32; }
__device__ constexpr int attention_many_floats(int d) {
    return tile_queries(d) * (2 * d + 1 + KEYS + 3) + KEYS * (d + 1);
}

// y [T,H,D] of rows q [T,H,D]. Block (head, tile of rows).
template <int D, class Cache>
__device__ inline void attention_many(const Step& step, const float* q, const Cache& keys, const Cache& values, float* y,
                                      const Heads& heads, float scale, int window, unsigned char* shared) {
    constexpr int ROWS = tile_queries(D);
    let_consumers_start();
    wait_for_producers();
    const int live = step.live, t0 = blockIdx.y * ROWS, h = blockIdx.x;
    if (t0 >= live) return;
    const int rows = live - t0 < ROWS ? live - t0 : ROWS, start = step.pos[0] + t0;
    const auto first_of = [=](int p) { return window > 0 && p >= window ? p + 1 - window : 0; };
    const long long cache = ((long long)step.slot[0] * heads.keys + h / (heads.queries / heads.keys)) * heads.context;

    float *query = reinterpret_cast<float*>(shared), *out = query + ROWS * (D + 1), *tile = out + ROWS * D;
    float *scores = tile + KEYS * (D + 1), *most = scores + ROWS * KEYS, *total = most + ROWS, *fade = total + ROWS;
    for (int i = threadIdx.x; i < ROWS * D; i += MANY_THREADS) {
        const int r = i / D, e = i % D;
        query[r * (D + 1) + e] = r < rows ? q[((long long)(t0 + r) * heads.queries + h) * D + e] * scale : 0.0f;
        out[i] = 0;
    }
    for (int r = threadIdx.x; r < ROWS; r += MANY_THREADS) {
        most[r] = LOWEST;
        total[r] = 0;
    }
    // Tiles are cut at multiples of KEYS, whatever the rows: so a row's rounding does not depend on its neighbours.
    for (int j0 = first_of(start) / KEYS * KEYS; j0 < start + rows; j0 += KEYS) {
        const int n = start + rows - j0 < KEYS ? start + rows - j0 : KEYS;
        tile_of<D, D + 1>(keys, cache + j0, n, tile);
        sync_block();
        for (int i = threadIdx.x; i < ROWS * KEYS; i += MANY_THREADS) {
            const int j = i % KEYS, r = i / KEYS, p = start + r;
            float sum = LOWEST;
            if (r < rows && j0 + j <= p && j0 + j >= first_of(p)) {
                sum = 0;
                for (int e = 0; e < D; ++e) sum = fmaf(query[r * (D + 1) + e], tile[j * (D + 1) + e], sum);
            }
            scores[i] = sum;
        }
        sync_block();
        for (int r = warp_index(); r < rows; r += MANY_THREADS / WARP) {
            const float score = scores[r * KEYS + lane_index()];
            const int at = j0 + lane_index();
            const bool seen = at <= start + r && at >= first_of(start + r);
            const float before = most[r], now = warp_max(score > before || score != score ? score : before);
            const float p = seen ? expf(score - now) : 0.0f, sum = warp_sum(p);
            scores[r * KEYS + lane_index()] = p;
            if (lane_index() == 0) {
                fade[r] = expf(before - now);
                total[r] = total[r] * fade[r] + sum;
                most[r] = now;
            }
        }
        tile_of<D, D>(values, cache + j0, n, tile);
        sync_block();
        for (int i = threadIdx.x; i < rows * D; i += MANY_THREADS) {
            const int r = i / D, e = i % D;
            const int from = first_of(start + r) - j0, to = start + r + 1 - j0 < n ? start + r + 1 - j0 : n;
            float sum = out[i] * fade[r];
            for (int j = from > 0 ? from : 0; j < to; ++j) sum = fmaf(scores[r * KEYS + j], tile[j * D + e], sum);
            out[i] = sum;
        }
        sync_block();
    }
    for (int i = threadIdx.x; i < rows * D; i += MANY_THREADS)
        y[((long long)(t0 + i / D) * heads.queries + h) * D + i % D] = out[i] / total[i / D];
}

}  // namespace graphllm
