// What an NVIDIA GPU does for prelude.cuh. sim/machine.h does the same on a CPU, function by function.
//
// ARCH is that of the device code: 750, 800, …. What an architecture lacks is done in a slower way with the same result.
#pragma once

#define GRAPHLLM_ARCH __CUDA_ARCH__

// All shared memory of a kernel, of the size that its launch says.
#define GRAPHLLM_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

namespace graphllm {

typedef signed char int8_t;
typedef int int32_t;

// 16 bytes that a lane loads at once.
struct alignas(16) Chunk {
    unsigned word[4];
};
struct alignas(8) HalfChunk {
    unsigned word[2];
};

__device__ inline float as_float(unsigned bits) { return __uint_as_float(bits); }
__device__ inline unsigned as_bits(float x) { return __float_as_uint(x); }

__device__ inline float f16_to_float(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
__device__ inline unsigned short float_to_f16(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

// Two floats as the halves of a word, the first one low.
__device__ inline unsigned f16_pair(float low, float high) {
#if GRAPHLLM_ARCH >= 800
    unsigned pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return float_to_f16(low) | unsigned(float_to_f16(high)) << 16;
#endif
}
__device__ inline unsigned bf16_pair(float low, float high) {
#if GRAPHLLM_ARCH >= 800
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    const auto half = [](float x) {
        const unsigned bits = as_bits(x);
        return x != x ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    };
    return half(low) | half(high) << 16;
#endif
}

// Four int8 as f16, which has them all: a byte in the last place of 1024 is 1024 more.
__device__ inline HalfChunk int8_to_f16(unsigned bytes) {
    HalfChunk halves;
    asm("{\n\t.reg .b32 x;\n\txor.b32 x, %2, 0x80808080;\n\tprmt.b32 %0, x, 0x64646464, 0x4140;\n\t"
        "prmt.b32 %1, x, 0x64646464, 0x4342;\n\tsub.f16x2 %0, %0, %3;\n\tsub.f16x2 %1, %1, %3;\n\t}"
        : "=&r"(halves.word[0]), "=&r"(halves.word[1])
        : "r"(bytes), "r"(0x64806480u));
    return halves;
}

// Weights, which are read once: they do not displace anything from the first-level cache.
__device__ inline Chunk load_once(const void* at) {
    Chunk c;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(c.word[0]), "=r"(c.word[1]), "=r"(c.word[2]), "=r"(c.word[3])
                 : "l"(at));
    return c;
}
__device__ inline HalfChunk load_once_half(const void* at) {
    HalfChunk c;
    asm volatile("ld.global.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(c.word[0]), "=r"(c.word[1]) : "l"(at));
    return c;
}

// What another block has written: past the first-level cache.
__device__ inline float load_fresh(const float* at) {
    float x;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(x) : "l"(at) : "memory");
    return x;
}

__device__ inline unsigned long long load_fresh(const unsigned long long* at) {
    unsigned long long x;
    asm volatile("ld.global.cg.u64 %0, [%1];" : "=l"(x) : "l"(at) : "memory");
    return x;
}

// Has a line brought to the second-level cache.
__device__ inline void expect(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

__device__ inline void sync_block() { __syncthreads(); }
__device__ inline void sync_warp() { __syncwarp(); }

__device__ inline float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
__device__ inline unsigned shuffle_xor(unsigned x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
__device__ inline float shuffle(float x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
__device__ inline unsigned shuffle(unsigned x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
__device__ inline unsigned shuffle_up(unsigned x, int by) { return __shfl_up_sync(0xffffffffu, x, by); }
__device__ inline unsigned long long shuffle_up(unsigned long long x, int by) {
    return __shfl_up_sync(0xffffffffu, x, by);
}
__device__ inline unsigned long long shuffle_xor(unsigned long long x, int mask) {
    return __shfl_xor_sync(0xffffffffu, x, mask);
}

// Programmatic dependent launch: a kernel may start before those ahead of it in the stream have ended, and must not touch
// what any of them touches before it has waited. Without it (before sm_90) a kernel starts when the others have ended.
__device__ inline void wait_for_producers() {
#if GRAPHLLM_ARCH >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void let_consumers_start() {
#if GRAPHLLM_ARCH >= 900
    asm volatile("griddepcontrol.launch_dependents;" :::);
#endif
}

// All writes of this thread before, for every thread of the grid, those behind it.
__device__ inline void fence() { __threadfence(); }
__device__ inline unsigned atomic_add(unsigned* at, unsigned n) { return atomicAdd(at, n); }
__device__ inline unsigned long long atomic_add(unsigned long long* at, unsigned long long n) {
    return atomicAdd(at, n);
}
__device__ inline unsigned long long atomic_max(unsigned long long* at, unsigned long long n) {
    return atomicMax(at, n);
}

// Copies 16 bytes to shared memory behind the thread's back, or zeros where ``there`` is false. They are there for the
// thread after copies_wait<N>, which leaves the last N of the committed groups on their way; for others after a barrier.
__device__ inline void copy_async(void* shared, const void* global, bool there) {
#if GRAPHLLM_ARCH >= 800
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    const int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
#else
    *static_cast<Chunk*>(shared) = there ? *static_cast<const Chunk*>(global) : Chunk{};
#endif
}
__device__ inline void copies_commit() {
#if GRAPHLLM_ARCH >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int N>
__device__ inline void copies_wait() {
#if GRAPHLLM_ARCH >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// d [16,8] += a [16,16] b [16,8], over a warp. Lane l with g = l / 4 and c = l % 4 holds, as pairs of neighbours,
//   a: rows g, g + 8 at columns 2c, 2c+1, then the same rows at columns 2c + 8, 2c + 9
//   b: rows 2c, 2c+1 at column g, then rows 2c + 8, 2c + 9
//   d: row g at columns 2c, 2c+1, then row g + 8
#if GRAPHLLM_ARCH >= 800
__device__ inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif
__device__ inline void mma_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if GRAPHLLM_ARCH >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    for (int half = 0; half < 2; ++half)
        asm volatile(
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#endif
}

// The dot product of four int8 with four, plus a sum.
__device__ inline int dot4(unsigned a, unsigned b, int sum) { return __dp4a(static_cast<int>(a), static_cast<int>(b), sum); }

}  // namespace graphllm
