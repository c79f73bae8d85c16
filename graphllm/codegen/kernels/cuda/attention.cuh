// Causal grouped-query attention of rows of any sequences over a cache [B,K,S,d], with a running softmax (Milakov and
// Gimelshein 2018, arXiv:1805.02867).
//
// A block has one row, G of the query heads that share a head of keys, and one chunk of keys; its warps take 32 of these at
// a time, a lane a key, and meet once, at the end. Chunks are always cut at the same places, so a row's result depends on
// its own position alone; the last block of a row to finish adds them up, in order.
#pragma once

#include "step.cuh"
#include "team.cuh"
#include "weights.cuh"

namespace graphllm {

constexpr int ATTENTION_WARPS = 4;
constexpr int ATTENTION_THREADS = ATTENTION_WARPS * WARP;
constexpr int KEYS = 32;  // that are looked at together
constexpr float LOWEST = -1e30f;  // below any score, and still a number to subtract from

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

// Scores of G queries [G,D] in shared memory with one row of keys, before their scale.
template <int D, int G, class S>
__device__ inline void score_row(const S* cache, long long row, const float* query, float (&score)[G]) {
    constexpr int PER = 16 / sizeof(S);
    if constexpr (D % PER == 0) {
        const S* at = cache + row * D;
#pragma unroll
        for (int e = 0; e < D; e += PER) {
            float v[PER];
            widen_chunk(*reinterpret_cast<const Chunk*>(at + e), v, S{});
#pragma unroll
            for (int h = 0; h < G; ++h) {
#pragma unroll
                for (int i = 0; i < PER; i += 4) {
                    const Four q = *reinterpret_cast<const Four*>(query + h * up(D, 4) + e + i);
#pragma unroll
                    for (int j = 0; j < 4; ++j) score[h] = fmaf(q.f[j], v[i + j], score[h]);
                }
            }
        }
    } else {
        for (int e = 0; e < D; ++e) {
            const float v = to_float(cache[row * D + e]);
#pragma unroll
            for (int h = 0; h < G; ++h) score[h] = fmaf(query[h * up(D, 4) + e], v, score[h]);
        }
    }
}
template <int D, int G>
__device__ inline void score_row(Rounded cache, long long row, const float* query, float (&score)[G]) {
    score_row<D, G>(cache.rows, row, query, score);
#pragma unroll
    for (int h = 0; h < G; ++h) score[h] *= cache.scales[row];
}

// Has a row brought to the second-level cache while something else is computed.
template <int D, class S>
__device__ inline void expect_row(const S* cache, long long row) {
    const char* at = reinterpret_cast<const char*>(cache + row * D);
    for (int i = 0; i < D * int(sizeof(S)); i += 128) expect(at + i);
}
template <int D>
__device__ inline void expect_row(Rounded cache, long long row) {
    expect_row<D>(cache.rows, row);
}

// What keys make of a head: its values so far, running maximum and sum.
__device__ constexpr int part_floats(int d) { return d + 2; }
// Shared floats of a block: queries, what each warp makes of them, its probabilities, and a word.
__device__ constexpr int attention_floats(int g, int d) {
    return g * up(d, 4) + ATTENTION_WARPS * g * (part_floats(d) + KEYS) + 1;
}

// What n parts [G,D], maxima, sums make together of element i; ``UNROLL`` of them are asked for at a time.
template <int D, int G, int UNROLL, class Part>
__device__ inline void together(const Part& part, int n, int i, float& value, float& highest, float& sum) {
    const int h = i / D;
    highest = LOWEST;
    value = sum = 0;
#pragma unroll UNROLL
    for (int c = 0; c < n; ++c) {
        const float m = part(c, G * D + h);
        highest = m > highest || m != m ? m : highest;
    }
#pragma unroll UNROLL
    for (int c = 0; c < n; ++c) {
        const float weight = expf(part(c, G * D + h) - highest);
        sum += weight * part(c, G * D + G + h);
        value += weight * part(c, i);
    }
}

// y [T,H,D] of rows q [T,H,D]. ``parts`` has room for every row, head and chunk, ``counts`` a zero for every block along x.
// Block (t * H / G + head / G, chunk).
template <int D, int G, class Cache>
__device__ inline void attention(const Step& step, const float* q, const Cache& keys, const Cache& values, float* y,
                                 const Heads& heads, float scale, int window, int chunk, float* parts, unsigned* counts,
                                 unsigned char* shared) {
    constexpr int LD = up(D, 4), PART = part_floats(D), ACROSS = (D + WARP - 1) / WARP;
    let_consumers_start();
    wait_for_producers();
    const int each = heads.queries / G, t = blockIdx.x / each, head = blockIdx.x % each * G;
    if (t >= step.live) return;
    const int position = step.pos[t], first = window > 0 && position >= window ? position + 1 - window : 0;
    const int chunks = (position - first) / chunk + 1, most_chunks = (heads.context + chunk - 1) / chunk;
    if (int(blockIdx.y) >= chunks) return;
    const int begin = first + blockIdx.y * chunk, end = begin + chunk < position + 1 ? begin + chunk : position + 1;
    const long long place = ((long long)t * heads.queries + head) * D;
    const long long cache =
        ((long long)step.slot[t] * heads.keys + head / (heads.queries / heads.keys)) * heads.context;

    float *query = reinterpret_cast<float*>(shared), *made = query + G * LD;  // by warp: [G,D], maxima, sums
    float* probabilities = made + ATTENTION_WARPS * G * PART + warp_index() * G * KEYS;
    for (int i = threadIdx.x; i < G * LD; i += ATTENTION_THREADS)
        query[i] = i % LD < D ? q[place + i / LD * D + i % LD] * scale : 0.0f;
    sync_block();

    float most[G], total[G], out[G][ACROSS] = {};
#pragma unroll
    for (int h = 0; h < G; ++h) {
        most[h] = LOWEST;
        total[h] = 0;
    }
#pragma unroll 1
    for (int j0 = begin + warp_index() * KEYS; j0 < end; j0 += ATTENTION_WARPS * KEYS) {
        const int n = end - j0 < KEYS ? end - j0 : KEYS;
        const bool there = lane_index() < n;
        float score[G] = {};
        if (there) {
            expect_row<D>(values, cache + j0 + lane_index());
            score_row<D, G>(keys, cache + j0 + lane_index(), query, score);
        }
#pragma unroll
        for (int h = 0; h < G; ++h) {
            const float own = there ? score[h] : LOWEST;
            const float now = warp_max(own > most[h] || own != own ? own : most[h]);
            const float p = there ? expf(own - now) : 0.0f, fade = expf(most[h] - now);
            probabilities[h * KEYS + lane_index()] = p;
            total[h] = total[h] * fade + warp_sum(p);
            most[h] = now;
#pragma unroll
            for (int i = 0; i < ACROSS; ++i) out[h][i] *= fade;
        }
        sync_warp();
#pragma unroll 4
        for (int j = 0; j < n; ++j) {
            float v[ACROSS];
#pragma unroll
            for (int i = 0; i < ACROSS; ++i) {
                const int e = lane_index() + i * WARP;
                v[i] = e < D ? element<D>(values, cache + j0 + j, e) : 0.0f;
            }
#pragma unroll
            for (int h = 0; h < G; ++h)
#pragma unroll
                for (int i = 0; i < ACROSS; ++i) out[h][i] = fmaf(probabilities[h * KEYS + j], v[i], out[h][i]);
        }
        sync_warp();
    }
    float* own = made + warp_index() * G * PART;
#pragma unroll
    for (int h = 0; h < G; ++h) {
#pragma unroll
        for (int i = 0; i < ACROSS; ++i)
            if (lane_index() + i * WARP < D) own[h * D + lane_index() + i * WARP] = out[h][i];
        if (lane_index() == 0) {
            own[G * D + h] = most[h];
            own[G * D + G + h] = total[h];
        }
    }
    sync_block();

    const auto of_warp = [=](int w, int i) { return made[w * G * PART + i]; };
    float* all = parts + (long long)blockIdx.x * most_chunks * G * PART;  // of this row and these heads, by chunk
    float* mine = all + (long long)blockIdx.y * G * PART;
#pragma unroll 1
    for (int i = threadIdx.x; i < G * D; i += ATTENTION_THREADS) {
        float value, highest, sum;
        together<D, G, 1>(of_warp, ATTENTION_WARPS, i, value, highest, sum);
        if (chunks == 1) {
            y[place + i] = value / sum;
            continue;
        }
        mine[i] = value;
        if (i % D == 0) {
            mine[G * D + i / D] = highest;
            mine[G * D + G + i / D] = sum;
        }
    }
    if (chunks == 1) return;
    fence();
    sync_block();
    unsigned* last = reinterpret_cast<unsigned*>(shared) + attention_floats(G, D) - 1;
    if (threadIdx.x == 0) *last = atomic_add(counts + blockIdx.x, 1) + 1;
    sync_block();
    if (*last != unsigned(chunks)) return;
    fence();
    if (threadIdx.x == 0) counts[blockIdx.x] = 0;
    const auto of_chunk = [=](int c, int i) { return load_fresh(all + (long long)c * G * PART + i); };
#pragma unroll 1
    for (int i = threadIdx.x; i < G * D; i += ATTENTION_THREADS) {
        float value, highest, sum;
        together<D, G, 4>(of_chunk, chunks, i, value, highest, sum);
        y[place + i] = value / sum;
    }
}

}  // namespace graphllm
