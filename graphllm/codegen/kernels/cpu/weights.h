// How a matrix [N,K] is stored, and what a product of few rows needs of it. Every kind has
//
//   row()                             bytes that an activation row takes once it is staged, a multiple of 64
//   stage(x, to)                      bring a row of activations to the form that the weights want
//   few<T, R>(streams, count, rows, ld)   T staged rows times the next ``count`` weight rows of R streams
//   settled(x, room)                  a row of activations as the product takes it, f32; ``room`` has row() + 4 * k
//   widened(row, k0, n, to)           elements k0 … k0+n of weight row ``row``, as f32
//   ELEMENT, at(row, k0), scale_at(row, k0)   bytes of an element; where element k0 of weight row ``row`` is stored, and its
//                                     scale, or anything that is near where there is none
//   SPLIT                             elements of a word of 32 bits that widen well side by side, or 1; if more:
//   splits()                          whether rows and groups are whole words
//   scaled(k0), scale_of(row, k0)     elements from k0 on that have a scale in common, and that scale
//   widened(word, e, scale)           element e of each word, as f32
#pragma once

#include "embed.h"

namespace graphllm {

// How weights come from memory fastest is for the machine to say. With AVX2 alone (measured: Zen 3) it is in several streams
// far enough apart for the machine's own prefetcher to follow each, and asking for what comes next takes a fifth; with
// AVX-512 (Zen 4) it is in one stream, asked for ahead.
#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX2__) && !defined(__AVX512F__)
constexpr int STREAMS = 4;
#else
constexpr int STREAMS = 1;
#endif
constexpr int side_by_side(int rows) { return STREAMS > rows ? STREAMS / rows : 1; }  // so many sums fit registers

// Weight rows that are read side by side: the i-th of stream r is row[r] + i, and its product with staged row t goes to
// out[r][t*ld + i].
template <int R>
struct Streams {
    long row[R];
    float* out[R];

    static Streams apart(long n0, float* out, int rows) {
        Streams s;
        for (int r = 0; r < R; ++r) s.row[r] = n0 + long(r) * rows, s.out[r] = out + long(r) * rows;
        return s;
    }
};

// Asks for weights that are some bytes on, into the second-level cache: the machine's own prefetcher stops where pages of
// 4 kB end, and the first level, which holds activations, has few misses on their way at a time.
// Inline by order: gcc drops calls of a function that only asks, as without effect.
GRAPHLLM_INLINE void ahead(const void* weights, long bytes) {
    if (STREAMS == 1) __builtin_prefetch(static_cast<const char*>(weights) + bytes, 0, 2);
}
constexpr int SOON = 1536, LATER = 8192;  // LATER where there is more to do for weights than to wait for them

// Elements of a row: the weights of longer ones push activations out of a first-level cache, some or nearly all.
constexpr int LONG_ROW = 4096, LONGER_ROW = 6144;

// Partial sums of one row: two by two.
inline VF all_of(const VF (&sums)[1]) { return sums[0]; }
inline VF all_of(const VF (&sums)[2]) { return sums[0] + sums[1]; }
inline VF all_of(const VF (&sums)[4]) { return (sums[0] + sums[1]) + (sums[2] + sums[3]); }

constexpr int up(int n, int to) { return (n + to - 1) / to * to; }

// Floats: row n at w + n*k.
template <class S>
struct Dense {
    const S* w;
    int k;

    static constexpr int ELEMENT = sizeof(S), SPLIT = 1;
    const void* at(long row, int k0) const { return w + row * k + k0; }
    const void* scale_at(long row, int k0) const { return at(row, k0); }
    static constexpr long row_bytes(int k) { return 4L * up(k, 2 * LANES); }
    long row() const { return row_bytes(k); }

    void stage(const float* x, unsigned char* to) const {
        float* y = reinterpret_cast<float*>(to);
        std::memmove(y, x, k * sizeof(float));
        std::memset(y + k, 0, (up(k, 2 * LANES) - k) * sizeof(float));
    }

