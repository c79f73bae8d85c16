// Byte pair encoding by a list of merges (tokenizer.json): of all adjacent pairs that may be merged, the one that comes
// first in the list is, leftmost where there are several, until none is left.
#pragma once

#include <cstdint>
#include <queue>
#include <unordered_map>
#include <vector>

namespace program {

class Merges {
  public:
    void add(int left, int right, int merged) {
        rules_.emplace(key(left, right), Rule{int(rules_.size()), merged});
    }

    // Merge ``ids`` and append what is left of them to ``out``.
    void apply(const std::vector<int>& ids, std::vector<int>& out) const {
        struct Symbol {
            int id, before, after;
        };
        struct Candidate {
            int rank, at, merged;
            bool operator<(const Candidate& other) const {  // the queue gives the largest first
                return rank != other.rank ? rank > other.rank : at > other.at;
            }
        };
        std::vector<Symbol> symbols;
        const int n = int(ids.size());
        for (int i = 0; i < n; ++i) symbols.push_back({ids[size_t(i)], i - 1, i + 1 < n ? i + 1 : -1});
        std::priority_queue<Candidate> queue;
        const auto consider = [&](int at) {
            if (at < 0 || symbols[size_t(at)].after < 0) return;
            const Rule* rule = find(symbols[size_t(at)].id, symbols[size_t(symbols[size_t(at)].after)].id);
            if (rule != nullptr) queue.push({rule->rank, at, rule->merged});
        };
        for (int i = 0; i < n; ++i) consider(i);
        while (!queue.empty()) {
            const Candidate best = queue.top();
            queue.pop();
            Symbol& left = symbols[size_t(best.at)];
            if (left.id < 0 || left.after < 0) continue;  // merged into another since
            Symbol& right = symbols[size_t(left.after)];
            const Rule* rule = find(left.id, right.id);
            if (rule == nullptr || rule->merged != best.merged) continue;
            left.id = best.merged;
            right.id = -1;
            left.after = right.after;
            if (left.after >= 0) symbols[size_t(left.after)].before = best.at;
            consider(left.before);
            consider(best.at);
        }
        for (int i = 0; i < n; ++i)
            if (symbols[size_t(i)].id >= 0) out.push_back(symbols[size_t(i)].id);
    }

  private:
    struct Rule {
        int rank, merged;
    };

    static uint64_t key(int left, int right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); }

    const Rule* find(int left, int right) const {
        const auto found = rules_.find(key(left, right));
        return found == rules_.end() ? nullptr : &found->second;
    }

    std::unordered_map<uint64_t, Rule> rules_;
};

}  // namespace program
