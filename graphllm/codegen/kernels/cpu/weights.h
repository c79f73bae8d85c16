// How a matrix [N,K] is stored, and what a product of few rows needs of it. Every kind has
//
//   row()                             bytes that an activation row takes once it is staged, a multiple of 64
//   stage(x, to)                      bring a row of activations to the form that the weights want
//   few<T>(n0, count, rows, out, ld)  out[t*ld + i] = staged row t . weight row n0 + i, T rows and ``count`` weights' rows
//   settled(x, room)                  a row of activations as the product takes it, f32; ``room`` has row() + 4 * k
//   widened(row, k0, n, to)           elements k0 … k0+n of weight row ``row``, as f32
//   ELEMENT, at(row, k0)              bytes of an element, and where element k0 of weight row ``row`` is stored
#pragma once

#include "embed.h"

namespace graphllm {

// Asks for weights that are some bytes on, into the second-level cache: the machine's own prefetcher stops where pages of
// 4 kB end, and the first level, which holds activations, has few misses on their way at a time.
// Inline by order: gcc drops calls of a function that only asks, as without effect.
GRAPHLLM_INLINE void ahead(const void* weights, long bytes) {
    __builtin_prefetch(static_cast<const char*>(weights) + bytes, 0, 2);
}
constexpr int SOON = 1536, LATER = 8192;  // LATER where there is more to do for weights than to wait for them

// Elements of a row: the weights of longer ones push activations out of a first-level cache, some or nearly all.
constexpr int LONG_ROW = 4096, LONGER_ROW = 6144;

constexpr int up(int n, int to) { return (n + to - 1) / to * to; }

// Floats: row n at w + n*k.
template <class S>
struct Dense {
    const S* w;
    int k;

    static constexpr int ELEMENT = sizeof(S);
    const void* at(long row, int k0) const { return w + row * k + k0; }
    static constexpr long row_bytes(int k) { return 4L * up(k, 2 * LANES); }
    long row() const { return row_bytes(k); }

    void stage(const float* x, unsigned char* to) const {
        float* y = reinterpret_cast<float*>(to);
        std::memmove(y, x, k * sizeof(float));
        std::memset(y + k, 0, (up(k, 2 * LANES) - k) * sizeof(float));
    }

    // One row at a time: one stream from memory is what the machine's own prefetcher follows best. But four where rows are
    // so short that the model is in a cache, for there is more to do at once, or so long that activations come from the
    // second-level cache, for they come once for all four.
    template <int T>
    void few(long n0, int count, const unsigned char* rows, float* out, int ld) const {
        int i = 0;
        if (k <= SHORT_ROW)
            for (; i + 4 <= count; i += 4) some<T, 4, 0>(n0 + i, rows, out + i, ld);
        if (k > LONG_ROW)
            for (; i + 4 <= count; i += 4) some<T, 4, SOON>(n0 + i, rows, out + i, ld);
        for (; i < count; ++i) some<T, 1, SOON>(n0 + i, rows, out + i, ld);
    }

    void widened(long row, int k0, int n, float* to) const { widen(w + row * k + k0, n, to); }
    const float* settled(const float* x, unsigned char*) const { return x; }

  private:
    static constexpr int SHORT_ROW = 512;

    template <int T, int R, int AHEAD>
    void some(long n, const unsigned char* rows, float* out, int ld) const {
        const float* x = reinterpret_cast<const float*>(rows);
        const long ldx = row() / 4;
        VF sums[R][T][2] = {};  // two, so that additions do not wait for one another
        const S* w_row = w + n * k;
        int i = 0;
        for (; i + 2 * LANES <= k; i += 2 * LANES)
            for (int r = 0; r < R; ++r) {
                const S* at = w_row + long(r) * k + i;
                if (AHEAD > 0) ahead(at, AHEAD);
                if (AHEAD > 0 && sizeof(S) == 4) ahead(at + LANES, AHEAD);
                const VF a = load(at), b = load(at + LANES);
                for (int t = 0; t < T; ++t) {
                    sums[r][t][0] += a * load(x + t * ldx + i);
                    sums[r][t][1] += b * load(x + t * ldx + i + LANES);
                }
            }
        for (; i < k; i += LANES)
            for (int r = 0; r < R; ++r) {
                const VF a = load_part(w_row + long(r) * k + i, k - i < LANES ? k - i : LANES);
                for (int t = 0; t < T; ++t) sums[r][t][0] += a * load(x + t * ldx + i);
            }
        for (int t = 0; t < T; ++t)
            for (int r = 0; r < R; ++r) out[t * ld + r] = sum(sums[r][t][0] + sums[r][t][1]);
    }
};

// bf16: thirty-two at a time are sixteen words, whose halves become f32 by a shift and by a mask. So activations are
// staged as the even ones of thirty-two, then the odd ones.
template <>
struct Dense<bf16> {
    const bf16* w;
    int k;

