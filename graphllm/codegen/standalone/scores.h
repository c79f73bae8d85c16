// Byte pair encoding by scores (sentencepiece, llama2.c): of all adjacent pairs that together are a piece, the one with
// the highest score is merged, leftmost where there are several, until none is left.
#pragma once

#include <queue>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "utf8.h"

namespace program {

class Scores {
  public:
    // ``fixed``: wherever the text has it, it is cut out, and merged with nothing.
    void add(std::string_view piece, int id, float score, bool fixed) {
        pieces_.emplace(std::string(piece), Piece{id, score});
        if (fixed) fixed_.emplace_back(piece);
    }

    // The pieces that ``text`` is cut into: (bytes, id), the id -1 for a character that is no piece.
    std::vector<std::pair<std::string_view, int>> cut(std::string_view text) const {
        struct Symbol {
            size_t first, size;
            int before, after;
            bool fixed;
        };
        struct Candidate {
            float score;
            int at;
            size_t size;
            bool operator<(const Candidate& other) const {  // the queue gives the largest first
                return score != other.score ? score < other.score : at > other.at;
            }
        };
        std::vector<Symbol> symbols;
        for (size_t at = 0; at < text.size();) {
            const size_t first = at, fixed = fixed_at(text.substr(at));
            if (fixed > 0) {
                at += fixed;
            } else {
                utf8_next(text, at);
            }
            symbols.push_back({first, at - first, int(symbols.size()) - 1, int(symbols.size()) + 1, fixed > 0});
        }
        if (!symbols.empty()) symbols.back().after = -1;
        std::priority_queue<Candidate> queue;
        const auto consider = [&](int at) {
            if (at < 0 || symbols[size_t(at)].after < 0) return;
            const Symbol& left = symbols[size_t(at)];
            if (left.fixed || symbols[size_t(left.after)].fixed) return;
            const size_t size = left.size + symbols[size_t(left.after)].size;
            const Piece* piece = find(text.substr(left.first, size));
            if (piece != nullptr) queue.push({piece->score, at, size});
        };
        for (int i = 0; i < int(symbols.size()); ++i) consider(i);
        while (!queue.empty()) {
            const Candidate best = queue.top();
            queue.pop();
            Symbol& left = symbols[size_t(best.at)];
            if (left.size == 0 || left.after < 0) continue;  // merged into another since
            Symbol& right = symbols[size_t(left.after)];
            if (left.size + right.size != best.size) continue;
            left.size = best.size;
            right.size = 0;
            left.after = right.after;
            if (left.after >= 0) symbols[size_t(left.after)].before = best.at;
            consider(left.before);
            consider(best.at);
        }
        std::vector<std::pair<std::string_view, int>> out;
        for (const Symbol& symbol : symbols) {
            if (symbol.size == 0) continue;
            const std::string_view piece = text.substr(symbol.first, symbol.size);
            const Piece* found = find(piece);
            out.emplace_back(piece, found != nullptr ? found->id : -1);
        }
        return out;
    }

  private:
    struct Piece {
        int id;
        float score;
    };

    // The size of the longest fixed piece that ``text`` begins with, 0 for none.
    size_t fixed_at(std::string_view text) const {
        size_t size = 0;
        for (const std::string& piece : fixed_)
            if (piece.size() > size && text.compare(0, piece.size(), piece) == 0) size = piece.size();
        return size;
    }

    const Piece* find(std::string_view piece) const {
        const auto found = pieces_.find(std::string(piece));
        return found == pieces_.end() ? nullptr : &found->second;
    }

    std::unordered_map<std::string, Piece> pieces_;
    std::vector<std::string> fixed_;
};

}  // namespace program
