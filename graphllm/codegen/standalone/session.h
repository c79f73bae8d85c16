// One sequence on the generated model: weights mapped, caches and arena allocated once, a prompt cut into the chunks
// that the model has functions for.
//
// The cut is the one that `graphllm run` makes, since a row's rounding depends on the chunk it is computed in: the sizes
// that cost least together, a call costing its rows and the reading of all weights, which is worth CALL_ROWS rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <vector>

#include "fail.h"
#include "mapped_file.h"
#include "model.h"

namespace program {

constexpr int CALL_ROWS = 16;

class Session {
  public:
    Session(const MappedFile& weights, int threads) {
        if (weights.size() != size_t(model::WEIGHT_BYTES))
            fail("weights: expected %lld bytes, got %zu; they are not this model's", (long long)model::WEIGHT_BYTES,
                 weights.size());
        std::vector<const void*> at;
        for (const long long offset : model::WEIGHTS) at.push_back(weights.data() + offset);
        std::vector<void*> states;
        for (const long long bytes : model::STATES) states.push_back(zeros(bytes));
        arena_ = zeros(model::ARENA);
        handle_ = graphllm_open(at.data(), states.data(), arena_, threads);
        if (handle_ == nullptr) fail("threads: %d cannot be started; choose fewer with --threads", threads);
    }

    ~Session() { graphllm_close(handle_); }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    int length() const { return length_; }

    // Append tokens; the logits [V] after the last one, good until the next call.
    const float* feed(const std::vector<int>& tokens) {
        const float* logits = nullptr;
        size_t at = 0;
        for (const int rows : cover(int(tokens.size()))) {
            const int live = std::min(rows, int(tokens.size() - at));
            logits = rows == 1 ? step(tokens[at]) : block(rows, &tokens[at], live);
            at += size_t(live);
        }
        return logits;
    }

    // Append one token; the logits after it.
    const float* step(int token) {
        const int32_t id = token, position = length_++, slot = 0;
        graphllm_step(handle_, model::DECODE.number, &id, &position, &slot, nullptr, 1);
        return logits_of(model::DECODE);
    }

  private:
    static unsigned char* zeros(long long bytes) {
        void* room = nullptr;
        const size_t size = size_t(bytes + 4095) / 4096 * 4096;
        if (posix_memalign(&room, 4096, std::max<size_t>(size, 4096)) != 0)
            fail("memory: %lld bytes cannot be had", bytes);
        std::memset(room, 0, std::max<size_t>(size, 4096));
        return static_cast<unsigned char*>(room);
    }

    const float* logits_of(const model::Function& function) const {
        return reinterpret_cast<const float*>(arena_ + function.logits);
    }

    const float* block(int rows, const int* tokens, int live) {
        const model::Function* function = model::PREFILL;
        while (function->rows != rows) ++function;
        std::vector<int32_t> ids(size_t(rows), 0), positions(size_t(rows), 0), slots(size_t(rows), 0);
        for (int i = 0; i < live; ++i) ids[i] = tokens[i], positions[i] = length_ + i;
        const int32_t last = live - 1;
        graphllm_step(handle_, function->number, ids.data(), positions.data(), slots.data(), &last, live);
        length_ += live;
        return logits_of(*function);
    }

    // Sizes of the calls that take n tokens, largest first. Calls of a smaller size that add up to whole largest ones
    // cost more than those, so a cheapest list has fewer of them: the rest of it is a short table.
    static std::vector<int> cover(int n) {
        std::vector<int> sizes{1};
        for (int i = 0; i < model::PREFILLS; ++i) sizes.push_back(model::PREFILL[i].rows);
        std::sort(sizes.begin(), sizes.end());
        const int largest = sizes.back();
        int spare = 0;
        for (const int size : sizes)
            if (size < largest) spare += std::lcm(size, largest) - size;
        const int whole = std::max(0, n - spare) / largest, rest = n - whole * largest;
        std::vector<int> cost{0}, choice{0};
        for (int held = 1; held <= rest; ++held) {
            int best = 0, size = 0;
            for (const int s : sizes) {  // of two that cost the same, the larger
                const int total = cost[size_t(std::max(0, held - s))] + CALL_ROWS + s;
                if (size == 0 || total <= best) best = total, size = s;
            }
            cost.push_back(best);
            choice.push_back(size);
        }
        std::vector<int> out(size_t(whole), largest);
        for (int left = rest; left > 0; left -= out.back()) out.push_back(choice[size_t(left)]);
        std::sort(out.rbegin(), out.rend());
        return out;
    }

    unsigned char* arena_ = nullptr;
    void* handle_ = nullptr;
    int length_ = 0;
};

}  // namespace program