    // Of one stream one row at a time. But four where rows are so short that the model is in a cache, for there is more to do
    // at once, or so long that activations come from the second-level cache, for they come once for all four.
    template <int T, int R>
    void few(const Streams<R>& streams, int count, const unsigned char* rows, int ld) const {
        int i = 0;
        if constexpr (R == 1) {
            const auto four = [&](int at) { return Streams<4>::apart(streams.row[0] + at, streams.out[0] + at, 1); };
            if (k <= SHORT_ROW)
                for (; i + 4 <= count; i += 4) some<T, 4, 0>(four(i), 0, rows, ld);
            else if (k > LONG_ROW)
                for (; i + 4 <= count; i += 4) some<T, 4, SOON>(four(i), 0, rows, ld);
        }
        for (; i < count; ++i) some<T, R, SOON>(streams, i, rows, ld);
    }

    void widened(long row, int k0, int n, float* to) const { widen(w + row * k + k0, n, to); }
    const float* settled(const float* x, unsigned char*) const { return x; }

  private:
    static constexpr int SHORT_ROW = 512;

    // The i-th row of each stream.
    template <int T, int R, int AHEAD>
    void some(const Streams<R>& streams, int i, const unsigned char* rows, int ld) const {
        constexpr int SUMS = STREAMS > 1 ? 1 : 2;  // of a row: so many that additions do not wait for one another
        const float* x = reinterpret_cast<const float*>(rows);
        const long ldx = row() / 4;
        VF sums[R][T][SUMS] = {};
        const S* from[R];
        for (int r = 0; r < R; ++r) from[r] = w + (streams.row[r] + i) * k;
        int j = 0;
        for (; j + SUMS * LANES <= k; j += SUMS * LANES)
            for (int r = 0; r < R; ++r)
                for (int s = 0; s < SUMS; ++s) {
                    const int at = j + s * LANES;
                    if (AHEAD > 0 && (s == 0 || sizeof(S) == 4)) ahead(from[r] + at, AHEAD);
                    const VF a = load(from[r] + at);
                    for (int t = 0; t < T; ++t) sums[r][t][s] += a * load(x + t * ldx + at);
                }
        for (; j < k; j += LANES)
            for (int r = 0; r < R; ++r) {
                const VF a = load_part(from[r] + j, k - j < LANES ? k - j : LANES);
                for (int t = 0; t < T; ++t) sums[r][t][0] += a * load(x + t * ldx + j);
            }
        for (int r = 0; r < R; ++r)
            for (int t = 0; t < T; ++t) streams.out[r][t * ld + i] = sum(all_of(sums[r][t]));
    }
};

// bf16: thirty-two at a time are sixteen words, whose halves become f32 by a shift and by a mask. So activations are
// staged as the even ones of thirty-two, then the odd ones.
template <>
struct Dense<bf16> {
    const bf16* w;
    int k;

    static constexpr int ELEMENT = 2, SPLIT = 2;
    const void* at(long row, int k0) const { return w + row * k + k0; }
    const void* scale_at(long row, int k0) const { return at(row, k0); }
    bool splits() const { return k % SPLIT == 0; }
    int scaled(int k0) const { return k - k0; }
    static float scale_of(long, int) { return 1; }
    static NF widened(NI word, int e, NF) { return NF(e ? word & int32_t(0xffff0000) : word << 16); }
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

    template <int T, int R>
    void few(const Streams<R>& streams, int count, const unsigned char* rows, int ld) const {
        if constexpr (R == 1)
            if (STREAMS == 1 && T * k > LONGER_ROW) return in_parts<T>(streams, count, rows, ld);
        for (int i = 0; i < count; ++i) {
            Sums<T> sums[R];
            add<T, R>(streams, i, 0, k, T * k > LONG_ROW ? LATER : SOON, rows, sums);
            leave<T, R>(sums, streams, i, ld);
        }
    }

