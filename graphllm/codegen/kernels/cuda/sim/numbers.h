// Floats of 16 bits, and what tensor cores do with them: products are exact, a sum is rounded once.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace graphllm::sim {

inline float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

inline float bf16_value(uint16_t bits) { return float_of(uint32_t(bits) << 16); }

inline float f16_value(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000) << 16, rest = bits & 0x7fff;
    if (rest >= 0x7c00) return float_of(sign | (rest > 0x7c00 ? 0x7fffffffu : 0x7f800000u));
    if (rest >= 0x400) return float_of(sign | ((rest << 13) + (112u << 23)));
    const float small = float(rest) * 0x1p-24f;
    return sign ? -small : small;
}

// To nearest even; what is too large becomes infinite, and NaN the one that a GPU makes.
inline uint16_t f16_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return 0x7fff;
    if (bits >= 0x477ff000) return sign | 0x7c00;  // 65520 and beyond
    if (bits < 0x38800000) return sign | uint16_t(std::nearbyint(float_of(bits) * 0x1p24f));
    return sign | uint16_t((bits - (112u << 23) + 0xfff + (bits >> 13 & 1)) >> 13);
}

// What lane ``l`` holds of a product is told in machine.cuh.
template <class Operand, class F>
inline void multiply_tiles(const Operand* lanes, F value) {
    float a[16][16], b[16][8];
    for (unsigned l = 0; l < 32; ++l) {
        const unsigned g = l / 4, c = l % 4 * 2;
        for (unsigned i = 0; i < 4; ++i) {
            const uint32_t pair = lanes[l].a[i];
            float* to = &a[g + i % 2 * 8][c + i / 2 * 8];
            to[0] = value(uint16_t(pair));
            to[1] = value(uint16_t(pair >> 16));
        }
        for (unsigned i = 0; i < 2; ++i) {
            const uint32_t pair = lanes[l].b[i];
            b[c + i * 8][g] = value(uint16_t(pair));
            b[c + i * 8 + 1][g] = value(uint16_t(pair >> 16));
        }
    }
    for (unsigned l = 0; l < 32; ++l) {
        const unsigned g = l / 4, c = l % 4 * 2;
        for (unsigned i = 0; i < 4; ++i) {
            const unsigned row = g + i / 2 * 8, column = c + i % 2;
            double sum = lanes[l].d[i];
            for (unsigned k = 0; k < 16; ++k) sum += double(a[row][k]) * double(b[k][column]);
            lanes[l].d[i] = float(sum);
        }
    }
}

}  // namespace graphllm::sim
