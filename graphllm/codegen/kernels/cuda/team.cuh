// Threads that work on a row together: a warp, or a block. Both have the same functions, so that rows.cuh is written once.
//
//   team_index(), team_size()   a thread's place, and how many there are
//   team_sync()                 what each has written is there for all
//   team_sum(x), team_max(x)    over all, in every thread; always in the same order
//   TEAM_UNROLL                 turns of a loop over a row that are asked for together
#pragma once

#include "prelude.cuh"

namespace graphllm {

constexpr int BLOCK_ROOM = 32;  // floats of shared memory that a block needs to add up

namespace by_warp {

constexpr int TEAM_UNROLL = 1;  // a warp has a few columns: a second copy of the loop costs more to compile than it gives
__device__ inline int team_index() { return lane_index(); }
__device__ inline int team_size() { return WARP; }
__device__ inline void team_sync() { sync_warp(); }
__device__ inline float team_sum(float x) { return warp_sum(x); }
__device__ inline float team_max(float x) { return warp_max(x); }

#include "rows.cuh"

}  // namespace by_warp

namespace by_block {

constexpr int TEAM_UNROLL = 4;
__device__ inline int team_index() { return threadIdx.x; }
__device__ inline int team_size() { return blockDim.x; }
__device__ inline void team_sync() { sync_block(); }

// ``room`` has BLOCK_ROOM floats; the sum is there for all threads, and the room free again.
__device__ inline float block_sum(float x, float* room) {
    x = warp_sum(x);
    if (lane_index() == 0) room[warp_index()] = x;
    sync_block();
    x = 0;
    for (int i = 0; i < warp_count(); ++i) x += room[i];
    sync_block();
    return x;
}

__device__ inline float team_sum(float x) {
    GRAPHLLM_SHARED(room);
    return block_sum(x, reinterpret_cast<float*>(room));
}
__device__ inline float team_max(float x) {
    GRAPHLLM_SHARED(room);
    float* maxima = reinterpret_cast<float*>(room);
    x = warp_max(x);
    if (lane_index() == 0) maxima[warp_index()] = x;
    sync_block();
    x = maxima[0];
    for (int i = 1; i < warp_count(); ++i) x = x > maxima[i] || x != x ? x : maxima[i];
    sync_block();
    return x;
}

#include "rows.cuh"

}  // namespace by_block

}  // namespace graphllm
