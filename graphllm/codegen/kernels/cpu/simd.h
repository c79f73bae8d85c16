// Sixteen lanes, as many registers of the machine as they take. Every sum is kept in these lanes and added up in one
// fixed order, so that a result follows from the numbers alone and not from the width of the machine's registers.
#pragma once

#include "intrinsics.h"
#include "types.h"

namespace graphllm {

// Bytes of a register. Vectors that are wider live in memory with some compilers, whatever is done with them.
#if defined(__AVX512F__)
constexpr int WIDE = 64;
#elif defined(__AVX2__)
constexpr int WIDE = 32;
#else
constexpr int WIDE = 16;
#endif
constexpr int LANES = 16, LANE = WIDE / 4;  // LANE: those of a register
constexpr int PARTS = LANES / LANE;

// What <cmath> and <algorithm> would be wanted for goes by the compiler's own names, or is a line: to read the two takes a
// tenth of a second or two of every part of a build.
constexpr float INF = __builtin_inff();

template <class V>
inline V read(const void* from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

template <class E>
struct Lanes {
    typedef E Part __attribute__((vector_size(WIDE)));
    Part part[PARTS];

    E operator[](int l) const { return part[l / LANE][l % LANE]; }
};
typedef Lanes<float> VF;
typedef Lanes<int32_t> VI;
typedef Lanes<uint32_t> VU;
typedef VF::Part NF;
typedef VI::Part NI;

// f of each register of the operands.
template <class R, class F, class... V>
inline R parts(F f, const V&... v) {
    R r;
    for (int i = 0; i < PARTS; ++i) r.part[i] = f(v.part[i]...);
    return r;
}

template <class E>
inline Lanes<E> all(E x) {
    return parts<Lanes<E>>([x](typename Lanes<E>::Part zero) { return x - zero; }, Lanes<E>{});  // x + 0 is not -0
}

#define GRAPHLLM_OPERATOR(R, OP)                                                                   \
    template <class E>                                                                             \
    inline R operator OP(const Lanes<E>& a, const Lanes<E>& b) {                                   \
        return parts<R>([](auto p, auto q) { return p OP q; }, a, b);                              \
    }                                                                                              \
    template <class E>                                                                             \
    inline R operator OP(const Lanes<E>& a, decltype(E() + E()) b) {                               \
        return a OP all(E(b));                                                                     \
    }
GRAPHLLM_OPERATOR(Lanes<E>, +)
GRAPHLLM_OPERATOR(Lanes<E>, -)
GRAPHLLM_OPERATOR(Lanes<E>, *)
GRAPHLLM_OPERATOR(Lanes<E>, /)
GRAPHLLM_OPERATOR(Lanes<E>, &)
GRAPHLLM_OPERATOR(Lanes<E>, |)
GRAPHLLM_OPERATOR(VI, <=)
GRAPHLLM_OPERATOR(VI, >=)
GRAPHLLM_OPERATOR(VI, <)
GRAPHLLM_OPERATOR(VI, >)
GRAPHLLM_OPERATOR(VI, ==)
GRAPHLLM_OPERATOR(VI, !=)
#undef GRAPHLLM_OPERATOR

template <class E>
inline Lanes<E> operator<<(const Lanes<E>& a, int by) {
    return parts<Lanes<E>>([by](auto p) { return p << by; }, a);
}
template <class E>
inline Lanes<E> operator>>(const Lanes<E>& a, int by) {
    return parts<Lanes<E>>([by](auto p) { return p >> by; }, a);
}
template <class E>
inline Lanes<E> operator-(const Lanes<E>& a) {
    return parts<Lanes<E>>([](auto p) { return -p; }, a);
}
template <class E, class B>
inline Lanes<E>& operator+=(Lanes<E>& a, const B& b) {
    return a = a + b;
}
template <class E, class B>
inline Lanes<E>& operator*=(Lanes<E>& a, const B& b) {
    return a = a * b;
}

// a where the lane of a comparison holds, else b.
template <class E>
inline Lanes<E> select(const VI& where, const Lanes<E>& a, const Lanes<E>& b) {
    return parts<Lanes<E>>([](auto w, auto p, auto q) { return w ? p : q; }, where, a, b);
}

// The same bits under another type, and the same numbers.
template <class To, class E>
inline To as(const Lanes<E>& x) {
    return parts<To>([](auto p) { return typename To::Part(p); }, x);
}
template <class To, class E>
inline To to(const Lanes<E>& x) {
    return parts<To>([](auto p) { return __builtin_convertvector(p, typename To::Part); }, x);
}

template <class E>
inline Lanes<E> load_words(const void* x) {
    Lanes<E> v;
    for (int i = 0; i < PARTS; ++i) v.part[i] = read<typename Lanes<E>::Part>(static_cast<const char*>(x) + i * WIDE);
    return v;
}
inline VF load(const float* x) { return load_words<float>(x); }

// Conversions are single instructions that compilers do not all find by themselves; the loops they do.
inline VF load(const bf16* x) {
#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX512F__)
    return VF{{NF(_mm512_slli_epi32(_mm512_cvtepu16_epi32(read<__m256i>(x)), 16))}};
#elif !defined(GRAPHLLM_PORTABLE) && defined(__AVX2__)
    const auto half = [](const bf16* at) { return NF(_mm256_slli_epi32(_mm256_cvtepu16_epi32(read<__m128i>(at)), 16)); };
    return VF{{half(x), half(x + 8)}};
#else
    uint32_t bits[LANES];
    for (int l = 0; l < LANES; ++l) bits[l] = uint32_t(x[l].bits) << 16;
    return load_words<float>(bits);
#endif
}

inline VF load(const f16* x) {
#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX512F__)
    return VF{{NF(_mm512_cvtph_ps(read<__m256i>(x)))}};
#elif !defined(GRAPHLLM_PORTABLE) && defined(__AVX2__) && defined(__F16C__)
    return VF{{NF(_mm256_cvtph_ps(read<__m128i>(x))), NF(_mm256_cvtph_ps(read<__m128i>(x + 8)))}};
#else
    float y[LANES];
    for (int l = 0; l < LANES; ++l) y[l] = to_float(x[l]);
    return load(y);
#endif
}

inline VF load(const int8_t* x) {
#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX512F__)
    return VF{{NF(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(read<__m128i>(x))))}};
#elif !defined(GRAPHLLM_PORTABLE) && defined(__AVX2__)
    const __m128i v = read<__m128i>(x);
    return VF{{NF(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v))),
               NF(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(v, v))))}};
