// The innermost loops of blocked products. Both sides are cut into cells of 32 bits: one f32, two bf16, four int8 or two of 16 bits,
// whatever one instruction takes of K at a time. Weights lie in panels [cell][PANEL], activations in stacks
// [cell][STACK]; a tile of R rows and COLUMNS vectors stays in registers for the whole depth of a panel.
#pragma once

#include "called.h"
#include "integer.h"

namespace graphllm {

// By the registers of the machine at hand: a tile has TALL rows where a sum is one register, SHORT where
// it is two.
#if defined(__AVX512F__)
constexpr int COLUMNS = 2, TALL = 12, SHORT = 6;  // 24 of 32 registers hold sums
#elif defined(__AVX2__)
constexpr int COLUMNS = 2, TALL = 6, SHORT = 3;  // 12 of 16
#elif defined(__aarch64__)
constexpr int COLUMNS = 4, TALL = 6, SHORT = 3;  // 24 of 32
#else
constexpr int COLUMNS = 4, TALL = 3, SHORT = 3;  // 12 of 16
#endif
constexpr int PANEL = COLUMNS * LANE;  // columns of a packed panel
constexpr int STACK = 12;              // rows of activations that lie cell by cell: a multiple of every TALL

typedef uint32_t Cell;

// How a cell of activations is multiplied into the sums of LANE columns.
struct DotF32 {
    typedef NF Sum;
    static Sum add(Sum sum, const Cell* w, const Cell* x) { return sum + read<NF>(w) * read<float>(x); }
};

#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX512BF16__)
#define GRAPHLLM_DOT_BF16 1
struct DotBf16 {
    typedef NF Sum;
    static Sum add(Sum sum, const Cell* w, const Cell* x) {
        return NF(_mm512_dpbf16_ps(__m512(sum), (__m512bh)_mm512_loadu_si512(w), (__m512bh)_mm512_set1_epi32(int(*x))));
    }
};
#endif

// Integer sums are exact. Where the instruction takes weights for unsigned they are packed as w + 128, FLIP, and sums
// start at -128 times the sum of the activations.
#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define GRAPHLLM_DOT_INT8 1
struct DotInt8 {
    typedef NI Sum;
    typedef int8_t Element;
    static constexpr Cell FLIP = 0x80808080;
    static Sum add(Sum sum, const Cell* w, const Cell* x) {
        return NI(_mm512_dpbusd_epi32(__m512i(sum), _mm512_loadu_si512(w), _mm512_set1_epi32(int(*x))));
    }
};
#elif !defined(GRAPHLLM_PORTABLE) && defined(__AVX2__) && defined(__AVXVNNI__)
#define GRAPHLLM_DOT_INT8 1
struct DotInt8 {
    typedef NI Sum;
    typedef int8_t Element;
    static constexpr Cell FLIP = 0x80808080;
    static Sum add(Sum sum, const Cell* w, const Cell* x) {
        return NI(_mm256_dpbusd_avx_epi32(__m256i(sum), read<__m256i>(w), _mm256_set1_epi32(int(*x))));
    }
};
#elif !defined(GRAPHLLM_PORTABLE) && defined(__AVX2__)
#define GRAPHLLM_DOT_INT8 1
struct DotInt8 {  // two of K at a time, as 16 bits: what takes four of 8 bits does not add them up exactly
    typedef NI Sum;
    typedef int16_t Element;
    static constexpr Cell FLIP = 0;
    static Sum add(Sum sum, const Cell* w, const Cell* x) {
        const __m256i products = _mm256_madd_epi16(read<__m256i>(w), _mm256_set1_epi32(int(*x)));
        return NI(_mm256_add_epi32(__m256i(sum), products));
    }
};
#elif !defined(GRAPHLLM_PORTABLE) && defined(__ARM_FEATURE_DOTPROD)
#define GRAPHLLM_DOT_INT8 1
struct DotInt8 {
    typedef NI Sum;
    typedef int8_t Element;
    static constexpr Cell FLIP = 0;
    static Sum add(Sum sum, const Cell* w, const Cell* x) {
        return NI(vdotq_s32(int32x4_t(sum), read<int8x16_t>(w), vreinterpretq_s8_u32(vdupq_n_u32(*x))));
    }
};
#endif

// sums[r][c] += row r of a stack . column vector c of a panel
template <class Dot, int R>
inline void multiply(const Cell* x, const Cell* panel, int depth, typename Dot::Sum (&sums)[R][COLUMNS]) {
    for (int k = 0; k < depth; ++k, x += STACK, panel += PANEL)
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < COLUMNS; ++c) sums[r][c] = Dot::add(sums[r][c], panel + c * LANE, x + r);
}

// out[r][0 … columns) (+)= sums; only ``rows`` rows are there.
template <int R>
inline void leave(const NF (&sums)[R][COLUMNS], float* out, long ld, int rows, int columns, bool first) {
    if (columns == PANEL) {
        for (int r = 0; r < R && r < rows; ++r)
            for (int c = 0; c < COLUMNS; ++c) {
                float* to = out + r * ld + c * LANE;
                const NF v = first ? sums[r][c] : read<NF>(to) + sums[r][c];
                std::memcpy(to, &v, sizeof v);
            }
        return;
    }
    for (int r = 0; r < R && r < rows; ++r) {
        float row[PANEL];
        std::memcpy(row, sums[r], sizeof row);
        for (int c = 0; c < columns; ++c) out[r * ld + c] = first ? row[c] : out[r * ld + c] + row[c];
    }
}