    static constexpr int ELEMENT = 2;
    const void* at(long row, int k0) const { return w + row * k + k0; }
    static constexpr int PAIRS = 2 * LANES;
    static constexpr long row_bytes(int k) { return 4L * up(k, PAIRS); }
    long row() const { return row_bytes(k); }

    void stage(const float* x, unsigned char* to) const {
        float* y = reinterpret_cast<float*>(to);
        float last[PAIRS] = {};
        for (int i = 0; i < k; i += PAIRS) {
            const float* from = x + i;
            if (k - i < PAIRS) {
                std::memcpy(last, from, (k - i) * sizeof(float));
                from = last;
            }
            for (int j = 0; j < LANES; ++j) {
                y[i + j] = from[2 * j];
                y[i + LANES + j] = from[2 * j + 1];
            }
        }
    }

    template <int T>
    void few(long n0, int count, const unsigned char* rows, float* out, int ld) const {
        if (T * k > LONGER_ROW) return in_parts<T>(n0, count, rows, out, ld);
        for (int i = 0; i < count; ++i) {
            Sums<T> sums;
            add<T>(n0 + i, 0, k, T * k > LONG_ROW ? LATER : SOON, rows, sums);
            leave<T>(sums, out + i, ld);
        }
    }

    void widened(long row, int k0, int n, float* to) const { widen(w + row * k + k0, n, to); }
    const float* settled(const float* x, unsigned char*) const { return x; }

  private:
    template <int T>
    using Sums = VF[T][4];  // four, so that additions do not wait for one another

    template <int T>
    static void leave(const Sums<T>& sums, float* out, int ld) {
        for (int t = 0; t < T; ++t) out[t * ld] = sum((sums[t][0] + sums[t][1]) + (sums[t][2] + sums[t][3]));
    }

    // A bunch of weights' rows meets a part of the activations before the next part is fetched. What is asked for ahead
    // is the same place in the part that comes next.
    template <int T>
    void in_parts(long n0, int count, const unsigned char* rows, float* out, int ld) const {
        constexpr int BUNCH = 8;
        const int parts = (T * k + LONG_ROW - 1) / LONG_ROW, part = up((k + parts - 1) / parts, 2 * PAIRS);
        const long row_bytes = 2L * k, part_bytes = 2L * part;
        for (int i = 0; i < count; i += BUNCH) {
            const int some = count - i < BUNCH ? count - i : BUNCH;
            Sums<T> sums[BUNCH];
            for (int from = 0; from < k; from += part) {
                const bool last = from + part >= k;
                const long back = last ? row_bytes - 2L * from : part_bytes - (some - 1) * row_bytes;
                for (int r = 0; r < some; ++r)
                    add<T>(n0 + i + r, from, last ? k : from + part, r + 1 < some ? row_bytes : back, rows, sums[r]);
            }
            for (int r = 0; r < some; ++r) leave<T>(sums[r], out + i + r, ld);
        }
    }

