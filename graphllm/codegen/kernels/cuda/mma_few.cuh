// Products of few rows on tensor cores: every row of weights is read once, in 16-byte loads straight into registers, and
// multiplied with all rows of activations.
//
// As in few.cuh, the first weights are asked for before the kernel waits for those ahead of it. Warps of a block share k:
// their sums are added up in the order of the warps.
#pragma once

#include "mma.cuh"

namespace graphllm {

// T rows; a block has COLUMNS of the product. A warp takes M * 16 of them and one of SPLIT shares of k, DEPTH loads of
// each row at a time; SLAB elements of every row of activations are staged together, as TERMS.
template <int T_, int COLUMNS_, int M_, int SPLIT_, int DEPTH_, int SLAB_, int TERMS_>
struct MmaFew {
    static constexpr int T = T_, COLUMNS = COLUMNS_, M = M_, SPLIT = SPLIT_, DEPTH = DEPTH_, SLAB = SLAB_, TERMS = TERMS_;
    static constexpr int TILES = (T + 7) / 8;  // of eight rows of activations
    static constexpr int ROW = SLAB + 32;      // halves: so that two rows of 64 bytes do not meet in the same banks
    static_assert(16 * M * (WARPS / SPLIT) >= COLUMNS, "every column has a warp");
};

// times[t] and back[t] of every row. ``room`` has 2 * T * WARPS floats.
template <class E, bool ALIGNED, class Source, class Lead>
__device__ inline void measure_rows(const Source& source, const Lead& lead, int live, int k, float* times, float* back,
                                    float* room) {
    if constexpr (!Lead::NORM && !ranged(E{})) {  // as they are
        for (int t = threadIdx.x; t < live; t += THREADS) times[t] = back[t] = 1.0f;
        sync_block();
        return;
    }
    constexpr int TOGETHER = 4;  // so that loads of one row do not wait for the sums of another
#pragma unroll 1
    for (int t0 = 0; t0 < live; t0 += TOGETHER) {
        float squares[TOGETHER] = {};
        unsigned most[TOGETHER] = {};
#pragma unroll 1
        for (int i = threadIdx.x * 8; i < k; i += THREADS * 8) {
            float gain[8];
            if constexpr (Lead::NORM) eight<ALIGNED>(lead.gains, i, k, gain);
#pragma unroll
            for (int r = 0; r < TOGETHER; ++r) {
                if (t0 + r >= live) break;
                float v[8];
                eight<ALIGNED>(source(t0 + r), i, k, v);
#pragma unroll
                for (int e = 0; e < 8; ++e) {
                    squares[r] = fmaf(v[e], v[e], squares[r]);
                    most[r] = larger(most[r], Lead::NORM ? v[e] * gain[e] : v[e]);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < TOGETHER; ++r) {
            const float sum = warp_sum(squares[r]);
            const unsigned largest = warp_max(most[r]);
            if (lane_index() != 0 || t0 + r >= live) continue;
            room[(t0 + r) * WARPS + warp_index()] = sum;
            room[(live + t0 + r) * WARPS + warp_index()] = as_float(largest);
        }
    }
    sync_block();
#pragma unroll 1
    for (int t = threadIdx.x; t < live; t += THREADS) {
        float sum = 0;
        unsigned largest = 0;
        for (int w = 0; w < WARPS; ++w) {
            sum += room[t * WARPS + w];
            largest = larger(largest, room[(live + t) * WARPS + w]);
        }
        const Factors f = factors_of<E>(lead, sum, largest, k);
        times[t] = f.times;
        back[t] = f.back;
    }
    sync_block();
}

// Elements [first, first + SLAB) of all rows, as terms: ``x`` is [TERMS, T, ROW].
template <class Shape, class E, int PER, bool ALIGNED, class Source, class Lead>
__device__ inline void stage_slab(const Source& source, const Lead& lead, int live, int first, int k, const float* times,
                                  unsigned short* x) {
    constexpr int EIGHTS = Shape::SLAB / 8;
#pragma unroll 1
    for (int unit = threadIdx.x; unit < Shape::T * EIGHTS; unit += THREADS) {
        const int t = unit / EIGHTS, i = unit % EIGHTS * 8;
        Chunk terms[Shape::TERMS] = {};
        if (t < live && first + i < k) {
            float v[8];
            eight<ALIGNED>(source(t), first + i, k, v);
            if constexpr (Lead::NORM) {
                float gain[8];
                eight<ALIGNED>(lead.gains, first + i, k, gain);
#pragma unroll
                for (int e = 0; e < 8; ++e) v[e] *= gain[e];
            }
#pragma unroll
            for (int e = 0; e < 8; ++e) v[e] *= times[t];
            split<E>(v, terms);
        }
#pragma unroll
        for (int s = 0; s < Shape::TERMS; ++s)
            *reinterpret_cast<Chunk*>(x + (s * Shape::T + t) * Shape::ROW + place_of<PER>(i)) = terms[s];
    }
}

// Shared floats: factors and sums of rows, the finished columns, and a slab or the shares of k, whichever is more.
__device__ constexpr int mma_few_floats(int t, int columns, int split, int slab, int terms) {
    const int staged = terms * t * (slab + 32) / 2, parts = split > 1 ? split * t * columns : 0;
    return 2 * up(t, 4) + 2 * t * WARPS + up(t * columns, 4) + (staged > parts ? staged : parts);
}

// y = x @ w.T for the columns of this block; ``finish`` takes them row by row, a warp each. ALIGNED: rows of activations
// are floats that can be read 32 bytes at a time.
template <class Shape, int UNIT, bool ALIGNED, class Weights, class Live, class Source, class Lead, class Finish>
__device__ inline void mma_few(const Weights& weights, int n, const Live& live_rows, const Source& source,
                               const Lead& lead, const Finish& finish, unsigned char* shared) {
    using Op = Operand<Weights>;
    using E = typename Op::Element;
    constexpr int T = Shape::T, COLUMNS = Shape::COLUMNS, M = Shape::M, SPLIT = Shape::SPLIT, DEPTH = Shape::DEPTH;
    constexpr int STEP = 4 * Op::PER, ROUNDS = Shape::SLAB / (STEP * SPLIT * DEPTH);  // of a slab
    static_assert(ROUNDS * STEP * SPLIT * DEPTH == Shape::SLAB, "a slab is whole rounds");
    const int u = blockIdx.x, k = weights.k, chunks = (k + Op::PER - 1) / Op::PER;
    const int rounds = (chunks + 4 * SPLIT * DEPTH - 1) / (4 * SPLIT * DEPTH);
    const int part = warp_index() % SPLIT, group = warp_index() / SPLIT;
    const int g = lane_index() / 4, c = lane_index() % 4;
    long long row[M][2];  // of weights; -1 where there is none
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            const int i = (group * M + m) * 16 + side * 8 + g, j = u * UNIT + i % UNIT;
            row[m][side] = i < COLUMNS && j < n ? (long long)(i / UNIT) * n + j : -1;
        }
    typename Op::Held held[DEPTH][M][2];
    const auto fetch = [&](int d, int round) {
        const int chunk = ((round * SPLIT + part) * DEPTH + d) * 4 + c;
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int side = 0; side < 2; ++side)
                if (chunk < chunks && row[m][side] >= 0)
                    held[d][m][side] = Op::load(weights, row[m][side], chunk);
                else
                    held[d][m][side] = {};
    };
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) fetch(d, 0);
    let_consumers_start();
    wait_for_producers();