#else
    float y[LANES];
    for (int l = 0; l < LANES; ++l) y[l] = float(x[l]);
    return load(y);
#endif
}

// The first n lanes; the others are 0, and nothing behind them is touched.
template <class S>
inline VF load_part(const S* x, int n) {
    S room[LANES] = {};
    std::memcpy(room, x, n * sizeof(S));
    return load(room);
}
#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX2__) && !defined(__AVX512F__)
template <>
inline VF load_part(const float* x, int n) {
    static const int32_t there[2 * LANES] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    const int32_t* from = there + LANES - n;
    return VF{{NF(_mm256_maskload_ps(x, read<__m256i>(from))), NF(_mm256_maskload_ps(x + 8, read<__m256i>(from + 8)))}};
}
#if defined(__F16C__)
template <>
inline VF load_part(const f16* x, int n) {
    if (n < 8) {
        f16 room[8] = {};
        std::memcpy(room, x, n * sizeof(f16));
        return VF{{NF(_mm256_cvtph_ps(read<__m128i>(room)))}};
    }
    // the last eight, moved down over those that the first eight have
    static const uint8_t order[32] = {0,    1,    2,    3,    4,    5,    6,    7,    8,    9,    10,
                                      11,   12,   13,   14,   15,   0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
                                      0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80};
    const __m128i rest = _mm_shuffle_epi8(read<__m128i>(x + n - 8), read<__m128i>(order + 2 * (16 - n)));
    return VF{{NF(_mm256_cvtph_ps(read<__m128i>(x))), NF(_mm256_cvtph_ps(rest))}};
}
#endif
#endif
#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX512BW__) && defined(__AVX512VL__)
template <>
inline VF load_part(const float* x, int n) {
    return VF{{NF(_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), x))}};
}
template <>
inline VF load_part(const f16* x, int n) {
    return VF{{NF(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), x)))}};
}
#endif

template <class E>
inline void store(E* to, const Lanes<E>& v) {
    for (int i = 0; i < PARTS; ++i) std::memcpy(to + i * LANE, &v.part[i], WIDE);
}
template <class E>
inline void store_part(E* to, const Lanes<E>& v, int n) {
    E room[LANES];
    store(room, v);
    std::memcpy(to, room, n * sizeof(E));
}

inline float sum(const VF& v) {
    typedef float V4 __attribute__((vector_size(16)));
    float lanes[LANES];
    store(lanes, v);
    const V4 four = (read<V4>(lanes) + read<V4>(lanes + 8)) + (read<V4>(lanes + 4) + read<V4>(lanes + 12));
    return (four[0] + four[2]) + (four[1] + four[3]);
}

inline VF larger(const VF& a, const VF& b) { return select(a > b, a, b); }

// e^x in f32, within 2 units of the last place: 2^n times a polynomial of degree 6 on [-ln2/2, ln2/2]. Below -87.3 it
// gives 0, above 88.7 infinity; NaN stays NaN.
GRAPHLLM_INLINE VF exp(const VF& x) {
    const VF n_shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: the fraction is rounded away
    const VF n = n_shifted - 12582912.0f;
    const VF r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    VF p = all(1.0f / 720);
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const VI power = (as<VI>(n_shifted) - 0x4b400000 + 127) << 23;
    VF y = p * as<VF>(power);
    y = select(x < -87.3f, all(0.0f), y);
    y = select(x > 88.0f, all(INF), y);
    return select(x != x, x, y);
}

}  // namespace graphllm