// 16 rows of 16 cells, ``ld`` bytes apart, to columns PANEL cells apart.
inline void turn16(const unsigned char* from, long ld, Cell flip, Cell* to) {
#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX512F__)
    __m512i a[16], b[16];
    const __m512i mask = _mm512_set1_epi32(int(flip));
    for (int r = 0; r < 16; ++r) a[r] = _mm512_xor_si512(_mm512_loadu_si512(from + r * ld), mask);
    for (int r = 0; r < 16; r += 2) {
        b[r] = _mm512_unpacklo_epi32(a[r], a[r + 1]);
        b[r + 1] = _mm512_unpackhi_epi32(a[r], a[r + 1]);
    }
    for (int r = 0; r < 16; r += 4)
        for (int i = 0; i < 2; ++i) {
            a[r + 2 * i] = _mm512_unpacklo_epi64(b[r + i], b[r + i + 2]);
            a[r + 2 * i + 1] = _mm512_unpackhi_epi64(b[r + i], b[r + i + 2]);
        }
    for (int i = 0; i < 4; ++i) {  // a[4g + i]: in lane l, column 4l + i of rows 4g … 4g + 3
        const __m512i even = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88), odd = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xdd);
        const __m512i even2 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88),
                      odd2 = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xdd);
        _mm512_storeu_si512(to + (0 + i) * PANEL, _mm512_shuffle_i32x4(even, even2, 0x88));
        _mm512_storeu_si512(to + (8 + i) * PANEL, _mm512_shuffle_i32x4(even, even2, 0xdd));
        _mm512_storeu_si512(to + (4 + i) * PANEL, _mm512_shuffle_i32x4(odd, odd2, 0x88));
        _mm512_storeu_si512(to + (12 + i) * PANEL, _mm512_shuffle_i32x4(odd, odd2, 0xdd));
    }
#elif !defined(GRAPHLLM_PORTABLE) && defined(__AVX2__)
    const __m256i mask = _mm256_set1_epi32(int(flip));
    for (int r0 = 0; r0 < 16; r0 += 8)
        for (int c0 = 0; c0 < 16; c0 += 8) {
            __m256i a[8], b[8];
            for (int r = 0; r < 4; ++r)
                for (int half = 0; half < 2; ++half) {  // row r0 + r beside row r0 + 4 + r
                    const unsigned char* at = from + (r0 + r) * ld + (c0 + 4 * half) * 4;
                    a[4 * half + r] =
                        _mm256_xor_si256(_mm256_set_m128i(read<__m128i>(at + 4 * ld), read<__m128i>(at)), mask);
                }
            for (int i = 0; i < 8; i += 2) {
                b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]);
                b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
            }
            for (int i = 0; i < 8; i += 4)
                for (int j = 0; j < 2; ++j) {
                    const __m256i even = _mm256_unpacklo_epi64(b[i + j], b[i + j + 2]),
                                  odd = _mm256_unpackhi_epi64(b[i + j], b[i + j + 2]);
                    std::memcpy(to + (c0 + i + 2 * j) * PANEL + r0, &even, sizeof even);
                    std::memcpy(to + (c0 + i + 2 * j + 1) * PANEL + r0, &odd, sizeof odd);
                }
        }
#else
    for (int c = 0; c < 16; ++c)
        for (int r = 0; r < 16; ++r) to[c * PANEL + r] = read<Cell>(from + r * ld + c * 4) ^ flip;
#endif
}

// Up to 16 columns of a panel from rows of ``bytes`` bytes, ``ld`` apart: cell c of row r to to[c*PANEL + r]. The last
// cell may be short: what it lacks is 0.
GRAPHLLM_ONCE inline void turn(const void* rows, long ld, int count, int bytes, Cell flip, Cell* to) {
    const unsigned char* from = static_cast<const unsigned char*>(rows);
    const int whole = bytes / 4, left = bytes % 4;
    int c = 0;
    if (count == 16)
        for (; c + 16 <= whole; c += 16) turn16(from + c * 4, ld, flip, to + long(c) * PANEL);
    for (; c < whole; ++c)
        for (int r = 0; r < count; ++r) to[long(c) * PANEL + r] = read<Cell>(from + r * ld + c * 4) ^ flip;
    for (int r = 0; r < count && left; ++r) {
        Cell cell = 0;
        std::memcpy(&cell, from + r * ld + whole * 4, left);
        to[long(whole) * PANEL + r] = cell ^ flip;
    }
}

// Columns of a panel from ``count`` on become 0.
inline void blank(int count, int cells, Cell* panel) {
    if (count < PANEL)
        for (int c = 0; c < cells; ++c) std::memset(panel + long(c) * PANEL + count, 0, (PANEL - count) * sizeof(Cell));
}

}  // namespace graphllm
