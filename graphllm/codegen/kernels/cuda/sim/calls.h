// What machine.h asks of the simulator, which is a translation unit of its own (simulator.cpp).
//
// They are calls, not inlined, so that the compiler's instrumentation of kernels (watch.h) never sees the simulator's own
// memory.
#pragma once

namespace graphllm::sim {

struct Index {
    unsigned x, y;
};

// The place in a source that a kernel is at.
struct Site {
    const char* file;
    int line;
};

// A thread is always the same one of the same block: compilers need not ask twice.
[[gnu::const]] Index thread_index();
[[gnu::const]] Index block_index();
[[gnu::const]] Index block_size();
[[gnu::const]] Index grid_size();
[[gnu::const]] unsigned char* shared_memory();

void meet_block(Site);
void meet_warp(Site);

// What ``value`` is in the lane of that number, which takes part. Of lanes that have ended nobody knows.
unsigned long long value_of_lane(unsigned long long value, unsigned lane, Site);

void multiply_bf16(float* d, const unsigned* a, const unsigned* b, Site);
void multiply_f16(float* d, const unsigned* a, const unsigned* b, Site);

void wait_for_producers(Site);
void let_consumers_start();

void begin_copy(void* shared, const void* global, bool there, Site);
void close_copies();
void wait_for_copies(unsigned left);

// Says that a thread reads, where the compiler's instrumentation does not.
void reads(const void* at, unsigned bytes, Site);

// Atomic ones give what was there before.
unsigned add(unsigned* at, unsigned n, Site);
unsigned long long add(unsigned long long* at, unsigned long long n, Site);
unsigned long long maximum(unsigned long long* at, unsigned long long n, Site);
void fence();

float f16_to_float(unsigned short);
unsigned short float_to_f16(float);

}  // namespace graphllm::sim