    // Elements from … end of row n, added to what those before ``from`` gave.
    template <int T>
    void add(long n, int from, int end, long next, const unsigned char* rows, Sums<T>& total) const {
        const float* x = reinterpret_cast<const float*>(rows);
        const long ldx = row() / 4;
        Sums<T> sums = {};  // in registers
        if (from > 0) std::memcpy(sums, total, sizeof sums);
        const bf16* w_row = w + n * k;
        const auto products = [&](int half, int i, const VU& words) {
            const VF even = as<VF>(words << 16), odd = as<VF>(words & 0xffff0000u);
            for (int t = 0; t < T; ++t) {
                sums[t][2 * half] += even * load(x + t * ldx + i);
                sums[t][2 * half + 1] += odd * load(x + t * ldx + i + LANES);
            }
        };
        int i = from;
        for (; i + 2 * PAIRS <= end; i += 2 * PAIRS)
            for (int half = 0; half < 2; ++half) {
                const bf16* at = w_row + i + half * PAIRS;
                ahead(at, next);
                products(half, i + half * PAIRS, load_words<uint32_t>(at));
            }
        for (; i < end; i += PAIRS) {
            bf16 some[PAIRS] = {};
            std::memcpy(some, w_row + i, (end - i < PAIRS ? end - i : PAIRS) * sizeof(bf16));
            products(0, i, load_words<uint32_t>(some));
        }
        std::memcpy(total, sums, sizeof sums);
    }
};

// bf16 weights, and activations that are rounded to bf16 too.
struct Both16 : Dense<bf16> {
    void stage(const float* x, unsigned char* to) const {
        Dense<bf16>::stage(x, to);
        round(reinterpret_cast<float*>(to), reinterpret_cast<float*>(to), int(row() / 4));
    }

    const float* settled(const float* x, unsigned char* room) const {
        float* y = reinterpret_cast<float*>(room);
        round(x, y, k);
        return y;
    }

  private:
    static void round(const float* x, float* y, int n) {
        for (int i = 0; i < n; ++i) {
            bf16 narrow;
            from_float(x[i], narrow);
            y[i] = to_float(narrow);
        }
    }
};

// int8 with a scale for every ``group`` elements. ``FLAT``: groups run over the whole matrix and may straddle rows;
// else each row has ceil(k/group) of its own.
template <class S, bool FLAT>
struct Int8 {
    const int8_t* q;
    const S* scale;
    int k, group;

    static constexpr int ELEMENT = 1;
    const void* at(long row, int k0) const { return q + row * k + k0; }
    static constexpr long row_bytes(int k) { return 4L * up(k, 2 * LANES); }
    long row() const { return row_bytes(k); }

    void stage(const float* x, unsigned char* to) const { Dense<float>{nullptr, k}.stage(x, to); }

    template <int T>
    void few(long n0, int count, const unsigned char* rows, float* out, int ld) const {
        for (int i = 0; i < count; ++i) one<T>(n0 + i, rows, out + i, ld);
    }

    void widened(long row, int k0, int n, float* to) const {
        for (int i = 0; i < n;) {
            const Piece p = piece(row, k0 + i);
            const int m = p.n < n - i ? p.n : n - i;
            for_lanes(m, to + i, [&](VF v) { return v * p.scale; }, q + row * k + k0 + i);
            i += m;
        }
    }

    const float* settled(const float* x, unsigned char*) const { return x; }

  private:
    struct Piece {
        int n;  // elements of the row that are left under this scale
        float scale;
    };

    Piece piece(long row, int at) const {
        if (FLAT) {
            const long element = row * k + at;
            const int in_group = group - int(element % group);
            return {in_group < k - at ? in_group : k - at, to_float(scale[element / group])};
        }
        const int in_group = group - at % group, groups = (k + group - 1) / group;
        return {in_group < k - at ? in_group : k - at, to_float(scale[row * groups + at / group])};
    }

    template <int T>
    void one(long n, const unsigned char* rows, float* out, int ld) const {
        const float* x = reinterpret_cast<const float*>(rows);
        const long ldx = row() / 4;
        const int8_t* row = q + n * k;
        VF sums[T] = {};
        for (int at = 0; at < k;) {
            const Piece p = piece(n, at);
            VF in_group[T] = {};
            const int end = at + p.n;
            for (int i = at; i < end; i += LANES) {
                const int left = end - i < LANES ? end - i : LANES;
                const VF a = left < LANES ? load_part(row + i, left) : load(row + i);
                for (int t = 0; t < T; ++t)
                    in_group[t] += a * (left < LANES ? load_part(x + t * ldx + i, left) : load(x + t * ldx + i));
            }
            for (int t = 0; t < T; ++t) sums[t] += in_group[t] * p.scale;
            at = end;
        }
        for (int t = 0; t < T; ++t) out[t * ld] = sum(sums[t]);
    }
};

template <class S>
using Flat = Int8<S, true>;

}  // namespace graphllm
