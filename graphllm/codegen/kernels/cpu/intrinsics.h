// The machine's own instructions, as functions.
#pragma once

#if defined(GRAPHLLM_PORTABLE)
// none
#elif defined(GRAPHLLM_INTRINSICS)  // what stands for them, where the machine lacks some
#include GRAPHLLM_INTRINSICS
#elif defined(__AVX2__) && defined(__GNUC__) && !defined(__clang__)
// gcc's <immintrin.h> has those of all machines ever, and reading it takes half a second of every build; what kernels call
// is in these parts of it, which are told that it is there.
#if !defined(_IMMINTRIN_H_INCLUDED)
#define _IMMINTRIN_H_INCLUDED
#include <smmintrin.h>

#include <avxintrin.h>
#if defined(__AVXVNNI__)
#include <avxvnniintrin.h>
#endif
#include <avx2intrin.h>
#if defined(__AVX512F__)
#include <avx512fintrin.h>

#include <avx512vlintrin.h>

#include <avx512bwintrin.h>

#include <avx512vlbwintrin.h>
#endif
#if defined(__AVX512VNNI__)
#include <avx512vnniintrin.h>
#endif
#if defined(__AVX512BF16__)
#include <avx512bf16vlintrin.h>

#include <avx512bf16intrin.h>
#endif
#include <fmaintrin.h>

#include <f16cintrin.h>
#endif
#elif defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif
