// Causal grouped-query attention over a cache [B,K,S,d], a block of keys at a time with a running softmax (Milakov and
// Gimelshein 2018, arXiv:1805.02867): every query head of a group reads a key, and a value, from memory once.
#pragma once

#include <utility>

#include "linear.h"

namespace graphllm {

struct Heads {
    int queries, keys, context;  // H, K and S
};

// A cache of int8 rows, and the scale of each.
struct Rounded {
    const int8_t* rows;
    const float* scales;
};

constexpr int KEYS = 64;          // in a block: its rows as f32 stay in the first-level cache
constexpr int CHUNK = 256;        // keys that one thread deals with where there are fewer heads than threads may be
constexpr float LOWEST = -1e30f;  // below any score, and still a number to subtract from
constexpr int SUMS = TALL * COLUMNS / 3 * 2;  // registers that hold sums, beside what is added to them

// n rows of a cache as f32, LD elements apart, of which those behind the first D are 0.
template <int D, int LD = D, class S>
inline void rows_to(const S* cache, long first, int n, float* y) {
    widen(cache + first * D, n * D, y);
    if (LD == D) return;
    for (int j = n - 1; j >= 0; --j) {  // the last one first: none lands on one that has yet to move
        std::memmove(y + long(j) * LD, y + long(j) * D, D * sizeof(float));
        std::memset(y + long(j) * LD + D, 0, (LD - D) * sizeof(float));
    }
}
template <int D, int LD = D>
inline void rows_to(Rounded cache, long first, int n, float* y) {
    constexpr int WHOLE = LD % LANE ? D / LANE * LANE : LD;
    rows_to<D, LD>(cache.rows, first, n, y);
    for (int j = 0; j < n; ++j, y += LD) {
        const float scale = cache.scales[first + j];
        for (int e = 0; e < WHOLE; e += LANE) {
            const NF v = read<NF>(y + e) * scale;
            std::memcpy(y + e, &v, sizeof v);
        }
        for (int e = WHOLE; e < D; ++e) y[e] *= scale;
    }
}

// Has rows brought from memory while something else is computed.
template <int D, class S>
inline void expect(const S* cache, long first, int n) {
    const char* at = reinterpret_cast<const char*>(cache + first * D);
    for (long i = 0; i < long(n) * D * long(sizeof(S)); i += 64) __builtin_prefetch(at + i);
}
template <int D>
inline void expect(Rounded cache, long first, int n) {
    expect<D>(cache.rows, first, n);
}

// Where those rows are: in the cache if they lie there as they are wanted.
template <int D, int LD, class Cache>
inline const float* rows_at(Cache cache, long first, int n, float* room) {
    rows_to<D, LD>(cache, first, n, room);
    return room;
}
template <int D, int LD>
inline const float* rows_at(const float* cache, long first, int n, float* room) {
    if (LD == D) return cache + first * D;
    rows_to<D, LD>(cache, first, n, room);
    return room;
}

// Lane l of the two vectors' halves, in pieces of S lanes: a's and b's in turn.
constexpr int half_of(int lane, int s, int half) {
    return lane % (2 * s) < s ? lane + half * s : LANE + lane - s + half * s;
}

template <int S, int... L>
inline NF fold(NF a, NF b, std::integer_sequence<int, L...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, half_of(L, S, 0)...) + __builtin_shufflevector(a, b, half_of(L, S, 1)...);
#else
    return __builtin_shuffle(a, b, NI{half_of(L, S, 0)...}) + __builtin_shuffle(a, b, NI{half_of(L, S, 1)...});
#endif
}

// The sums of LANE vectors, side by side, in v[0].
template <int S = LANE / 2>
inline void sums_of(NF (&v)[LANE]) {
    for (int i = 0; i < S; ++i) v[i] = fold<S>(v[i], v[i + S], std::make_integer_sequence<int, LANE>());
    if constexpr (S > 1) sums_of<S / 2>(v);
}

