// The functions that code built with -fsanitize=thread calls at every access, in place of that sanitizer's own.
#pragma once

#include <cstring>

#include "watch.h"

#ifdef GRAPHLLM_SIM_WATCH

#define GRAPHLLM_PC \
    graphllm::sim::Place { {}, __builtin_return_address(0) }
#define GRAPHLLM_HOOK extern "C" __attribute__((visibility("hidden"))) void

#define GRAPHLLM_HOOKS(n)                                                                                       \
    GRAPHLLM_HOOK __tsan_read##n(void* at) { graphllm::sim::aligned_access(at, n, false, GRAPHLLM_PC); }        \
    GRAPHLLM_HOOK __tsan_write##n(void* at) { graphllm::sim::aligned_access(at, n, true, GRAPHLLM_PC); }        \
    GRAPHLLM_HOOK __tsan_volatile_read##n(void* at) { graphllm::sim::aligned_access(at, n, false, GRAPHLLM_PC); } \
    GRAPHLLM_HOOK __tsan_volatile_write##n(void* at) { graphllm::sim::aligned_access(at, n, true, GRAPHLLM_PC); } \
    GRAPHLLM_HOOK __tsan_read_write##n(void* at) { graphllm::sim::aligned_access(at, n, true, GRAPHLLM_PC); }   \
    GRAPHLLM_HOOK __tsan_unaligned_read##n(void* at) { graphllm::sim::access(at, n, false, 0, GRAPHLLM_PC); }   \
    GRAPHLLM_HOOK __tsan_unaligned_write##n(void* at) { graphllm::sim::access(at, n, true, 0, GRAPHLLM_PC); }   \
    GRAPHLLM_HOOK __tsan_unaligned_read_write##n(void* at) { graphllm::sim::access(at, n, true, 0, GRAPHLLM_PC); }

GRAPHLLM_HOOKS(1)
GRAPHLLM_HOOKS(2)
GRAPHLLM_HOOKS(4)
GRAPHLLM_HOOKS(8)
GRAPHLLM_HOOKS(16)

GRAPHLLM_HOOK __tsan_read_range(void* at, size_t n) { graphllm::sim::access(at, unsigned(n), false, 0, GRAPHLLM_PC); }
GRAPHLLM_HOOK __tsan_write_range(void* at, size_t n) { graphllm::sim::access(at, unsigned(n), true, 0, GRAPHLLM_PC); }
GRAPHLLM_HOOK __tsan_init() {}
GRAPHLLM_HOOK __tsan_func_entry(void*) {}
GRAPHLLM_HOOK __tsan_func_exit() {}

extern "C" __attribute__((visibility("hidden"))) void* __tsan_memcpy(void* to, const void* from, size_t n) {
    graphllm::sim::access(from, unsigned(n), false, 0, GRAPHLLM_PC);
    graphllm::sim::access(to, unsigned(n), true, 0, GRAPHLLM_PC);
    return std::memcpy(to, from, n);
}
extern "C" __attribute__((visibility("hidden"))) void* __tsan_memmove(void* to, const void* from, size_t n) {
    graphllm::sim::access(from, unsigned(n), false, 0, GRAPHLLM_PC);
    graphllm::sim::access(to, unsigned(n), true, 0, GRAPHLLM_PC);
    return std::memmove(to, from, n);
}
extern "C" __attribute__((visibility("hidden"))) void* __tsan_memset(void* to, int byte, size_t n) {
    graphllm::sim::access(to, unsigned(n), true, 0, GRAPHLLM_PC);
    return std::memset(to, byte, n);
}

#endif
