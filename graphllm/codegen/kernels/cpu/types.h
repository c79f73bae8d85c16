// Storage types: 16-bit floats as they lie in a plan, and how they become f32 and back.
#pragma once

#include <cstdint>
#include <cstring>

// For what loops are made of, where a compiler may think that calls will do.
#define GRAPHLLM_INLINE __attribute__((always_inline)) inline

namespace graphllm {

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

template <class To, class From>
inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same bytes under another type");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return bits_as<float>(uint32_t(x.bits) << 16); }

#if defined(__F16C__) && defined(__FLT16_MAX__)
inline float to_float(f16 x) { return float(bits_as<_Float16>(x.bits)); }
#else
// Shifted into place, the exponent of an f16 is 112 too small; multiplying by 2^112 mends that, subnormals included.
inline float to_float(f16 x) {
    const uint32_t magnitude = uint32_t(x.bits & 0x7fff) << 13;
    const float value = bits_as<float>(magnitude) * bits_as<float>(uint32_t(127 + 112) << 23);
    uint32_t bits = bits_as<uint32_t>(value);
    if (magnitude >= 0x0f800000) bits = magnitude | 0x7f800000;  // infinity, NaN
    return bits_as<float>(bits | uint32_t(x.bits & 0x8000) << 16);
}
#endif

inline void from_float(float x, float& to) { to = x; }

inline void from_float(float x, bf16& to) {  // to nearest, ties to even
    const uint32_t bits = bits_as<uint32_t>(x);
    to.bits = x != x ? 0x7fc0 : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline void from_float(float x, f16& to) {  // to nearest, ties to even
    const uint32_t bits = bits_as<uint32_t>(x), magnitude = bits & 0x7fffffff;
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000) {
        to.bits = sign | 0x7e00;
    } else if (magnitude >= 0x477ff000) {  // 65520 and more
        to.bits = sign | 0x7c00;
    } else if (magnitude < 0x38800000) {  // below 2^-14: adding 0.5 leaves the subnormal's bits at the bottom
        to.bits = sign | uint16_t(bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000);
    } else {
        to.bits = sign | uint16_t((magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13);
    }
}

}  // namespace graphllm
