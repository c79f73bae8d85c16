// int8 activations against int8 weights: a group's dot product is one of integers, four at a time, and exact.
#pragma once

#include "few.cuh"

namespace graphllm {

// int8 in groups of G along each row, multiplied with activations rounded in the same groups. S is the scales' type.
template <class S, int G, bool WHOLE>
struct Dynamic {
    static constexpr int PER = 16;
    static constexpr bool EVEN = G % PER == 0;  // a chunk has one scale
    struct Held {
        Chunk chunk;
        float scale;
    };
    const int8_t* q;
    const S* scale;
    int k;

    __device__ int chunks() const { return (k + PER - 1) / PER; }
    __device__ int groups() const { return (k + G - 1) / G; }
    __device__ float scale_at(long long row, int group) const { return to_float(scale[row * groups() + group]); }
    // Staged activations: bytes of up(k, 16), then a scale for each group.
    __device__ static constexpr int row_bytes(int k) { return up(k, PER) + up(4 * ((k + G - 1) / G), PER); }
    __device__ float at(long long row, int i) const { return float(q[row * k + i]) * scale_at(row, i / G); }
};

// Like linear_few, for rows of activations that are rounded first.
//
// Shared memory: few_floats(T, COLUMNS, 1, (4 * up(k, 16) + T * row_bytes(k)) / 4).
template <int T, int UNIT, int PIECES, int ROWS, int DEPTH, class S, int G, bool WHOLE, class Live, class Source,
          class Lead, class Finish>
__device__ inline void integer_few(const Dynamic<S, G, WHOLE>& weights, int n, const Live& live_rows,
                                   const Source& source, const Lead& lead, const Finish& finish,
                                   unsigned char* shared) {
    using Weights = Dynamic<S, G, WHOLE>;
    using Shape = Few<T, UNIT, PIECES, ROWS, 1, DEPTH>;
    constexpr int PER = Weights::PER;
    const int u = blockIdx.x, k = weights.k, chunks = weights.chunks(), groups = weights.groups();
    const int steps = (chunks + WARP * DEPTH - 1) / (WARP * DEPTH);
    const auto column = [=](int pass, int r) { return pass * Shape::PASS + warp_index() * ROWS + r; };
    const auto row_of = [=](int pass, int r) -> long long {
        const int i = column(pass, r) < Shape::COLUMNS ? column(pass, r) : Shape::COLUMNS - 1;
        const int j = u * UNIT + i % UNIT;
        return (long long)(i / UNIT) * n + (j < n ? j : n - 1);
    };
    typename Weights::Held held[DEPTH][ROWS];
    const auto fetch = [&](int d, int pass, int step) {
        const int c = (step * DEPTH + d) * WARP + lane_index();
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            held[d][r] = {};
            if (c >= chunks) continue;
            const long long row = row_of(pass, r);
            held[d][r] = {load_chunk<WHOLE>(weights.q, row, k, c),
                          Weights::EVEN ? weights.scale_at(row, c * PER / G) : 0.0f};
        }
    };
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) fetch(d, 0, 0);
    let_consumers_start();
    wait_for_producers();

    const int ld = Weights::row_bytes(k);
    const int live = T == 1 ? 1 : int(live_rows) < T ? int(live_rows) : T;
    float* wide = reinterpret_cast<float*>(shared);
    unsigned char* rows = shared + 4 * up(k, PER);
    float *room = reinterpret_cast<float*>(rows + T * ld), *tile = room + BLOCK_ROOM;
#pragma unroll 1
    for (int t = 0; t < live; ++t) {
        const auto* from = source(t);
        float squares = 0;
        for (int i = threadIdx.x; i < k; i += THREADS) {
            const float v = to_float(from[i]);
            squares = fmaf(v, v, squares);
            wide[i] = v;
        }
        const float r = Lead::NORM ? 1.0f / sqrtf(by_block::block_sum(squares, room) / float(k) + lead.eps) : 1.0f;
        if (Lead::NORM)
            for (int i = threadIdx.x; i < k; i += THREADS) wide[i] = wide[i] * r * lead.gain(i);
        sync_block();
        int8_t* q = reinterpret_cast<int8_t*>(rows + t * ld);
        float* scales = reinterpret_cast<float*>(rows + t * ld + up(k, PER));
        for (int g = warp_index(); g < groups; g += WARPS) {
            const float s = by_warp::round_group(wide + g * G, k - g * G < G ? k - g * G : G, q + g * G);
            if (lane_index() == 0) scales[g] = s;
        }
        for (int i = k + threadIdx.x; i < up(k, PER); i += THREADS) q[i] = 0;
        sync_block();
    }

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
                const int c = (step * DEPTH + d) * WARP + lane_index();
                if (c >= chunks) continue;
#pragma unroll
                for (int t = 0; t < T; ++t) {
                    if (t >= live) break;
                    const Chunk x = *reinterpret_cast<const Chunk*>(rows + t * ld + c * PER);
                    const float* scales = reinterpret_cast<const float*>(rows + t * ld + up(k, PER));
#pragma unroll
                    for (int r = 0; r < ROWS; ++r) {
                        if (Weights::EVEN) {
                            int sum = 0;
#pragma unroll
                            for (int i = 0; i < 4; ++i) sum = dot4(now[r].chunk.word[i], x.word[i], sum);
                            sums[r][t] = fmaf(float(sum), scales[c * PER / G] * now[r].scale, sums[r][t]);
                            continue;
                        }
                        for (int i = 0; i < PER && c * PER + i < k; ++i) {
                            const int g = (c * PER + i) / G, shift = 8 * (i % 4);
                            const int product = int(int8_t(now[r].chunk.word[i / 4] >> shift)) *
                                                int(int8_t(x.word[i / 4] >> shift));
                            sums[r][t] = fmaf(float(product), scales[g] * weights.scale_at(row_of(pass, r), g), sums[r][t]);
                        }
                    }
                }
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int t = 0; t < T; ++t) {
                const float sum = warp_sum(sums[r][t]);
                const int i = column(pass, r);
                if (lane_index() == 0 && i < Shape::COLUMNS && t < live) tile[t * Shape::COLUMNS + i] = sum;
            }
    }
    sync_block();
    const int count = n - u * UNIT < UNIT ? n - u * UNIT : UNIT;
#pragma unroll 1
    for (int t = warp_index(); t < live; t += WARPS) finish(Tile{tile, Shape::COLUMNS, UNIT, t}, u, count, t, t + 1);
}

}  // namespace graphllm
