// The next token from logits, by the stages of `graphllm run`, in its order: penalties, temperature, top-k, top-p,
// min-p, draw. Each cut sees the survivors of the one before; of equal values the lowest id wins. A drawn token takes
// one random number, however many were left.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include "fail.h"
#include "random.h"

namespace program {

struct SamplerOptions {
    double temperature = 0, top_p = 1, min_p = 0;
    double repetition = 1, presence = 0, frequency = 0;
    int top_k = 0, window = 0;  // 0: all
    uint64_t seed = 0;
};

class Sampler {
  public:
    // ``allowed``: ids below it have a token.
    Sampler(const SamplerOptions& options, int allowed) : options_(options), allowed_(allowed), random_(options.seed) {}

    int next(const float* logits, const std::vector<int>& history) {
        std::vector<double> x(logits, logits + allowed_);
        if (options_.repetition != 1 || options_.presence != 0 || options_.frequency != 0) penalise(x, history);
        int best = 0;
        for (int i = 0; i < allowed_; ++i) {
            if (std::isnan(x[i])) fail("logits: NaN at token id %d; the weights or this build are broken", i);
            if (x[i] > x[best]) best = i;
        }
        if (!std::isfinite(x[best])) fail("logits: no finite largest value; the weights or this build are broken");
        if (options_.temperature == 0) return best;
        const double largest = x[best];
        for (double& value : x) value = (value - largest) / options_.temperature;
        ids_.resize(size_t(allowed_));
        for (int i = 0; i < allowed_; ++i) ids_[i] = i;
        if (options_.top_k > 0 && options_.top_k < allowed_) keep_largest(x, size_t(options_.top_k));
        for (double& value : x) value = std::exp(value);
        if (options_.top_p < 1) keep_largest(x, nucleus(x, options_.top_p));
        if (options_.min_p > 0) {
            const double bound = options_.min_p * *std::max_element(x.begin(), x.end());
            keep(x, [bound](double value) { return value >= bound; });
        }
        return ids_[draw(x)];
    }

  private:
    void penalise(std::vector<double>& x, const std::vector<int>& history) const {
        std::unordered_map<int, int> counts;
        const size_t all = history.size();
        const size_t first = options_.window > 0 && size_t(options_.window) < all ? all - size_t(options_.window) : 0;
        for (size_t i = first; i < all; ++i)
            if (history[i] < allowed_) ++counts[history[i]];
        for (const auto& [id, count] : counts) {
            double& value = x[size_t(id)];
            value = value < 0 ? value * options_.repetition : value / options_.repetition;
            value -= count * options_.frequency + options_.presence;
        }
    }

    // How many of the largest together hold the share p.
    static size_t nucleus(const std::vector<double>& x, double p) {
        constexpr double rounding = 1e-12;  // three tokens of probability 0.1 reach 0.3
        double total = 0;
        for (const double value : x) total += value;
        // what lies below this bound holds less than 1 - p altogether: none of it is needed, and it need not be sorted
        const double bound = (1 - p) * total / double(x.size()) * (1 - rounding);
        std::vector<double> falling;
        for (const double value : x)
            if (value >= bound) falling.push_back(value);
        std::sort(falling.begin(), falling.end(), std::greater<double>());
        double sum = 0;
        size_t count = 0;
        while (count < falling.size() && (sum += falling[count]) < p * total * (1 - rounding)) ++count;
        return std::min(count + 1, falling.size());
    }

    void keep_largest(std::vector<double>& x, size_t count) {
        std::vector<double> sorted(x);
        std::nth_element(sorted.begin(), sorted.begin() + long(count) - 1, sorted.end(), std::greater<double>());
        const double threshold = sorted[count - 1];
        size_t above = 0;
        for (const double value : x) above += value > threshold;
        size_t ties = count - above;
        keep(x, [&](double value) { return value > threshold || (value == threshold && ties > 0 && ties-- > 0); });
    }

    template <class Wanted>
    void keep(std::vector<double>& x, Wanted wanted) {
        size_t kept = 0;
        for (size_t i = 0; i < x.size(); ++i)
            if (wanted(x[i])) x[kept] = x[i], ids_[kept] = ids_[i], ++kept;
        x.resize(kept);
        ids_.resize(kept);
    }

    size_t draw(const std::vector<double>& x) {
        double total = 0;
        for (const double value : x) total += value;
        const double at = random_.uniform() * total;
        double sum = 0;
        size_t last = 0;  // the last of any weight, should rounding carry the number past all of them
        for (size_t i = 0; i < x.size(); ++i) {
            sum += x[i];
            if (x[i] > 0) last = i;
            if (sum > at) return i;
        }
        return last;
    }

    SamplerOptions options_;
    int allowed_;
    Random random_;
    std::vector<int> ids_;
};

}  // namespace program
