// Parts of a text may be compiled side by side, on two cores: with GRAPHLLM_PART only the steps of that part are there, and
// compilers drop the kernels that no step of it calls.
#pragma once

#if defined(GRAPHLLM_PART)
#define GRAPHLLM_IS_PART(n) (GRAPHLLM_PART == n)
#define GRAPHLLM_STEP __attribute__((visibility("hidden")))
#else
#define GRAPHLLM_IS_PART(n) 1
#define GRAPHLLM_STEP static
#endif
