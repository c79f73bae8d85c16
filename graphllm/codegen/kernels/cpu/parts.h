// Parts of a text may be compiled side by side, on two cores: with GRAPHLLM_PART only what is of that part is there, and of
// templates what that calls. Kernels are never copied into the steps, which call each of them once a layer.
#pragma once

#include "called.h"

#if defined(GRAPHLLM_PART)
#define GRAPHLLM_IS_PART(n) (GRAPHLLM_PART == n)
#define GRAPHLLM_STEP __attribute__((visibility("hidden")))
#else
#define GRAPHLLM_IS_PART(n) 1
#define GRAPHLLM_STEP static
#endif
#define GRAPHLLM_KERNEL GRAPHLLM_STEP GRAPHLLM_ONCE
