// Products with the matrices of experts that rows chose: [N,K] of each, one below the other.
//
// A *pair* is a row and one of its experts: pair p is place p % used of row p / used. Which matrices are read is known only
// when the choice has been made, so nothing is asked for before.
#pragma once

#include "few.cuh"

namespace graphllm {

// The matrix of one expert among all.
template <class Weights>
struct OfExpert {
    static constexpr int PER = Weights::PER;
    using Held = typename Weights::Held;
    Weights all;
    long long first;  // row of all matrices
    int k;

    __device__ int chunks() const { return all.chunks(); }
    __device__ Held load(long long row, int c) const { return all.load(first + row, c); }
    __device__ float dot(const Held& held, const float* x, int plane) const { return all.dot(held, x, plane); }
};

template <class Weights>
__device__ inline OfExpert<Weights> of_expert(const Weights& weights, int expert, int n) {
    return {weights, (long long)expert * n, weights.k};
}

// Few pairs: block (u, p) has UNIT columns of pair p. ``source`` gives its activations; y [pairs,n].
//
// Shared memory: few_floats(1, UNIT, SPLIT, Planes<PER>::floats(k)).
template <int UNIT, int ROWS, int SPLIT, int DEPTH, class Weights, class Live, class Source>
__device__ inline void expert_pairs(const Weights& weights, int n, int experts, int used, const int* ids,
                                    const Live& live_rows, const Source& source, float* y, unsigned char* shared) {
    let_consumers_start();
    wait_for_producers();
    const int p = blockIdx.y;
    if (p / used >= live_rows) return;
    const auto row = [&](int) { return source(p); };
    const auto finish = [=](const Tile& tile, int u, int count, int t, int) {
        by_warp::copy(tile.row(0), count, y + (long long)p * n + u * UNIT);
    };
    const auto own = of_expert(weights, clip(ids[p], experts), n);
    linear_few<1, UNIT, 1, ROWS, SPLIT, DEPTH>(own, n, 1, row, AsTheyAre{}, finish, shared);
}

// Pairs of the expert, in order: [all] numbers, and how many. ``room`` has WARPS.
__device__ inline int pairs_of(int expert, int experts, const int* ids, int all, int* list, unsigned* room) {
    const int each = (all + THREADS - 1) / THREADS, first = threadIdx.x * each;
    const int end = first + each < all ? first + each : all;
    unsigned own = 0;
    for (int p = first; p < end; ++p) own += clip(ids[p], experts) == expert;
    unsigned sum = own;
    for (int step = 1; step < WARP; step *= 2) {
        const unsigned other = shuffle_up(sum, step);
        if (lane_index() >= step) sum += other;
    }
    if (lane_index() == WARP - 1) room[warp_index()] = sum;
    sync_block();
    unsigned at = sum - own, total = 0;
    for (int w = 0; w < WARPS; ++w) {
        if (w < warp_index()) at += room[w];
        total += room[w];
    }
    for (int p = first; p < end; ++p)
        if (clip(ids[p], experts) == expert) list[at++] = p;
    sync_block();
    return int(total);
}

// Many pairs: block (u, e) has UNIT columns of expert e, for all rows that chose it, T of them at a time. What a row gets
// does not depend on which others are beside it.
//
// Shared memory: WARPS and a number for each pair, then few_floats(T, UNIT, SPLIT, T * Planes<PER>::floats(k)).
template <int T, int UNIT, int ROWS, int SPLIT, int DEPTH, class Weights, class Live, class Source>
__device__ inline void expert_rows(const Weights& weights, int n, int experts, int used, int pairs, const int* ids,
                                   const Live& live_rows, const Source& source, float* y, unsigned char* shared) {
    let_consumers_start();
    wait_for_producers();
    unsigned* room = reinterpret_cast<unsigned*>(shared);
    int* list = reinterpret_cast<int*>(room + WARPS);
    unsigned char* rest = shared + 4 * (WARPS + up(pairs, 4));
    const int live = live_rows, total = pairs_of(blockIdx.y, experts, ids, live * used, list, room);
    const auto own = of_expert(weights, blockIdx.y, n);
#pragma unroll 1
    for (int from = 0; from < total; from += T) {
        const auto row = [&](int t) { return source(list[from + t]); };
        const auto finish = [=](const Tile& tile, int u, int count, int t, int) {
            by_warp::copy(tile.row(0), count, y + (long long)list[from + t] * n + u * UNIT);
        };
        linear_few<T, UNIT, 1, ROWS, SPLIT, DEPTH>(own, n, total - from, row, AsTheyAre{}, finish, rest);
        sync_block();  // the next rows take the place of these
    }
}

}  // namespace graphllm