    const int live = int(live_rows) < T ? int(live_rows) : T;
    float *times = reinterpret_cast<float*>(shared), *back = times + up(T, 4), *room = back + up(T, 4);
    float *tile = room + 2 * T * WARPS, *staged = tile + up(T * COLUMNS, 4), *parts = SPLIT > 1 ? staged : tile;
    unsigned short* x = reinterpret_cast<unsigned short*>(staged);
    measure_rows<E, ALIGNED>(source, lead, live, k, times, back, room);

    float sums[M][Shape::TILES][4] = {};
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
        if (round % ROUNDS == 0) {
            if (round > 0) sync_block();
            stage_slab<Shape, E, Op::PER, ALIGNED>(source, lead, live, round / ROUNDS * Shape::SLAB, k, times, x);
            sync_block();
        }
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {
            typename Op::Held now[M][2];
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int side = 0; side < 2; ++side) now[m][side] = held[d][m][side];
            if (round + 1 < rounds) fetch(d, round + 1);
            const int at = ((round % ROUNDS * SPLIT + part) * DEPTH + d) * STEP + 8 * c;
            unsigned w[Op::PER / 8][M][2][4];
#pragma unroll
            for (int h = 0; h < Op::PER / 8; ++h)
#pragma unroll
                for (int m = 0; m < M; ++m)
#pragma unroll
                    for (int side = 0; side < 2; ++side) Op::words(now[m][side], h, w[h][m][side]);
            // All of a tile before the next: so sums of one group are those of one tile, and registers suffice.
#pragma unroll
            for (int tile8 = 0; tile8 < Shape::TILES; ++tile8) {
                const int t = tile8 * 8 + g < T ? tile8 * 8 + g : T - 1;
                float group_sums[M][4] = {};
#pragma unroll
                for (int h = 0; h < Op::PER / 8; ++h)
#pragma unroll
                    for (int s = Shape::TERMS - 1; s >= 0; --s) {
                        const Chunk b = *reinterpret_cast<const Chunk*>(x + (s * T + t) * Shape::ROW + at + h * 32);
#pragma unroll
                        for (int j = 0; j < 4; j += 2)
#pragma unroll
                            for (int m = 0; m < M; ++m)
                                multiply_words<E>(choose<Op::GROUPED>(group_sums[m], sums[m][tile8]), w[h][m], b, j);
                    }
                if constexpr (Op::GROUPED) {
#pragma unroll
                    for (int m = 0; m < M; ++m)
#pragma unroll
                        for (int i = 0; i < 4; ++i)
                            sums[m][tile8][i] = fmaf(group_sums[m][i], Op::scale(now[m][i / 2]), sums[m][tile8][i]);
                }
            }
        }
    }
    sync_block();
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int tile8 = 0; tile8 < Shape::TILES; ++tile8)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int column = (group * M + m) * 16 + i / 2 * 8 + g, t = tile8 * 8 + 2 * c + i % 2;
                if (column < COLUMNS && t < live) parts[(part * T + t) * COLUMNS + column] = sums[m][tile8][i];
            }
    sync_block();
#pragma unroll 1
    for (int i = threadIdx.x; i < live * COLUMNS; i += THREADS) {
        float sum = parts[i];
        for (int p = 1; p < SPLIT; ++p) sum += parts[p * T * COLUMNS + i];
        tile[i] = sum * back[i / COLUMNS];
    }
    sync_block();
    const int count = n - u * UNIT < UNIT ? n - u * UNIT : UNIT;
#pragma unroll 1
    for (int t = warp_index(); t < live; t += WARPS) finish(Tile{tile, COLUMNS, UNIT, t}, u, count, t, t + 1);
}

}  // namespace graphllm
