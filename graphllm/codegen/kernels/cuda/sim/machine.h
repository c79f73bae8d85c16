// The CPU twin of machine.cuh: the same functions with the same results, on the simulator's threads.
//
// A kernel's source is C++ here. Where a function can be used wrongly it is told where it was called.
#pragma once

#include "calls.h"

#ifndef GRAPHLLM_ARCH
#define GRAPHLLM_ARCH 900
#endif

#define __global__
#define __device__
#define __noinline__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx (::graphllm::sim::thread_index())
#define blockIdx (::graphllm::sim::block_index())
#define blockDim (::graphllm::sim::block_size())
#define gridDim (::graphllm::sim::grid_size())
#define GRAPHLLM_SHARED(name) unsigned char* const name = ::graphllm::sim::shared_memory()
#define GRAPHLLM_HERE \
    ::graphllm::sim::Site here = { __builtin_FILE(), __builtin_LINE() }

// The functions of <math.h> that kernels use, without the header, whose reading takes longer than most kernels.
extern "C" {
float expf(float);
float exp2f(float);
float logf(float);
float log2f(float);
float powf(float, float);
float tanhf(float);
float sqrtf(float);
float sinf(float);
float cosf(float);
float rintf(float);
float roundf(float);
float floorf(float);
float ceilf(float);
float truncf(float);
float fabsf(float);
float fmaf(float, float, float);
float fmaxf(float, float);
float fminf(float, float);
}
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline void sincosf(float x, float* s, float* c) {
    *s = sinf(x);
    *c = cosf(x);
}

namespace graphllm {

typedef signed char int8_t;
typedef int int32_t;

struct alignas(16) Chunk {
    unsigned word[4];
};
struct alignas(8) HalfChunk {
    unsigned word[2];
};

inline float as_float(unsigned bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}
inline unsigned as_bits(float x) {
    unsigned bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}

inline float f16_to_float(unsigned short bits) { return sim::f16_to_float(bits); }
inline unsigned short float_to_f16(float x) { return sim::float_to_f16(x); }

inline unsigned f16_pair(float low, float high) { return float_to_f16(low) | unsigned(float_to_f16(high)) << 16; }
inline unsigned bf16_pair(float low, float high) {
    const auto half = [](float x) {
        const unsigned bits = as_bits(x);
        return x != x ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    };
    return half(low) | half(high) << 16;
}
inline HalfChunk int8_to_f16(unsigned bytes) {
    const auto byte = [=](int i) { return float(static_cast<signed char>(bytes >> (8 * i))); };
    return {{f16_pair(byte(0), byte(1)), f16_pair(byte(2), byte(3))}};
}

inline Chunk load_once(const void* at, GRAPHLLM_HERE) {
    sim::reads(at, 16, here);
    return *static_cast<const Chunk*>(at);
}
inline HalfChunk load_once_half(const void* at, GRAPHLLM_HERE) {
    sim::reads(at, 8, here);
    return *static_cast<const HalfChunk*>(at);
}
template <class T>
inline T load_fresh(const T* at, GRAPHLLM_HERE) {
    sim::reads(at, sizeof(T), here);
    return *at;
}
inline void expect(const void*) {}

inline void sync_block(GRAPHLLM_HERE) { sim::meet_block(here); }
inline void sync_warp(GRAPHLLM_HERE) { sim::meet_warp(here); }

inline unsigned shuffle_xor(unsigned x, int mask, GRAPHLLM_HERE) {
    return static_cast<unsigned>(sim::value_of_lane(x, (threadIdx.x ^ unsigned(mask)) % 32, here));
}
inline float shuffle_xor(float x, int mask, GRAPHLLM_HERE) { return as_float(shuffle_xor(as_bits(x), mask, here)); }
inline unsigned long long shuffle_xor(unsigned long long x, int mask, GRAPHLLM_HERE) {
    return sim::value_of_lane(x, (threadIdx.x ^ unsigned(mask)) % 32, here);
}
inline unsigned shuffle(unsigned x, int lane, GRAPHLLM_HERE) {
    return static_cast<unsigned>(sim::value_of_lane(x, unsigned(lane) % 32, here));
}
inline float shuffle(float x, int lane, GRAPHLLM_HERE) { return as_float(shuffle(as_bits(x), lane, here)); }
inline unsigned long long shuffle_up(unsigned long long x, int by, GRAPHLLM_HERE) {
    const unsigned lane = threadIdx.x % 32;
    return sim::value_of_lane(x, lane < unsigned(by) ? lane : lane - unsigned(by), here);
}
inline unsigned shuffle_up(unsigned x, int by, GRAPHLLM_HERE) {
    return static_cast<unsigned>(shuffle_up(static_cast<unsigned long long>(x), by, here));
}

inline void wait_for_producers(GRAPHLLM_HERE) {
#if GRAPHLLM_ARCH >= 900
    sim::wait_for_producers(here);
#else
    (void)here;
#endif
}
inline void let_consumers_start() {
#if GRAPHLLM_ARCH >= 900
    sim::let_consumers_start();
#endif
}

inline void fence() { sim::fence(); }
inline unsigned atomic_add(unsigned* at, unsigned n, GRAPHLLM_HERE) { return sim::add(at, n, here); }
inline unsigned long long atomic_add(unsigned long long* at, unsigned long long n, GRAPHLLM_HERE) {
    return sim::add(at, n, here);
}
inline unsigned long long atomic_max(unsigned long long* at, unsigned long long n, GRAPHLLM_HERE) {
    return sim::maximum(at, n, here);
}

inline void copy_async(void* shared, const void* global, bool there, GRAPHLLM_HERE) {
#if GRAPHLLM_ARCH >= 800
    sim::begin_copy(shared, global, there, here);
#else
    (void)here;
    *static_cast<Chunk*>(shared) = there ? *static_cast<const Chunk*>(global) : Chunk{};
#endif
}
inline void copies_commit() {
#if GRAPHLLM_ARCH >= 800
    sim::close_copies();
#endif
}
template <int N>
inline void copies_wait() {
#if GRAPHLLM_ARCH >= 800
    sim::wait_for_copies(N);
#endif
}

#if GRAPHLLM_ARCH >= 800
inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], GRAPHLLM_HERE) {
    sim::multiply_bf16(d, a, b, here);
}
#endif
inline void mma_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], GRAPHLLM_HERE) {
    sim::multiply_f16(d, a, b, here);
}

inline int dot4(unsigned a, unsigned b, int sum) {
    unsigned total = static_cast<unsigned>(sum);  // which may wrap around
    for (int shift = 0; shift < 32; shift += 8)
        total += static_cast<unsigned>(static_cast<signed char>(a >> shift) * static_cast<signed char>(b >> shift));
    return static_cast<int>(total);
}

}  // namespace graphllm
