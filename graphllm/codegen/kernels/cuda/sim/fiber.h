// Fibers: stacks that one host thread goes to and fro between. A switch saves what a call must keep, and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#define GRAPHLLM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define GRAPHLLM_ASAN 1
#endif
#endif

#ifdef GRAPHLLM_ASAN
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !(defined(__x86_64__) || defined(__aarch64__)) || defined(GRAPHLLM_UCONTEXT)
#define GRAPHLLM_ANY_MACHINE 1
#include <ucontext.h>
#endif

#define GRAPHLLM_TEXT(x) #x
#define GRAPHLLM_EXPANDED(x) GRAPHLLM_TEXT(x)
#define GRAPHLLM_SWITCH GRAPHLLM_EXPANDED(__USER_LABEL_PREFIX__) "graphllm_switch"

#if defined(GRAPHLLM_ANY_MACHINE)
#elif defined(__x86_64__)
extern "C" void graphllm_switch(void** from, void* to);
asm(".text\n"
    ".p2align 4\n" GRAPHLLM_SWITCH ":\n"
    "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
    "movq %rsp, (%rdi)\n"
    "movq %rsi, %rsp\n"
    "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n"
    "ret\n");
#elif defined(__aarch64__)
extern "C" void graphllm_switch(void** from, void* to);
asm(".text\n"
    ".p2align 4\n" GRAPHLLM_SWITCH ":\n"
    "sub sp, sp, #160\n"
    "stp x19, x20, [sp, #0]\n stp x21, x22, [sp, #16]\n stp x23, x24, [sp, #32]\n stp x25, x26, [sp, #48]\n"
    "stp x27, x28, [sp, #64]\n stp x29, x30, [sp, #80]\n"
    "stp d8, d9, [sp, #96]\n stp d10, d11, [sp, #112]\n stp d12, d13, [sp, #128]\n stp d14, d15, [sp, #144]\n"
    "mov x9, sp\n str x9, [x0]\n mov sp, x1\n"
    "ldp x19, x20, [sp, #0]\n ldp x21, x22, [sp, #16]\n ldp x23, x24, [sp, #32]\n ldp x25, x26, [sp, #48]\n"
    "ldp x27, x28, [sp, #64]\n ldp x29, x30, [sp, #80]\n"
    "ldp d8, d9, [sp, #96]\n ldp d10, d11, [sp, #112]\n ldp d12, d13, [sp, #128]\n ldp d14, d15, [sp, #144]\n"
    "add sp, sp, #160\n"
    "ret\n");
#endif

namespace graphllm::sim {

// Where one stack stands. The host's own is one that was never prepared.
struct Fiber {
#ifndef GRAPHLLM_ANY_MACHINE
    void* at = nullptr;
#else
    ucontext_t at;
#endif
    unsigned char* low = nullptr;
    size_t size = 0;
#ifdef GRAPHLLM_ASAN
    void* fake = nullptr;
#endif

    // ``body``, which never returns, runs on this stack from the next switch on.
    void prepare(unsigned char* stack, size_t bytes, void (*body)()) {
        low = stack;
        size = bytes;
#ifdef GRAPHLLM_ASAN
        fake = nullptr;
        __asan_unpoison_memory_region(stack, bytes);  // of frames that were left for good
#endif
#if defined(GRAPHLLM_ANY_MACHINE)
        getcontext(&at);
        at.uc_stack.ss_sp = stack;
        at.uc_stack.ss_size = bytes;
        at.uc_link = nullptr;
        makecontext(&at, body, 0);
#elif defined(__x86_64__)
        auto top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t(15));
        *--top = nullptr;  // the return address of ``body``, where unwinding ends
        *--top = reinterpret_cast<void*>(body);
        top -= 6;
        std::memset(top, 0, 6 * sizeof(void*));
        at = top;
#else
        auto top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t(15)) - 20;
        std::memset(top, 0, 160);
        top[11] = reinterpret_cast<void*>(body);  // x30
        at = top;
#endif
    }
};

// What a fiber does first of all.
inline void fiber_begins() {
#ifdef GRAPHLLM_ASAN
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

// The stack that the caller runs on, to be left for others.
inline void stand_here(Fiber& host) {
#ifdef GRAPHLLM_ASAN
    pthread_attr_t attributes;
    void* low;
    if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
        pthread_attr_getstack(&attributes, &low, &host.size);
        host.low = static_cast<unsigned char*>(low);
        pthread_attr_destroy(&attributes);
    }
#else
    (void)host;
#endif
}

inline void switch_fiber(Fiber& from, Fiber& to) {
#ifdef GRAPHLLM_ASAN
    __sanitizer_start_switch_fiber(&from.fake, to.low, to.size);
#endif
#ifndef GRAPHLLM_ANY_MACHINE
    graphllm_switch(&from.at, to.at);
#else
    swapcontext(&from.at, &to.at);
#endif
#ifdef GRAPHLLM_ASAN
    __sanitizer_finish_switch_fiber(from.fake, nullptr, nullptr);
#endif
}

}  // namespace graphllm::sim
