// What kernels take instructions from instead of the compiler's header (GRAPHLLM_INTRINSICS), so that a machine with AVX2
// runs what they have for machines with more: SIMDe (github.com/simd-everywhere/simde, Debian's libsimde-dev) implements the
// instructions that are missing, and our headers are told that they are there. GRAPHLLM_TEST_AVX512 stands for AVX-512 with
// VNNI and BF16, GRAPHLLM_TEST_AVXVNNI for AVX2 with VNNI.
#pragma once

#include <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512/dpbf16.h>
#include <simde/x86/avx512/dpbusd.h>
#include <simde/x86/avx512/dpwssd.h>
#include <simde/x86/avx512/loadu.h>
#include <simde/x86/avx512/set1.h>
#include <simde/x86/avx512/setzero.h>
#include <simde/x86/avx512/shuffle.h>
#include <simde/x86/avx512/slli.h>
#include <simde/x86/avx512/storeu.h>
#include <simde/x86/avx512/unpackhi.h>
#include <simde/x86/avx512/unpacklo.h>
#include <simde/x86/avx512/xor.h>

#include <cstring>

// What some versions of SIMDe lack. Conversions are those of AVX2, a half at a time.
namespace halves {

template <class To, class Half, class From, class F>
inline To of(const From& x, F f) {
    typename std::remove_const<Half>::type in[2];
    static_assert(sizeof in == sizeof x && 2 * sizeof(f(in[0])) == sizeof(To), "two halves");
    std::memcpy(in, &x, sizeof in);
    const auto low = f(in[0]), high = f(in[1]);
    To to;
    std::memcpy(&to, &low, sizeof low);
    std::memcpy(reinterpret_cast<char*>(&to) + sizeof low, &high, sizeof high);
    return to;
}
inline __m512 floats(__m512i x) {
    return of<__m512, __m256i>(x, [](__m256i half) { return _mm256_cvtepi32_ps(half); });
}
inline __m512 floats(__m256i x) {
    return of<__m512, __m128i>(x, [](__m128i half) { return _mm256_cvtph_ps(half); });
}
inline __m512i integers(__m256i x) {
    return of<__m512i, __m128i>(x, [](__m128i half) { return _mm256_cvtepu16_epi32(half); });
}
inline __m512i integers(__m128i x) {
    return of<__m512i, int64_t>(x, [](int64_t half) { return _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(half)); });
}
inline __m512i widened(__m128i x) {
    __m512i to = _mm512_setzero_si512();
    std::memcpy(&to, &x, sizeof x);
    return to;
}
inline __m512i some(__mmask64 which, const void* from) {
    char bytes[64] = {};
    for (int i = 0; i < 64; ++i)
        if (which >> i & 1) bytes[i] = static_cast<const char*>(from)[i];
    return _mm512_loadu_si512(bytes);
}

}  // namespace halves

#define _mm512_cvtepi32_ps(x) halves::floats(x)
#define _mm512_cvtph_ps(x) halves::floats(x)
#define _mm512_cvtepu16_epi32(x) halves::integers(x)
#define _mm512_cvtepi8_epi32(x) halves::integers(x)
#define _mm512_zextsi128_si512(x) halves::widened(x)
#define _mm512_maskz_loadu_epi8(which, from) halves::some(which, from)
#define _mm256_dpbusd_avx_epi32(sum, a, b) simde_mm256_dpbusd_epi32(sum, a, b)
#define _mm256_dpwssd_avx_epi32(sum, a, b) simde_mm256_dpwssd_epi32(sum, a, b)

#if defined(GRAPHLLM_TEST_AVX512)
#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512VNNI__ 1
#define __AVX512BF16__ 1
#elif defined(GRAPHLLM_TEST_AVXVNNI)
#define __AVXVNNI__ 1
#endif
