// Products of many rows on tensor cores, a tile of the result at a time. A launch of its own has said every row of
// activations in 16-bit terms; panels of them and of weights, 64 bytes of each row, are copied to shared memory behind
// the threads' backs, some panels ahead. int8 weights are widened on their way into registers.
#pragma once

#include "mma.cuh"

namespace graphllm {

constexpr int PANEL_BYTES = 64;   // of a row; any eight neighbours' 16 bytes lie in different banks
constexpr int PANEL_HALVES = 32;  // of a row of activations

// Staged rows: what their sums are to be multiplied with, then the terms [TERMS, rows, length].
struct Staged {
    float* memory;
    int rows, length;
    __device__ float* back() const { return memory; }
    __device__ unsigned short* row(int term, int t) const {
        return reinterpret_cast<unsigned short*>(memory + up(rows, 4)) + ((long long)term * rows + t) * length;
    }
};

// Row t, by a block. Shared memory: 2 * WARPS floats.
template <class E, int TERMS, int PER, bool ALIGNED, class S, class Lead>
__device__ inline void stage_terms(const S* from, const Lead& lead, int t, int k, const Staged& to, unsigned char* shared) {
    float *sums = reinterpret_cast<float*>(shared), *maxima = sums + WARPS;
    const auto load = [&](int i, float(&v)[8], float& squares) {
        eight<ALIGNED>(from, i, k, v);
        if constexpr (Lead::NORM) {
            float gain[8];
            eight<ALIGNED>(lead.gains, i, k, gain);
#pragma unroll
            for (int e = 0; e < 8; ++e) {
                squares = fmaf(v[e], v[e], squares);
                v[e] *= gain[e];
            }
        }
    };
    Factors factors{1.0f, 1.0f};
    if (Lead::NORM || ranged(E{})) {
        float squares = 0;
        unsigned most = 0;
#pragma unroll 1
        for (int i = threadIdx.x * 8; i < k; i += THREADS * 8) {
            float v[8];
            load(i, v, squares);
#pragma unroll
            for (int e = 0; e < 8; ++e) most = larger(most, v[e]);
        }
        const float sum = warp_sum(squares);
        const unsigned largest = warp_max(most);
        if (lane_index() == 0) {
            sums[warp_index()] = sum;
            maxima[warp_index()] = as_float(largest);
        }
        sync_block();
        squares = 0;
        most = 0;
        for (int w = 0; w < WARPS; ++w) {
            squares += sums[w];
            most = larger(most, maxima[w]);
        }
        factors = factors_of<E>(lead, squares, most, k);
    }
#pragma unroll 1
    for (int i = threadIdx.x * 8; i < to.length; i += THREADS * 8) {
        Chunk terms[TERMS] = {};
        if (i < k) {
            float v[8], unused = 0;
            load(i, v, unused);
#pragma unroll
            for (int e = 0; e < 8; ++e) v[e] *= factors.times;
            split<E>(v, terms);
        }
#pragma unroll
        for (int s = 0; s < TERMS; ++s) *reinterpret_cast<Chunk*>(to.row(s, t) + place_of<PER>(i)) = terms[s];
    }
    if (threadIdx.x == 0) to.back()[t] = factors.back;
}

// A block has COLUMNS of the product and ROWS of activations; a warp M * 16 of those and 32 of these.
template <int COLUMNS_, int ROWS_, int M_, int STAGES_, int TERMS_>
struct MmaMany {
    static constexpr int COLUMNS = COLUMNS_, ROWS = ROWS_, M = M_, STAGES = STAGES_, TERMS = TERMS_;
    static constexpr int ACROSS = ROWS / 32, DOWN = WARPS / ACROSS, N = 4;
    static constexpr int PANEL = 16 * M * DOWN;  // rows of weights, COLUMNS of which are there
    static constexpr int LD = COLUMNS + 4;       // floats of a finished row
    static_assert(PANEL >= COLUMNS, "every column has a warp");
};

// Bytes of the copies on their way, or of ``slice`` finished rows.
__device__ constexpr int mma_many_bytes(int panel, int rows, int stages, int terms, int halves) {
    return stages * PANEL_BYTES * (panel + halves * terms * rows);
}

// Block (rows b * ROWS …, columns u * UNIT … of each piece). ``finish`` takes rows one by one, SLICE in shared memory.
template <class Shape, int UNIT, int SLICE, class Weights, class Live, class Finish>
__device__ inline void mma_many(const Weights& weights, int n, const Live& live_rows, const Staged& source,
                                const Finish& finish, unsigned char* shared) {
    using Op = Operand<Weights>;
    using E = typename Op::Element;
    constexpr int COLUMNS = Shape::COLUMNS, ROWS = Shape::ROWS, M = Shape::M, N = Shape::N, TERMS = Shape::TERMS;
    constexpr int HALVES = Op::PANEL / PANEL_HALVES, SUB = ROWS * PANEL_BYTES;  // panels of activations beside one of weights
    constexpr int STAGE = PANEL_BYTES * Shape::PANEL + HALVES * TERMS * SUB;
    constexpr int WEIGHT_COPIES = (Shape::PANEL * 4 + THREADS - 1) / THREADS;
    constexpr int ROW_COPIES = (HALVES * TERMS * ROWS * 4 + THREADS - 1) / THREADS;
    const int u = blockIdx.y, t0 = blockIdx.x * ROWS, k = weights.k;
    const int panels = (k + Op::PANEL - 1) / Op::PANEL, chunks = k / (Op::PANEL / 4);
    const auto row_of = [=](int i) -> long long {  // of weights; -1 where there is none
        const int j = u * UNIT + i % UNIT;
        return i < COLUMNS && j < n ? (long long)(i / UNIT) * n + j : -1;
    };

    const unsigned char* weights_from[WEIGHT_COPIES];
#pragma unroll
    for (int i = 0; i < WEIGHT_COPIES; ++i) {
        const int unit = i * THREADS + threadIdx.x;
        const long long row = unit < Shape::PANEL * 4 ? row_of(unit / 4) : -1;
        weights_from[i] = row < 0 ? nullptr : Op::bytes(weights, row) + unit % 4 * 16;
    }
    const auto copy_weights = [&](int panel) {
        unsigned char* to = shared + panel % Shape::STAGES * STAGE;
#pragma unroll
        for (int i = 0; i < WEIGHT_COPIES; ++i) {
            const int unit = i * THREADS + threadIdx.x;
            if (unit >= Shape::PANEL * 4) break;
            const bool there = weights_from[i] != nullptr && panel * 4 + unit % 4 < chunks;
            copy_async(to + unit * 16, there ? weights_from[i] + panel * PANEL_BYTES : Op::bytes(weights, 0), there);
        }
    };
#pragma unroll
    for (int s = 0; s < Shape::STAGES - 1; ++s)
        if (s < panels) copy_weights(s);
    let_consumers_start();
    wait_for_producers();

    const int live = live_rows;
    if (t0 >= live) {
        copies_commit();
        copies_wait<0>();
        return;
    }
    const auto copy_rows = [&](int panel) {
        unsigned char* to = shared + panel % Shape::STAGES * STAGE + PANEL_BYTES * Shape::PANEL;
#pragma unroll
        for (int i = 0; i < ROW_COPIES; ++i) {
            const int unit = i * THREADS + threadIdx.x, sub = unit / (ROWS * 4), t = t0 + unit / 4 % ROWS;
            if (unit >= HALVES * TERMS * ROWS * 4) break;
            const unsigned short* from = source.row(sub / HALVES, t < live ? t : 0);
            const int at = (panel * HALVES + sub % HALVES) * PANEL_HALVES + unit % 4 * 8;
            copy_async(to + unit * 16, from + at, t < live);
        }
    };
#pragma unroll
    for (int s = 0; s < Shape::STAGES - 1; ++s) {
        if (s < panels) copy_rows(s);
        copies_commit();
    }

    const int across = warp_index() % Shape::ACROSS, down = warp_index() / Shape::ACROSS;
    const int g = lane_index() / 4, c = lane_index() % 4;
    float sums[M][N][4] = {};
    float next[M][2] = {};  // scales of the weights that come next
    const auto load_scales = [&](int step) {
        if constexpr (Op::GROUPED) {
            const int i = step * PANEL_HALVES / (4 * Op::PER) * (4 * Op::PER);
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int side = 0; side < 2; ++side) {
                    const long long row = row_of((down * M + m) * 16 + side * 8 + g);
                    next[m][side] = row >= 0 && i < k ? weights.scale_at(row, i) : 0.0f;
                }
        }
    };
    load_scales(0);
#pragma unroll 1
    for (int panel = 0; panel < panels; ++panel) {
        copies_wait<Shape::STAGES - 2>();
        sync_block();
        const int ahead = panel + Shape::STAGES - 1;
        if (ahead < panels) {
            copy_weights(ahead);
            copy_rows(ahead);
        }
        copies_commit();
        const unsigned char* from = shared + panel % Shape::STAGES * STAGE;
        const unsigned char* rows = from + PANEL_BYTES * Shape::PANEL + across * 32 * PANEL_BYTES;
#pragma unroll 1
        for (int h = 0; h < HALVES; ++h) {
            float scales[M][2];
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int side = 0; side < 2; ++side) scales[m][side] = next[m][side];
            load_scales(panel * HALVES + h + 1);
            Chunk x[N][TERMS];
#pragma unroll
            for (int j = 0; j < N; ++j)
#pragma unroll
                for (int s = 0; s < TERMS; ++s)
                    x[j][s] = *reinterpret_cast<const Chunk*>(rows + (s * HALVES + h) * SUB + (j * 8 + g) * PANEL_BYTES + c * 16);
#pragma unroll
            for (int m = 0; m < M; ++m) {
                unsigned w[2][4];
#pragma unroll
                for (int side = 0; side < 2; ++side)
                    Op::panel_words(from + ((down * M + m) * 16 + side * 8 + g) * PANEL_BYTES, c, h, w[side]);
                float group_sums[N][4] = {};
                auto& into = choose<Op::GROUPED>(group_sums, sums[m]);
#pragma unroll
                for (int s = TERMS - 1; s >= 0; --s)
#pragma unroll
                    for (int word = 0; word < 4; word += 2)
#pragma unroll
                        for (int j = 0; j < N; ++j) multiply_words<E>(into[j], w, x[j][s], word);
                if constexpr (Op::GROUPED) {
#pragma unroll
                    for (int j = 0; j < N; ++j)
#pragma unroll
                        for (int i = 0; i < 4; ++i) sums[m][j][i] = fmaf(group_sums[j][i], scales[m][i / 2], sums[m][j][i]);
                }
            }
        }
    }
    copies_wait<0>();

    float* tile = reinterpret_cast<float*>(shared);
    const int count = n - u * UNIT < UNIT ? n - u * UNIT : UNIT;
#pragma unroll 1
    for (int first = 0; first < ROWS && t0 + first < live; first += SLICE) {
        sync_block();
        if (across * 32 >= first && across * 32 < first + SLICE) {
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int j = 0; j < N; ++j)
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        const int column = (down * M + m) * 16 + i / 2 * 8 + g;
                        const int t = across * 32 + j * 8 + 2 * c + i % 2;
                        if (column < COLUMNS && t0 + t < live)
                            tile[(t - first) * Shape::LD + column] = sums[m][j][i] * source.back()[t0 + t];
                    }
        }
        sync_block();
        const int end = live - t0 < first + SLICE ? live - t0 : first + SLICE;
#pragma unroll 1
        for (int t = first + warp_index(); t < end; t += WARPS)
            finish(Tile{tile, Shape::LD, UNIT, t - first}, u, count, t0 + t, t0 + t + 1);
    }
}

}  // namespace graphllm
