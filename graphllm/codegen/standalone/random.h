// The random numbers that `graphllm run --seed N` draws: PCG64 (O'Neill 2014, the XSL-RR output), seeded by NumPy's
// SeedSequence, which spreads the seed over a pool of four words.
#pragma once

#include <cstddef>
#include <cstdint>

namespace program {

class Random {
  public:
    explicit Random(uint64_t seed) {
        uint32_t pool[4], words[8];
        const uint32_t entropy[4] = {uint32_t(seed), uint32_t(seed >> 32), 0, 0};
        uint32_t constant = 0x43b0d7e5;
        const auto hash = [&constant](uint32_t value, uint32_t factor) {
            value ^= constant;
            constant *= factor;
            value *= constant;
            return value ^ value >> 16;
        };
        for (int i = 0; i < 4; ++i) pool[i] = hash(entropy[i], 0x931e8875);
        for (int from = 0; from < 4; ++from)
            for (int to = 0; to < 4; ++to)
                if (from != to) {
                    const uint32_t mixed = 0xca01f9ddu * pool[to] - 0x4973f715u * hash(pool[from], 0x931e8875);
                    pool[to] = mixed ^ mixed >> 16;
                }
        constant = 0x8b51f9dd;
        for (int i = 0; i < 8; ++i) words[i] = hash(pool[i % 4], 0x58f38ded);
        const auto wide = [&words](int i) { return Wide(pair(words, i)) << 64 | pair(words, i + 1); };
        increment_ = wide(2) << 1 | 1;
        advance();
        state_ += wide(0);
        advance();
    }

    // In [0, 1), 53 bits.
    double uniform() {
        advance();
        const uint64_t mixed = uint64_t(state_ >> 64) ^ uint64_t(state_);
        const unsigned turn = unsigned(state_ >> 122);
        const uint64_t out = mixed >> turn | mixed << (-turn & 63);
        return double(out >> 11) * (1.0 / 9007199254740992.0);
    }

  private:
    __extension__ typedef unsigned __int128 Wide;

    static uint64_t pair(const uint32_t* words, int i) { return words[2 * i] | uint64_t(words[2 * i + 1]) << 32; }

    void advance() {
        const Wide factor = Wide(2549297995355413924ull) << 64 | 4865540595714422341ull;
        state_ = state_ * factor + increment_;
    }

    Wide state_ = 0, increment_ = 0;
};

}  // namespace program
