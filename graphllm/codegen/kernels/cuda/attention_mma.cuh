// Causal grouped-query attention of a prompt's rows over a cache of 16-bit floats, on tensor cores (Dao 2023,
// arXiv:2307.08691): a warp has 16 rows of queries, and scores never leave its registers.
//
// Queries and weights are two 16-bit terms each, so that only sums in f32 round. Keys are cut at multiples of KEYS_MMA,
// whatever the rows, and what a row does not see adds nothing to it: its result does not depend on its neighbours. Their
// values that are no numbers, which a weight of 0 would not keep off, are taken out of tiles that only some rows see whole
// and added at the end to the rows that do see them.
#pragma once

#include "attention.cuh"
#include "mma.cuh"

namespace graphllm {

constexpr int KEYS_MMA = 32;      // in a tile
constexpr int LIFT = 14;          // weights are multiplied with 2^LIFT: the small ones keep their bits in f16
constexpr int TERMS_MMA = 2;

// D is padded to whole panels of 32 elements. Bytes of queries, two tiles of keys, one of values, a factor for each row, and
// a count.
__device__ constexpr int attention_mma_bytes(int d, int warps) {
    return TERMS_MMA * 16 * warps * up(d, 32) * 2 + 2 * KEYS_MMA * up(d, 32) * 2 + KEYS_MMA * (up(d, 32) + 8) * 2 +
           64 * warps + 16;
}

// A word of two 16-bit floats without those that are NaN or infinite.
template <class E>
__device__ inline unsigned only_numbers(unsigned word) {
    constexpr unsigned TOP = ranged(E{}) ? 0x7c00u : 0x7f80u;
    if ((word & TOP) == TOP) word &= 0xffff0000u;
    if ((word & TOP << 16) == TOP << 16) word &= 0xffffu;
    return word;
}

// Lanes of a row of scores: the four with the same g.
__device__ inline float row_max(float x) {
    for (int step = 1; step < 4; step *= 2) {
        const float other = shuffle_xor(x, step);
        x = x > other || x != x ? x : other;
    }
    return x;
}
__device__ inline float row_sum(float x) {
    for (int step = 1; step < 4; step *= 2) x += shuffle_xor(x, step);
    return x;
}

// Two floats as terms of a word each; the rest is lost.
template <class E>
__device__ inline void split_pair(float a, float b, unsigned& high, unsigned& low) {
    high = pair_from<E>(a, b);
    low = pair_from<E>(a - low_of<E>(high), b - high_of<E>(high));
}

// y [T,H,D] of rows q [T,H,D], for 16 rows a warp. Block (head, tile of rows); later rows, which see more, come first.
template <int D, int ROW_WARPS, class E>
__device__ inline void attention_mma(const Step& step, const float* q, const E* keys, const E* values, float* y,
                                     const Heads& heads, float scale, int window, unsigned char* shared) {
    constexpr int ROWS = 16 * ROW_WARPS, PANELS = (D + 31) / 32, PADDED = 32 * PANELS, TILES = PADDED / 8;
    constexpr int THREADS_MMA = WARP * ROW_WARPS, VALUE_ROW = PADDED + 8;  // halves: four rows of 16 bytes do not meet
    constexpr int COPIES = (KEYS_MMA * PADDED / 8 + THREADS_MMA - 1) / THREADS_MMA;
    let_consumers_start();
    wait_for_producers();
    const int live = step.live, t0 = (gridDim.y - 1 - blockIdx.y) * ROWS, h = blockIdx.x;
    if (t0 >= live) return;
    const int rows = live - t0 < ROWS ? live - t0 : ROWS, start = step.pos[0] + t0, end = start + rows;
    const auto first_of = [=](int p) { return window > 0 && p >= window ? p + 1 - window : 0; };
    const long long cache = ((long long)step.slot[0] * heads.keys + h / (heads.queries / heads.keys)) * heads.context;
    const int seen = first_of(start), warp = warp_index(), g = lane_index() / 4, c = lane_index() % 4;

    unsigned short* query = reinterpret_cast<unsigned short*>(shared);  // [TERMS, PANELS, ROWS, 32]
    unsigned short* key = query + TERMS_MMA * ROWS * PADDED;            // [2, PANELS, KEYS_MMA, 32]
    unsigned short* value = key + 2 * KEYS_MMA * PADDED;                // [KEYS_MMA, VALUE_ROW]
    float* back = reinterpret_cast<float*>(value + KEYS_MMA * VALUE_ROW);
    unsigned* taken_out = reinterpret_cast<unsigned*>(back + ROWS);  // times that a value was
    if (threadIdx.x == 0) *taken_out = 0;
    // Whether some row that the block has room for does not see all of a tile.
    const auto mixed = [=](int j0) { return j0 + KEYS_MMA > start + 1 || j0 < first_of(start + ROWS - 1); };
    const auto copy = [&](const E* from, int j0, auto place) {
#pragma unroll
        for (int i = 0; i < COPIES; ++i) {
            const int unit = i * THREADS_MMA + threadIdx.x, j = unit / (PADDED / 8), e = unit % (PADDED / 8) * 8;
            if (unit >= KEYS_MMA * PADDED / 8) break;
            const bool there = j0 + j >= seen && j0 + j < end && e < D;
            copy_async(place(j, e), from + (there ? (cache + j0 + j) * D + e : cache * D), there);
        }
        copies_commit();
    };
    const auto copy_keys = [&](int j0) {
        unsigned short* to = key + j0 / KEYS_MMA % 2 * KEYS_MMA * PADDED;
        copy(keys, j0, [=](int j, int e) { return to + (e / 32 * KEYS_MMA + j) * 32 + e % 32; });
    };
    const auto copy_values = [&](int j0) {
        copy(values, j0, [=](int j, int e) { return value + j * VALUE_ROW + e; });
    };
    const int begin = seen / KEYS_MMA * KEYS_MMA;
    copy_keys(begin);
    copy_values(begin);

#pragma unroll 1
    for (int r = warp * 16; r < warp * 16 + 16; ++r) {  // a warp says its own queries in terms
        float v[8] = {};
        const int e0 = lane_index() * 8;
        if (r < rows && e0 < D) eight<true>(q + ((long long)(t0 + r) * heads.queries + h) * D, e0, D, v);
        float most = 0;
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            v[e] *= scale * 1.44269504f;  // weights are powers of two
            const float size = fabsf(v[e]);
            most = most > size || most != most ? most : size;
        }
        const float times = ranged(E{}) ? headroom(warp_max(most)) : 1.0f;
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] *= times;
        Chunk terms[TERMS_MMA];
        split<E>(v, terms);
        if (lane_index() == 0) back[r] = 1.0f / times;
        if (e0 >= PADDED) continue;
#pragma unroll
        for (int s = 0; s < TERMS_MMA; ++s)
            *reinterpret_cast<Chunk*>(query + ((s * PANELS + e0 / 32) * ROWS + r) * 32 + e0 % 32) = terms[s];
    }
    sync_warp();

    const bool busy = warp * 16 < rows;  // a warp without rows copies for the others
    const int mine[2] = {warp * 16 + g, warp * 16 + g + 8};  // rows
    const float undo[2] = {back[mine[0]], back[mine[1]]};
    float out[TILES][4] = {}, most[2] = {LOWEST, LOWEST}, total[2] = {0, 0};
