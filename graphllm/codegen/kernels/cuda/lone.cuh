// What kernels without a product call: a block works on a row.
#pragma once

#include "step.cuh"
#include "team.cuh"

namespace graphllm {

// The ``used`` likeliest experts, and softmax of them, over all or (``normalized``) over those chosen: by a warp of the
// block. The lower number of equals is the likelier; what is no number is least likely.
__device__ inline void top_experts(const float* logits, int experts, int used, bool normalized, int* ids,
                                   float* shares) {
    if (warp_index() > 0) return;
    float most = logits[0], all = 0, chosen = 0;
    for (int e = lane_index(); e < experts; e += WARP) most = logits[e] > most ? logits[e] : most;
    most = warp_max(most);
    for (int e = lane_index(); e < experts; e += WARP) all += expf(logits[e] - most);
    all = warp_sum(all);
    const auto key_of = [=](int e) {  // ordered as they are to be chosen, all different
        const float x = logits[e] + 0.0f;  // zeros are equal
        const unsigned bits = as_bits(x), order = x != x ? 0 : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
        return static_cast<unsigned long long>(order) << 32 | (0xffffffffu - unsigned(e));
    };
    unsigned long long last = ~0ull;
#pragma unroll 1
    for (int u = 0; u < used; ++u) {
        unsigned long long best = 0;
        for (int e = lane_index(); e < experts; e += WARP) {
            const unsigned long long key = key_of(e);
            if (key < last && key > best) best = key;
        }
        for (int step = WARP / 2; step > 0; step /= 2) {
            const unsigned long long other = shuffle_xor(best, step);
            best = other > best ? other : best;
        }
        last = best;
        const int e = int(0xffffffffu - unsigned(best));
        const float share = expf(logits[e] - most) / all;
        chosen += share;
        if (lane_index() != 0) continue;
        ids[u] = e;
        shares[u] = share;
    }
    sync_warp();
    if (normalized)
        for (int u = lane_index(); u < used; u += WARP) shares[u] /= chosen;
}

}  // namespace graphllm
