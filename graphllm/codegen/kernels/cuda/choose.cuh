// The next token of each row of a step, from its logits and by its settings: the likeliest, or one drawn from those that
// top-k, top-p and min-p leave, in this order. Weights are counted in units of 2^-32 of the likeliest token's, as integers:
// so sums are exact, and neither the order of threads nor their number changes what is drawn.
//
// Among equal logits the lowest id counts as the larger, as it does on the host (runtime/sampling/stages.py).
#pragma once

#include "step.cuh"

namespace graphllm {

constexpr int CHOICE_THREADS = 512;
constexpr int CHOICE_BLOCKS = 64;
constexpr int NO_TOKEN = -1;  // where a logit is NaN or +inf, or all are -inf

// Words of a row's settings (plan/launch.py).
constexpr int TOP_K = 0, TEMPERATURE = 1, TOP_P = 2, MIN_P = 3, ALLOWED = 4, ADVANCE = 5, SETTINGS = 6;

// A row's places in the tables of a step of so many rows.
struct Chosen {
    int* row;             // id, position, slot
    int* token;
    const int* draw;      // a fraction of 64 bits, its lower half first
    const int* settings;

    __device__ Chosen(int* words, int rows, int t)
        : row(words + HEADER_WORDS + 3 * t),
          token(words + HEADER_WORDS + 3 * rows + t),
          draw(words + HEADER_WORDS + 4 * rows + 2 * t),
          settings(words + HEADER_WORDS + 6 * rows + SETTINGS * t) {}
};

using Mass = unsigned long long;

// Bits that are ordered as the numbers are; NaN is above all.
__device__ inline unsigned order_of(float x) {
    const unsigned bits = as_bits(x);
    if (x != x) return 0xffffffffu;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float number_of(unsigned order) {
    return as_float(order & 0x80000000u ? order & 0x7fffffffu : ~order);
}

// floor(a * b / 2^64), but for the last two units.
__device__ inline Mass share_of(Mass a, unsigned high, unsigned low) {
    const Mass a_high = a >> 32, a_low = a & 0xffffffffu;
    return a_high * high + ((a_low * high) >> 32) + ((a_high * low) >> 32);
}

// Shared memory of a block: a histogram, a sum for each warp, and what one thread tells the others.
struct ChoiceRoom {
    Mass bins[256];
    Mass sums[CHOICE_THREADS / WARP];
    Mass told[4];
};

__device__ inline Mass block_total(Mass x, ChoiceRoom& room) {
    for (int step = WARP / 2; step > 0; step /= 2) x += shuffle_xor(x, step);
    if (lane_index() == 0) room.sums[warp_index()] = x;
    sync_block();
    x = 0;
#pragma unroll 1
    for (int i = 0; i < CHOICE_THREADS / WARP; ++i) x += room.sums[i];
    sync_block();
    return x;
}

// The sum over the threads before this one.
__device__ inline Mass block_before(Mass x, ChoiceRoom& room) {
    Mass sum = x;
    for (int step = 1; step < WARP; step *= 2) {
        const Mass other = shuffle_up(sum, step);
        if (lane_index() >= step) sum += other;
    }
    if (lane_index() == WARP - 1) room.sums[warp_index()] = sum;
    sync_block();
    Mass before = sum - x;
#pragma unroll 1
    for (int i = 0; i < warp_index(); ++i) before += room.sums[i];
    sync_block();
    return before;
}

// Tokens that are left: those above ``order``, and the first ``ties`` of those that equal it.
struct Cut {
    unsigned order;
    Mass ties;
};

// The fewest of the largest tokens whose amounts reach ``goal``. ``amount`` is the same for equals.
template <class Amount>
__device__ inline Cut largest(const float* logits, int n, Mass goal, const Amount& amount, ChoiceRoom& room) {
    unsigned prefix = 0, mask = 0;
#pragma unroll 1
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += CHOICE_THREADS) room.bins[i] = 0;
        sync_block();
#pragma unroll 4
        for (int i = threadIdx.x; i < n; i += CHOICE_THREADS) {
            const unsigned order = order_of(logits[i]);
            if ((order & mask) == prefix) atomic_add(&room.bins[order >> shift & 255], amount(order));
        }
        sync_block();
        if (threadIdx.x == 0) {
            int bin = 255;
#pragma unroll 1
            while (bin > 0 && room.bins[bin] < goal) goal -= room.bins[bin--];
            room.told[0] = bin;
            room.told[1] = goal;
        }
        sync_block();
        prefix |= unsigned(room.told[0]) << shift;
        goal = room.told[1];
        mask |= 255u << shift;
        sync_block();
    }
    const Mass each = amount(prefix);
    return {prefix, each > 0 ? (goal + each - 1) / each : ~Mass(0)};
}