#pragma unroll 1
    for (int j0 = begin; j0 < end; j0 += KEYS_MMA) {
        copies_wait<1>();
        sync_block();
        copy_keys(j0 + KEYS_MMA);
        unsigned high[KEYS_MMA / 8][2], low[KEYS_MMA / 8][2];  // weights, of both rows
        if (busy) {
            float scores[KEYS_MMA / 8][4] = {};
            const unsigned short* tile = key + j0 / KEYS_MMA % 2 * KEYS_MMA * PADDED;
#pragma unroll
            for (int panel = 0; panel < PANELS; ++panel) {
                Chunk k[KEYS_MMA / 8];
#pragma unroll
                for (int j = 0; j < KEYS_MMA / 8; ++j)
                    k[j] = *reinterpret_cast<const Chunk*>(tile + (panel * KEYS_MMA + j * 8 + g) * 32 + c * 8);
#pragma unroll
                for (int s = TERMS_MMA - 1; s >= 0; --s) {
                    unsigned w[2][4];
#pragma unroll
                    for (int side = 0; side < 2; ++side) {
                        const unsigned short* at = query + ((s * PANELS + panel) * ROWS + mine[side]) * 32 + c * 8;
                        const Chunk chunk = *reinterpret_cast<const Chunk*>(at);
#pragma unroll
                        for (int i = 0; i < 4; ++i) w[side][i] = chunk.word[i];
                    }
#pragma unroll
                    for (int word = 0; word < 4; word += 2)
#pragma unroll
                        for (int j = 0; j < KEYS_MMA / 8; ++j) multiply_words<E>(scores[j], w, k[j], word);
                }
            }
#pragma unroll
            for (int side = 0; side < 2; ++side) {
                const int p = start + mine[side], first = first_of(p);
                const auto sees = [&](int j, int i) {
                    const int at = j0 + j * 8 + 2 * c + i;
                    return at <= p && at >= first && mine[side] < rows;
                };
                float now = most[side];
#pragma unroll
                for (int j = 0; j < KEYS_MMA / 8; ++j)
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        float& x = scores[j][2 * side + i];
                        x = sees(j, i) ? x * undo[side] : LOWEST;
                        now = now > x || now != now ? now : x;
                    }
                now = row_max(now);
                const float fade = exp2f(most[side] - now);
                most[side] = now;
                float sum = 0;
#pragma unroll
                for (int j = 0; j < KEYS_MMA / 8; ++j) {
                    float& a = scores[j][2 * side];
                    float& b = scores[j][2 * side + 1];
                    a = sees(j, 0) ? exp2f(a - now + LIFT) : 0.0f;
                    b = sees(j, 1) ? exp2f(b - now + LIFT) : 0.0f;
                    sum += a + b;
                    split_pair<E>(a, b, high[j][side], low[j][side]);
                }
                total[side] = total[side] * fade + sum;
#pragma unroll
                for (int i = 0; i < TILES; ++i) {
                    out[i][2 * side] *= fade;
                    out[i][2 * side + 1] *= fade;
                }
            }
        }

        copies_wait<1>();
        sync_block();
        if (mixed(j0)) {
#pragma unroll 1
            for (int i = threadIdx.x; i < KEYS_MMA * PADDED / 2; i += THREADS_MMA) {
                unsigned* word = reinterpret_cast<unsigned*>(value + i / (PADDED / 2) * VALUE_ROW) + i % (PADDED / 2);
                const unsigned held = *word, left = only_numbers<E>(held);
                if (left == held) continue;
                *word = left;
                atomic_add(taken_out, 1);
            }
            sync_block();
        }
        if (busy) {
#pragma unroll
            for (int j = 0; j < KEYS_MMA / 8; j += 2) {  // 16 keys
                const unsigned a[2][4] = {{high[j][0], high[j][1], high[j + 1][0], high[j + 1][1]},
                                          {low[j][0], low[j][1], low[j + 1][0], low[j + 1][1]}};
                const unsigned short* from = value + (j * 8 + 2 * c) * VALUE_ROW;
                // A lane takes neighbours of D of four keys: column g of tile i is element g * EACH + i of their stretch.
                const auto stretch = [&](int first, auto chunk) {
                    using Part = decltype(chunk);
                    constexpr int WORDS = sizeof(Part) / 4, EACH = 2 * WORDS;
                    const auto part = [&](int row) {
                        return *reinterpret_cast<const Part*>(from + row * VALUE_ROW + first + g * EACH);
                    };
                    const Part v[4] = {part(0), part(1), part(8), part(9)};
#pragma unroll
                    for (int s = TERMS_MMA - 1; s >= 0; --s)
#pragma unroll
                        for (int w = 0; w < WORDS; ++w) {
                            const unsigned even[2] = {(v[0].word[w] & 0xffffu) | v[1].word[w] << 16,
                                                      (v[2].word[w] & 0xffffu) | v[3].word[w] << 16};
                            const unsigned odd[2] = {v[0].word[w] >> 16 | (v[1].word[w] & 0xffff0000u),
                                                     v[2].word[w] >> 16 | (v[3].word[w] & 0xffff0000u)};
                            multiply<E>(out[first / 8 + 2 * w], a[s], even);
                            multiply<E>(out[first / 8 + 2 * w + 1], a[s], odd);
                        }
                };
#pragma unroll
                for (int first = 0; first + 64 <= PADDED; first += 64) stretch(first, Chunk{});
                if constexpr (PADDED % 64 != 0) stretch(PADDED - 32, HalfChunk{});
            }
        }
        sync_block();
        copy_values(j0 + KEYS_MMA);
    }
    copies_wait<0>();

#pragma unroll
    for (int side = 0; side < 2; ++side) {
        const float sum = row_sum(total[side]);
        if (mine[side] >= rows) continue;
        float* to = y + ((long long)(t0 + mine[side]) * heads.queries + h) * D;
#pragma unroll
        for (int i = 0; i < TILES; ++i)
#pragma unroll
            for (int column = 0; column < 2; ++column) {
                const int first = i * 8 / 64 * 64, each = first + 64 <= PADDED ? 8 : 4;
                const int e = first + (2 * c + column) * each + i - first / 8;
                if (e < D) to[e] = out[i][2 * side + column] / sum;
            }
    }
    if (*taken_out == 0) return;
    sync_block();
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * D; i += THREADS_MMA) {
        const int p = start + i / D, e = i % D;
        float& to = y[((long long)(t0 + i / D) * heads.queries + h) * D + e];
#pragma unroll 1
        for (int j = first_of(p); j <= p; ++j) {
            const float v = mixed(j / KEYS_MMA * KEYS_MMA) ? to_float(values[(cache + j) * D + e]) : 0.0f;
            if (v - v != 0.0f) to += v;
        }
    }
}

}  // namespace graphllm