// scores[h][j] = scale * query h . key j, j < n. Rows have LD elements; behind scores of n keys anything may be left.
template <int LD>
inline void score(const float* queries, int group, const float* keys, int n, float scale, float (*scores)[KEYS]) {
    for (int j = 0; j < n; j += LANE) {
        const auto lane = [&](int l) { return long(j + l < n ? j + l : n - 1) * LD; };
        for (int h = 0; h < group; ++h) {
            NF v[LANE];
            for (int l = 0; l < LANE; ++l) {
                const float* key = keys + lane(l);
                v[l] = read<NF>(queries + h * LD) * read<NF>(key);
                for (int e = LANE; e < LD; e += LANE) v[l] += read<NF>(queries + h * LD + e) * read<NF>(key + e);
            }
            sums_of(v);
            v[0] *= scale;
            std::memcpy(scores[h] + j, v, sizeof *v);
        }
    }
}

// The most vectors, of those that a row has, which SUMS registers hold and a row is a multiple of.
constexpr int vectors_together(int vectors) {
    for (int n = SUMS; n > 1; --n)
        if (vectors % n == 0) return n;
    return 1;
}

// out[h] = out[h] * fade[h] + the sum of values under n probabilities, for ``group`` heads, as many as M at a time.
template <int LD, int M>
inline void mix(const float (*probabilities)[KEYS], int group, const float* values, int n, const float* fade,
                float* out) {
    constexpr int V = vectors_together(LD / LANE);
    int h = 0;
    for (; h + M <= group; h += M)
        for (int e = 0; e < LD; e += V * LANE) {
            NF sums[M][V] = {};
            for (int j = 0; j < n; ++j)
                for (int m = 0; m < M; ++m)
                    for (int v = 0; v < V; ++v)
                        sums[m][v] += read<NF>(values + long(j) * LD + e + v * LANE) * probabilities[h + m][j];
            for (int m = 0; m < M; ++m)
                for (int v = 0; v < V; ++v) {
                    float* to = out + (h + m) * LD + e + v * LANE;
                    const NF sum = read<NF>(to) * fade[h + m] + sums[m][v];
                    std::memcpy(to, &sum, sizeof sum);
                }
        }
    if constexpr (M > 1)
        if (h < group) mix<LD, M / 2>(probabilities + h, group - h, values, n, fade + h, out + h * LD);
}

// Scores of n keys to probabilities that are still to be divided by their sum; returns what earlier sums are to be
// multiplied by.
inline float soften(float* scores, int n, float& most, float& total) {
    const int whole = up(n, LANES);
    for (int j = n; j < whole; ++j) scores[j] = -INF;
    VF highest = all(most), sums = {};
    for (int j = 0; j < whole; j += LANES) highest = larger(load(scores + j), highest);
    float now = most;
    for (int l = 0; l < LANES; ++l) now = highest[l] > now ? highest[l] : now;
    for (int j = 0; j < whole; j += LANES) {
        const VF p = exp(load(scores + j) - now);
        store(scores + j, p);
        sums += p;
    }
    const float fade = exp(all(most - now))[0];
    total = total * fade + sum(sums);
    most = now;
    return fade;
}

inline void divide(const float* x, int n, float by, float* y) {
    const float share = 1.0f / by;
    for_lanes(n, y, [share](VF v) { return v * share; }, x);
}

// What some keys make of the heads of a group: rows of LD floats, running maxima and sums.
template <int LD>
struct Group {
    float *out, *most, *total;

    static constexpr long floats(int group) { return long(group) * (LD + 2); }
    Group(float* at, int group) : out(at), most(at + group * LD), total(most + group) {}
};

// Private bytes of a thread: a block's rows, queries, scores and what they fade to, results.
constexpr long attention_bytes(int queries, int keys, int d) {
    const long group = queries / keys, ld = up(d, LANES);
    return 4L * (KEYS * ld + group * (ld + KEYS + 1) + group * (ld + 2) + LANES);
}