    void widened(long row, int k0, int n, float* to) const { widen(w + row * k + k0, n, to); }
    const float* settled(const float* x, unsigned char*) const { return x; }

  private:
    static constexpr int SUMS = STREAMS > 1 ? 1 : 4;  // of a row: so many that additions do not wait for one another
    template <int T>
    using Sums = VF[T][SUMS];

    template <int T, int R>
    static void leave(const Sums<T>* sums, const Streams<R>& streams, int i, int ld) {
        for (int r = 0; r < R; ++r)
            for (int t = 0; t < T; ++t) streams.out[r][t * ld + i] = sum(all_of(sums[r][t]));
    }

    // A bunch of weights' rows meets a part of the activations before the next part is fetched. What is asked for ahead
    // is the same place in the part that comes next.
    template <int T>
    void in_parts(const Streams<1>& stream, int count, const unsigned char* rows, int ld) const {
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
                    add<T, 1>(stream, i + r, from, last ? k : from + part, r + 1 < some ? row_bytes : back, rows, &sums[r]);
            }
            for (int r = 0; r < some; ++r) leave<T, 1>(&sums[r], stream, i + r, ld);
        }
    }

    // Elements from … end of the i-th row of each stream, added to what those before ``from`` gave.
    template <int T, int R>
    void add(const Streams<R>& streams, int i, int from, int end, long next, const unsigned char* rows, Sums<T>* total) const {
        const float* x = reinterpret_cast<const float*>(rows);
        const long ldx = row() / 4;
        Sums<T> sums[R] = {};  // in registers
        if (from > 0) std::memcpy(sums, total, sizeof sums);
        const bf16* w_row[R];
        for (int r = 0; r < R; ++r) w_row[r] = w + (streams.row[r] + i) * k;
        const auto products = [&](int r, int half, int j, const VU& words) {
            const VF even = as<VF>(words << 16), odd = as<VF>(words & 0xffff0000u);
            for (int t = 0; t < T; ++t) {
                sums[r][t][2 * half % SUMS] += even * load(x + t * ldx + j);
                sums[r][t][(2 * half + 1) % SUMS] += odd * load(x + t * ldx + j + LANES);
            }
        };
        constexpr int HALVES = (SUMS + 1) / 2;
        int j = from;
        for (; j + HALVES * PAIRS <= end; j += HALVES * PAIRS)
            for (int half = 0; half < HALVES; ++half)
                for (int r = 0; r < R; ++r) {
                    const bf16* at = w_row[r] + j + half * PAIRS;
                    ahead(at, next);
                    products(r, half, j + half * PAIRS, load_words<uint32_t>(at));
                }
        for (; j < end; j += PAIRS)
            for (int r = 0; r < R; ++r) {
                bf16 some[PAIRS] = {};
                std::memcpy(some, w_row[r] + j, (end - j < PAIRS ? end - j : PAIRS) * sizeof(bf16));
                products(r, 0, j, load_words<uint32_t>(some));
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

    static constexpr int ELEMENT = 1, SPLIT = 1;
    const void* at(long row, int k0) const { return q + row * k + k0; }
    const void* scale_at(long row, int k0) const {
        return scale + (FLAT ? (row * k + k0) / group : row * ((k + group - 1) / group) + k0 / group);
    }
    static constexpr long row_bytes(int k) { return 4L * up(k, 2 * LANES); }
    long row() const { return row_bytes(k); }

    void stage(const float* x, unsigned char* to) const { Dense<float>{nullptr, k}.stage(x, to); }

    template <int T, int R>
    void few(const Streams<R>& streams, int count, const unsigned char* rows, int ld) const {
        for (int r = 0; r < R; ++r)
            for (int i = 0; i < count; ++i) one<T>(streams.row[r] + i, rows, streams.out[r] + i, ld);
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
