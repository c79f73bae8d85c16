// Mixtures of experts: a row's choice among them, products with the matrices it chose, the sum of what they gave.
//
// Matrices [N,K] of all experts lie one below the other. Threads share out columns; of each expert that some row chose, a
// thread reads its columns from memory once for up to STAGED of those rows, and nothing of the others. A few columns
// stay in cache while they meet those rows, BUNCH at a time.
#pragma once

#include "linear.h"

namespace graphllm {

constexpr int BUNCH = 4, STAGED = 32;

// The ``used`` likeliest of ``experts``, and softmax of them, over all or (``normalized``) over those chosen.
inline void top_experts(const float* logits, int experts, int used, bool normalized, int32_t* ids, float* shares) {
    float most = logits[0], all = 0, chosen = 0;
    for (int e = 1; e < experts; ++e) most = logits[e] > most ? logits[e] : most;
    for (int e = 0; e < experts; ++e) all += __builtin_expf(logits[e] - most);
    for (int u = 0; u < used; ++u) {
        int best = -1;
        for (int e = 0; e < experts; ++e) {
            bool taken = false;
            for (int v = 0; v < u; ++v) taken |= ids[v] == e;
            // the first that is left will do where nothing compares, as with NaN
            if (!taken && (best < 0 || logits[e] > logits[best])) best = e;
        }
        ids[u] = best;
        shares[u] = __builtin_expf(logits[best] - most) / all;
        chosen += shares[u];
    }
    if (normalized)
        for (int u = 0; u < used; ++u) shares[u] /= chosen;
}

constexpr int staged_rows(int pairs) { return pairs < STAGED ? pairs : STAGED; }
constexpr long expert_bytes(long row, int unit, int pairs) {
    return staged_rows(pairs) * row + 4L * BUNCH * up(unit, LANES);
}

// out(t, u)[…n] = W[ids[t*used + u]] . source(t, u), for rows 0 … rows - 1.
template <class W, class Source, class Out>
inline void expert_linear(const Step& step, const W& weights, int rows, int used, int experts, int n, int unit,
                          const int32_t* ids, Source source, Out out) {
    const long row = weights.row();
    const int pairs = rows * used, most = staged_rows(pairs);
    unsigned char* staged = step.scratch;
    float* at = reinterpret_cast<float*>(staged + most * row);
    const int units = (n + unit - 1) / unit;
    const auto columns_of = [&](const Turns& mine) {
        for (int e = 0; e < experts; ++e)
            for (int from = 0; from < pairs;) {
                int some[STAGED], count = 0;
                for (; from < pairs && count < most; ++from)
                    if (clip(ids[from], experts) == e) some[count++] = from;
                for (int i = 0; i < count; ++i) weights.stage(source(some[i] / used, some[i] % used), staged + i * row);
                for (int c = mine.first; count > 0 && c < mine.last; ++c) {
                    const int first = c * unit, columns = first + unit < n ? unit : n - first;
                    const long n0 = long(e) * n + first;
                    for (int i = 0; i < count; i += BUNCH) {
                        const unsigned char* x = staged + i * row;
                        const int bunch = count - i < BUNCH ? count - i : BUNCH;
                        switch (bunch) {
                            case 1: one_stream<1>(weights, n0, columns, x, at, unit); break;
                            case 2: one_stream<2>(weights, n0, columns, x, at, unit); break;
                            case 3: one_stream<3>(weights, n0, columns, x, at, unit); break;
                            default: one_stream<4>(weights, n0, columns, x, at, unit);
                        }
                        for (int j = 0; j < bunch; ++j)
                            copy(at + j * unit, columns, out(some[i + j] / used, some[i + j] % used) + first);
                    }
                }
            }
    };
    // Whole parts: rows are staged for each.
    for (Turns mine(step, units, units); mine.next();) columns_of(mine);
}

// y = sum of shares[u] * x[u], in the order of u; x [used, n].
inline void expert_sum(const float* x, const float* shares, int used, int n, float* y) {
    for_lanes(n, y, [&](VF v) { return v * shares[0]; }, x);
    for (int u = 1; u < used; ++u) for_lanes(n, y, [&](VF sum, VF v) { return sum + v * shares[u]; }, y, x + long(u) * n);
}

}  // namespace graphllm