__device__ inline int drawn(const float* logits, int n, float most, const int* settings, const int* draw,
                            ChoiceRoom& room) {
    const float cool = 1.0f / as_float(settings[TEMPERATURE]), least = as_float(settings[MIN_P]);
    const auto mass = [=](unsigned order) -> Mass {
        return static_cast<Mass>(expf((number_of(order) - most) * cool) * 4294967296.0f);
    };
    Cut cut{0, ~Mass(0)};
#pragma unroll 1
    for (int stage = 0; stage < 2; ++stage) {  // top-k, then top-p: one search, by numbers of tokens and by weights
        const bool weighed = stage == 1;
        Mass goal = settings[TOP_K];
        if (weighed ? !(as_float(settings[TOP_P]) < 1.0f) : settings[TOP_K] <= 0 || settings[TOP_K] >= n) continue;
        if (weighed) {
            Mass above = 0, equal = 0;
#pragma unroll 1
            for (int i = threadIdx.x; i < n; i += CHOICE_THREADS) {
                const unsigned order = order_of(logits[i]);
                if (order > cut.order) above += mass(order);
                if (order == cut.order) equal += 1;
            }
            above = block_total(above, room);
            equal = block_total(equal, room);
            const Mass total = above + (equal < cut.ties ? equal : cut.ties) * mass(cut.order);
            goal = static_cast<Mass>(double(total) * double(as_float(settings[TOP_P])));
            if (goal == 0) goal = 1;
        }
        const auto amount = [=](unsigned order) -> Mass { return weighed ? mass(order) : 1; };
        const Cut found = largest(logits, n, goal, amount, room);
        if (found.order > cut.order || found.ties < cut.ties) cut = found;
    }
    const int each = (n + CHOICE_THREADS - 1) / CHOICE_THREADS, first = threadIdx.x * each;
    const int end = first + each < n ? first + each : n;
    Mass ties = 0;
    for (int i = first; i < end; ++i) ties += order_of(logits[i]) == cut.order;
    const Mass ties_before = block_before(ties, room);
    const auto left = [&](int i, Mass& seen) -> Mass {  // the weight of token i, 0 if it is not left
        const unsigned order = order_of(logits[i]);
        if (order < cut.order || (order == cut.order && seen++ >= cut.ties)) return 0;
        const float weight = expf((number_of(order) - most) * cool);
        return weight >= least ? static_cast<Mass>(weight * 4294967296.0f) : 0;
    };
    Mass own = 0, seen = ties_before;
#pragma unroll 1
    for (int i = first; i < end; ++i) own += left(i, seen);
    const Mass before = block_before(own, room), total = block_total(own, room);
    const Mass target = share_of(total, unsigned(draw[1]), unsigned(draw[0]));
    if (target >= before && target < before + own) {
        Mass at = before;
        seen = ties_before;
#pragma unroll 1
        for (int i = first; i < end; ++i) {
            at += left(i, seen);
            if (target < at) {
                room.told[0] = i;
                break;
            }
        }
    }
    sync_block();
    return int(room.told[0]);
}

// Block (part of the vocabulary, row). ``told`` has a place for each block, ``counts`` a zero for each row; the last block of
// a row to finish chooses. Rows that are not there are left as they are.
__device__ inline void choose(const float* all_logits, int vocab, int rows, int* words, Mass* told, unsigned* counts,
                              unsigned char* shared) {
    ChoiceRoom& room = *reinterpret_cast<ChoiceRoom*>(shared);
    let_consumers_start();
    wait_for_producers();
    const int t = blockIdx.y;
    const Chosen chosen(words, rows, t);
    if (t >= words[0] || chosen.row[1] < 0) return;
    const float* logits = all_logits + (long long)t * vocab;
    Mass* best = told + t * gridDim.x;
    unsigned* count = counts + t;
    const int allowed = chosen.settings[ALLOWED], n = allowed > 0 && allowed < vocab ? allowed : vocab;
    Mass top = 0;
    for (int i = blockIdx.x * CHOICE_THREADS + threadIdx.x; i < n; i += gridDim.x * CHOICE_THREADS) {
        const Mass own = Mass(order_of(logits[i])) << 32 | (0xffffffffu - unsigned(i));
        top = own > top ? own : top;
    }
    for (int step = WARP / 2; step > 0; step /= 2) {
        const Mass other = shuffle_xor(top, step);
        top = other > top ? other : top;
    }
    if (lane_index() == 0) room.sums[warp_index()] = top;
    sync_block();
    if (threadIdx.x == 0) {
#pragma unroll 1
        for (int i = 1; i < CHOICE_THREADS / WARP; ++i) room.sums[0] = room.sums[i] > room.sums[0] ? room.sums[i] : room.sums[0];
        best[blockIdx.x] = room.sums[0];
        fence();
        room.told[0] = atomic_add(count, 1) + 1;
    }
    sync_block();
    if (room.told[0] != gridDim.x) return;
    fence();
    if (threadIdx.x == 0) {
        *count = 0;
        top = 0;
        for (int i = 0; i < int(gridDim.x); ++i) {
            const Mass other = load_fresh(best + i);
            top = other > top ? other : top;
        }
        room.told[1] = top;
    }
    sync_block();
    top = room.told[1];
    sync_block();
    const float most = number_of(unsigned(top >> 32));
    int token = int(0xffffffffu - unsigned(top));
    if (!(most - most == 0.0f))
        token = NO_TOKEN;
    else if (as_float(chosen.settings[TEMPERATURE]) > 0)
        token = drawn(logits, n, most, chosen.settings, chosen.draw, room);
    if (threadIdx.x != 0) return;
    *chosen.token = token;
    if (chosen.settings[ADVANCE] == 0) return;
    chosen.row[0] = token;
    chosen.row[1] += 1;
}

}  // namespace graphllm
