// Rotary positions (Su et al. 2021, arXiv:2104.09864): a table once a step, then every head's pairs turned by it.
#pragma once

namespace graphllm {

// turn[i] = scale * (cos, sin) of position * freqs[i]. An angle may be many turns: it is taken to [0, 2 pi) in double.
inline void rotation(int position, const float* freqs, int pairs, float scale, float* turn) {
    for (int i = 0; i < pairs; ++i) {
        const float angle = float(double(position) * double(freqs[i]));
        turn[2 * i] = scale * float(__builtin_cos(double(angle)));
        turn[2 * i + 1] = scale * float(__builtin_sin(double(angle)));
    }
}

// Pairs (x[2i], x[2i+1]) of a head of d; ``y`` may be ``x``.
inline void rope_interleaved(const float* x, const float* turn, int d, float* y) {
    for (int i = 0; i < d; i += 2) {
        const float u = x[i], v = x[i + 1], c = turn[i], s = turn[i + 1];
        y[i] = u * c - v * s;
        y[i + 1] = u * s + v * c;
    }
}

// Pairs (x[i], x[i+d/2]).
inline void rope_half(const float* x, const float* turn, int d, float* y) {
    const int half = d / 2;
    for (int i = 0; i < half; ++i) {
        const float u = x[i], v = x[i + half], c = turn[2 * i], s = turn[2 * i + 1];
        y[i] = u * c - v * s;
        y[i + half] = u * s + v * c;
    }
}

}  // namespace graphllm
