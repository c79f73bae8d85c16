// The order of things, drawn from a seed: the same seed, the same order, on every machine.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace graphllm::sim {

class Order {
public:
    explicit Order(uint64_t seed) : state_(mixed(seed)) {}

    uint64_t draw() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_;
    }

    // 0 to n - 1.
    unsigned below(unsigned n) { return static_cast<unsigned>((draw() >> 32) * n >> 32); }

    // Once in n times.
    bool once_in(unsigned n) { return below(n) == 0; }

    // 0 to n - 1 in some order.
    void shuffle(std::vector<unsigned>& out, unsigned n) {
        out.resize(n);
        for (unsigned i = 0; i < n; ++i) out[i] = i;
        for (unsigned i = n; i > 1; --i) std::swap(out[i - 1], out[below(i)]);
    }

private:
    // Neighbouring seeds begin far from each other; never zero, where the sequence would stay.
    static uint64_t mixed(uint64_t x) {
        x += 0x9e3779b97f4a7c15u;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
        return (x ^ (x >> 31)) | 1;
    }

    uint64_t state_;
};

// One of the bits that are set in ``mask``, which is not zero.
inline unsigned some_bit(unsigned mask, unsigned random) {
    const unsigned by = random & 31;
    const unsigned turned = by ? mask >> by | mask << (32 - by) : mask;
    return (static_cast<unsigned>(__builtin_ctz(turned)) + by) & 31;
}

}  // namespace graphllm::sim