// y [T,H,D] of rows q [T,H,D]. Row t sees positions up to its own, at most ``window`` of them unless that is 0. With
// ``shared`` memory, heads are cut into chunks of keys, always the same ones: threads wait for each other, and add up.
template <int D, class Cache>
GRAPHLLM_ONCE void attention(const Step& step, const float* q, Cache keys, Cache values, float* y, int rows, Heads heads,
                             float scale, int window, unsigned char* shared) {
    constexpr int LD = up(D, LANE), M = SUMS / vectors_together(LD / LANE);
    const int group = heads.queries / heads.keys;
    float *block = reinterpret_cast<float*>(step.scratch), *queries = block + KEYS * LD, *fade = queries + group * LD;
    float(*scores)[KEYS] = reinterpret_cast<float(*)[KEYS]>(fade + up(group, LANES));
    const auto first_of = [&](int t) { return window > 0 && step.pos[t] >= window ? step.pos[t] + 1 - window : 0; };
    const auto chunks_of = [&](int t) { return shared ? (step.pos[t] - first_of(t)) / CHUNK + 1 : 1; };
    int chunks = 1;
    for (int t = 0; t < rows; ++t) chunks = chunks_of(t) > chunks ? chunks_of(t) : chunks;
    const auto part = [&](int i) {
        return Group<LD>(reinterpret_cast<float*>(shared) + i * Group<LD>::floats(group), group);
    };
    const Group<LD> own(scores[group], group);

    const auto piece = [&](int i) {
        const int t = i / chunks / heads.keys, head = i / chunks % heads.keys, chunk = i % chunks;
        if (chunk >= chunks_of(t)) return;
        const int first = first_of(t) + chunk * CHUNK, past = step.pos[t] + 1;
        const int end = shared && first + CHUNK < past ? first + CHUNK : past;
        const long place = (long(t) * heads.queries + head * group) * D;
        const long cache = (long(step.slot[t]) * heads.keys + head) * heads.context;
        const Group<LD> result = chunks > 1 ? part(i) : own;
        std::memset(result.out, 0, group * LD * sizeof(float));
        for (int h = 0; h < group; ++h) {
            std::memcpy(queries + h * LD, q + place + h * D, D * sizeof(float));
            if (LD > D) std::memset(queries + h * LD + D, 0, (LD - D) * sizeof(float));
            result.most[h] = LOWEST, result.total[h] = 0;
        }
        for (int j = first; j < end; j += KEYS) {
            const int n = end - j < KEYS ? end - j : KEYS;
            expect<D>(values, cache + j, n);
            score<LD>(queries, group, rows_at<D, LD>(keys, cache + j, n, block), n, scale, scores);
            for (int h = 0; h < group; ++h) fade[h] = soften(scores[h], n, result.most[h], result.total[h]);
            if (end - j > KEYS) expect<D>(keys, cache + j + KEYS, end - j - KEYS < KEYS ? end - j - KEYS : KEYS);
            mix<LD, M>(scores, group, rows_at<D, LD>(values, cache + j, n, block), n, fade, result.out);
        }
        if (chunks > 1) return;
        for (int h = 0; h < group; ++h) divide(result.out + h * LD, D, result.total[h], y + place + h * D);
    };
    for (Turns turns(step, rows * heads.keys * chunks); turns.next();)
        for (int i = turns.first; i < turns.last; ++i) piece(i);
    if (chunks == 1) return;
    step.wait();
    const auto together = [&](int i) {
        const int t = i / heads.queries, h = i % group, base = i / group * chunks;
        float most = LOWEST, total = 0;
        for (int c = 0; c < chunks_of(t); ++c) most = part(base + c).most[h] > most ? part(base + c).most[h] : most;
        std::memset(block, 0, LD * sizeof(float));
        for (int c = 0; c < chunks_of(t); ++c) {
            const Group<LD> from = part(base + c);
            const float weight = exp(all(from.most[h] - most))[0];
            total += from.total[h] * weight;
            for_lanes(LD, block, [weight](VF a, VF b) { return a + b * weight; }, static_cast<const float*>(block),
                      static_cast<const float*>(from.out + h * LD));
        }
        divide(block, D, total, y + long(i) * D);
    };
    for (Turns turns(step, rows * heads.queries); turns.next();)
        for (int i = turns.first; i < turns.last; ++i) together(i);
}

}  // namespace graphllm
