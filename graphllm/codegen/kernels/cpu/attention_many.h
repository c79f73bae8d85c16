// Causal grouped-query attention of many rows of one sequence, a block of keys at a time with a running softmax (Milakov
// and Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135). PANEL queries, heads of a group at
// successive positions, lie side by side in the lanes of registers: so a key, and a value, is read once for all of them,
// and maxima and sums need nothing from a neighbour.
#pragma once

#include "attention.h"

namespace graphllm {

constexpr int QUERIES = PANEL / LANES;    // vectors of 16 queries

// Private bytes of a thread: keys and values of a block, queries, scores, results, running maxima and sums.
constexpr long attention_many_bytes(int d) {
    return 4L * (2L * up(KEYS, STACK) * up(d, STACK) + 2L * up(d, STACK) * PANEL + up(KEYS, STACK) * PANEL + 3L * PANEL);
}

// sums[r][c] += x[r*row + k*step] * panel vector c of step k, over n steps
template <int R>
inline void spread(const float* x, long row, long step, const float* panel, int n, NF (&sums)[R][COLUMNS]) {
    for (int k = 0; k < n; ++k)
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < COLUMNS; ++c)
                sums[r][c] += read<NF>(panel + long(k) * PANEL + c * LANE) * x[r * row + k * step];
}

// Whether a number is NaN or infinite.
inline bool broken(float x) { return (bits_as<uint32_t>(x) & 0x7f800000u) == 0x7f800000u; }

// Makes 0 of what is no number; returns whether there was such.
inline bool only_numbers(float* x, int n) {
    bool found = false;
    for (int i = 0; i < n; ++i) found |= broken(x[i]);
    for (int i = 0; found && i < n; ++i) x[i] = broken(x[i]) ? 0 : x[i];
    return found;
}

struct Queries {
    VI position[QUERIES];
    VF most[QUERIES], total[QUERIES];
};

// Scores [n][PANEL] to probabilities that are still to be divided by their sum; what sums of earlier blocks are to be
// multiplied by goes to ``fade``. Key j lies at ``first + j``.
inline void soften(float* scores, int n, int first, float scale, int window, bool masked, Queries& lanes, VF* fade) {
    for (int v = 0; v < QUERIES; ++v) {
        float* at = scores + v * LANES;
        const VI position = lanes.position[v];
        VF most = lanes.most[v];
        for (int j = 0; j < n; ++j) {
            VF s = load(at + long(j) * PANEL) * scale;
            if (masked) {
                const VI key = all<int32_t>(first + j);
                const VI seen = window > 0 ? (key <= position) & (key > position - window) : key <= position;
                s = select(seen, s, all(-INF));
            }
            store(at + long(j) * PANEL, s);
            most = larger(s, most);
        }
        VF total = {};
        for (int j = 0; j < n; ++j) {
            const VF p = exp(load(at + long(j) * PANEL) - most);
            store(at + long(j) * PANEL, p);
            total += p;
        }
        fade[v] = exp(lanes.most[v] - most);
        lanes.total[v] = lanes.total[v] * fade[v] + total;
        lanes.most[v] = most;
    }
}

// y [T,H,D] of rows q [T,H,D] at successive positions of one slot, each of which sees positions up to its own, at most
// ``window`` of them unless that is 0. Values that are no numbers, which a weight of 0 would not keep off, are taken out of
// blocks that only some rows see whole, and added at the end to the rows that do see them.
template <int D, class Cache>
GRAPHLLM_ONCE void attention_many(const Step& step, const float* q, Cache keys, Cache values, float* y, int rows,
                                  Heads heads, float scale, int window) {
    constexpr int DEEP = up(D, STACK);
    const int group = heads.queries / heads.keys, pairs = rows * group, tiles = (pairs + PANEL - 1) / PANEL;
    float *k_block = reinterpret_cast<float*>(step.scratch), *v_block = k_block + up(KEYS, STACK) * DEEP;
    float *queries = v_block + up(KEYS, STACK) * DEEP, *out = queries + DEEP * PANEL, *scores = out + DEEP * PANEL;
    const auto tile = [&](int i) {
        const int head = i % heads.keys, from = i / heads.keys * PANEL, count = pairs - from < PANEL ? pairs - from : PANEL;
        const auto row_of = [&](int lane) { return (from + lane) / group; };
        const auto place = [&](int lane) {  // of a query, and of its result
            return (long(row_of(lane)) * heads.queries + head * group + (from + lane) % group) * D;
        };
        Queries lanes;
        for (int v = 0; v < QUERIES; ++v) {
            int32_t position[LANES];
            for (int l = 0; l < LANES; ++l)
                position[l] = step.pos[row_of(v * LANES + l < count ? v * LANES + l : count - 1)];
            lanes.position[v] = load_words<int32_t>(position);
            lanes.most[v] = all(LOWEST), lanes.total[v] = all(0.0f);
        }
        std::memset(queries, 0, sizeof(float) * DEEP * PANEL * 2);
        for (int lane = 0; lane < count; ++lane)
            for (int e = 0; e < D; ++e) queries[e * PANEL + lane] = q[place(lane) + e];

        const int lowest = step.pos[row_of(0)], highest = step.pos[row_of(count - 1)];
        const int start = window > 0 && lowest + 1 > window ? lowest + 1 - window : 0;
        const long cache = (long(step.slot[row_of(0)]) * heads.keys + head) * heads.context;
        bool taken_out = false;
        for (int first = start; first <= highest; first += KEYS) {
            const int n = highest + 1 - first < KEYS ? highest + 1 - first : KEYS;
            rows_to<D>(keys, cache + first, n, k_block);
            for (int j = 0; j < n; j += TALL) {
                NF sums[TALL][COLUMNS] = {};
                spread(k_block + long(j) * D, D, 1, queries, D, sums);
                std::memcpy(scores + j * PANEL, sums, sizeof sums);
            }
            VF fade[QUERIES];
            const bool masked = first + n - 1 > lowest || (window > 0 && first < highest + 1 - window);
            soften(scores, n, first, scale, window, masked, lanes, fade);
            rows_to<D>(values, cache + first, n, v_block);
            if (masked && only_numbers(v_block, n * D)) taken_out = true;
            NF kept[COLUMNS];
            std::memcpy(kept, fade, sizeof kept);
            for (int e = 0; e < D; e += TALL) {
                NF sums[TALL][COLUMNS] = {};
                spread(v_block + e, 1, D, scores, n, sums);
                for (int r = 0; r < TALL; ++r)
                    for (int c = 0; c < COLUMNS; ++c) {
                        float* at = out + (e + r) * PANEL + c * LANE;
                        const NF sum = read<NF>(at) * kept[c] + sums[r][c];
                        std::memcpy(at, &sum, sizeof sum);
                    }
            }
        }
        for (int lane = 0; lane < count; ++lane) {
            const float share = 1.0f / lanes.total[lane / LANES][lane % LANES];
            for (int e = 0; e < D; ++e) y[place(lane) + e] = out[e * PANEL + lane] * share;
        }
        for (int at = start; taken_out && at <= highest; ++at) {
            rows_to<D>(values, cache + at, 1, v_block);
            for (int lane = 0; lane < count; ++lane) {
                const int position = step.pos[row_of(lane)];
                if (at > position || (window > 0 && at <= position - window)) continue;
                for (int e = 0; e < D; ++e)
                    if (broken(v_block[e])) y[place(lane) + e] += v_block[e];
            }
        }
    };
    for (Turns turns(step, tiles * heads.keys); turns.next();)
        for (int i = turns.first; i < turns.last; ++i) tile(i);
}

}  // namespace graphllm
