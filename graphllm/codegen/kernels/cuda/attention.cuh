// Causal grouped-query attention of rows of any sequences over a cache [B,K,S,d], a tile of keys at a time with a running
// softmax (Milakov and Gimelshein 2018, arXiv:1805.02867).
//
// A block has one row, one head of keys with all query heads that share it, and one chunk of keys. Chunks are always cut at
// the same places, so a row's result depends on its own position alone; the last block of a row to finish adds them up,
// in order.
#pragma once

#include "step.cuh"
#include "team.cuh"
#include "weights.cuh"

namespace graphllm {

constexpr int ATTENTION_THREADS = 128;
constexpr int KEYS = 32;  // in a tile

struct Heads {
    int queries, keys, context;  // H, K and S
};

// A cache of int8 rows, and the scale of each.
struct Rounded {
    const int8_t* rows;
    const float* scales;
};

template <int D, class S>
__device__ inline float element(const S* cache, long long row, int e) {
    return to_float(cache[row * D + e]);
}
template <int D>
__device__ inline float element(Rounded cache, long long row, int e) {
    return float(cache.rows[row * D + e]) * cache.scales[row];
}

// Rows first … first + n of a cache in shared memory, LD floats apart.
template <int D, int LD, class Cache>
__device__ inline void tile_of(const Cache& cache, long long first, int n, float* to) {
    for (int i = threadIdx.x; i < n * D; i += blockDim.x) to[i / D * LD + i % D] = element<D>(cache, first + i / D, i % D);
}

// What one chunk makes of a head: its values so far, running maximum and sum.
__device__ constexpr int part_floats(int d) { return d + 2; }
// Shared floats of a block: queries and their results, a tile of keys or values, scores, a maximum, a sum and a fade.
__device__ constexpr int attention_floats(int group, int d) {
    return 2 * group * d + KEYS * (d + 1) + group * KEYS + 3 * group + 1;
}

// y [T,H,D] of rows q [T,H,D]. ``parts`` has room for every row, head and chunk, ``counts`` a zero for every row and head
// of keys. Block (t * K + head, chunk).
template <int D, class Cache>
__device__ inline void attention(const Step& step, const float* q, const Cache& keys, const Cache& values, float* y,
                                 const Heads& heads, float scale, int window, int chunk, float* parts, unsigned* counts,
                                 unsigned char* shared) {
    let_consumers_start();
    wait_for_producers();
    const int group = heads.queries / heads.keys, t = blockIdx.x / heads.keys, head = blockIdx.x % heads.keys;
    if (t >= step.live) return;
    const int position = step.pos[t], first = window > 0 && position >= window ? position + 1 - window : 0;
    const int chunks = (position - first) / chunk + 1, most_chunks = (heads.context + chunk - 1) / chunk;
    if (int(blockIdx.y) >= chunks) return;
    const int begin = first + blockIdx.y * chunk, end = begin + chunk < position + 1 ? begin + chunk : position + 1;
    const long long cache = ((long long)step.slot[t] * heads.keys + head) * heads.context;
    const long long place = ((long long)t * heads.queries + head * group) * D;

    float *query = reinterpret_cast<float*>(shared), *out = query + group * D, *tile = out + group * D;
    float *scores = tile + KEYS * (D + 1), *most = scores + group * KEYS, *total = most + group, *fade = total + group;
    for (int i = threadIdx.x; i < group * D; i += ATTENTION_THREADS) {
        query[i] = q[place + i] * scale;
        out[i] = 0;
    }
    for (int h = threadIdx.x; h < group; h += ATTENTION_THREADS) {
        most[h] = -1e30f;  // below any score, and still a number to subtract from
        total[h] = 0;
    }
    for (int j0 = begin; j0 < end; j0 += KEYS) {
        const int n = end - j0 < KEYS ? end - j0 : KEYS;
        tile_of<D, D + 1>(keys, cache + j0, n, tile);
        sync_block();
        for (int i = threadIdx.x; i < group * KEYS; i += ATTENTION_THREADS) {
            const int j = i % KEYS, h = i / KEYS;
            float sum = 0;
            if (j < n)
                for (int e = 0; e < D; ++e) sum = fmaf(query[h * D + e], tile[j * (D + 1) + e], sum);
            scores[i] = sum;
        }
        sync_block();
        for (int h = warp_index(); h < group; h += ATTENTION_THREADS / WARP) {  // a lane for each key
            const float score = lane_index() < n ? scores[h * KEYS + lane_index()] : -1e30f;
            const float before = most[h], now = warp_max(score > before || score != score ? score : before);
            const float p = lane_index() < n ? expf(score - now) : 0.0f;
            const float sum = warp_sum(p);
            scores[h * KEYS + lane_index()] = p;
            if (lane_index() == 0) {
                fade[h] = expf(before - now);
                total[h] = total[h] * fade[h] + sum;
                most[h] = now;
            }
        }
        tile_of<D, D>(values, cache + j0, n, tile);
        sync_block();
        for (int i = threadIdx.x; i < group * D; i += ATTENTION_THREADS) {
            const int h = i / D, e = i % D;
            float sum = out[i] * fade[h];
            for (int j = 0; j < n; ++j) sum = fmaf(scores[h * KEYS + j], tile[j * D + e], sum);
            out[i] = sum;
        }
        sync_block();
    }
    if (chunks == 1) {
        for (int i = threadIdx.x; i < group * D; i += ATTENTION_THREADS) y[place + i] = out[i] / total[i / D];
        return;
    }

    constexpr int PART = part_floats(D);
    float* own = parts + (long long)blockIdx.x * most_chunks * group * PART;  // of this row and head, by chunk
    float* mine = own + (long long)blockIdx.y * group * PART;
    for (int i = threadIdx.x; i < group * D; i += ATTENTION_THREADS) mine[i] = out[i];
    for (int h = threadIdx.x; h < group; h += ATTENTION_THREADS) {
        mine[group * D + h] = most[h];
        mine[group * D + group + h] = total[h];
    }
    fence();
    sync_block();
    unsigned* last = reinterpret_cast<unsigned*>(fade + group);
    if (threadIdx.x == 0) *last = atomic_add(counts + blockIdx.x, 1) + 1;
    sync_block();
    if (*last != unsigned(chunks)) return;
    fence();
    if (threadIdx.x == 0) counts[blockIdx.x] = 0;
    const auto part = [=](int c) { return own + (long long)c * group * PART; };
    for (int i = threadIdx.x; i < group * D; i += ATTENTION_THREADS) {
        const int h = i / D;
        float highest = -1e30f, sum = 0, value = 0;
        for (int c = 0; c < chunks; ++c) {
            const float m = load_fresh(part(c) + group * D + h);
            highest = m > highest || m != m ? m : highest;
        }
        for (int c = 0; c < chunks; ++c) {
            const float weight = expf(load_fresh(part(c) + group * D + h) - highest);
            sum += weight * load_fresh(part(c) + group * D + group + h);
            value += weight * load_fresh(part(c) + i);
        }
        y[place + i] = value / sum;
    }
}

}  // namespace graphllm
