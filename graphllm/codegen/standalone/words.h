// How byte-level tokenizers cut a text into words before they merge: the patterns of GPT-2, and of Llama 3 and Qwen,
// which differ only in how many digits stand together. Which characters are letters, numbers and spaces comes as ranges.
//
//   GPT-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   others   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,k}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|
//            \s+(?!\S)|\s+
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "utf8.h"

namespace program {

using Ranges = std::vector<std::pair<uint32_t, uint32_t>>;  // first and last, in order

inline bool within(const Ranges& ranges, uint32_t point) {
    const auto after = std::upper_bound(ranges.begin(), ranges.end(), point,
                                        [](uint32_t p, const auto& range) { return p < range.first; });
    return after != ranges.begin() && point <= std::prev(after)->second;
}

class Words {
  public:
    Ranges letters, numbers, spaces;
    bool gpt2 = false;
    int digits = 1;  // that stand together at most

    std::vector<std::string_view> cut(std::string_view text) const {
        std::vector<Character> all;
        for (size_t at = 0; at < text.size();) {
            const size_t first = at;
            const uint32_t point = utf8_next(text, at);
            all.push_back({point, first, kind_of(point)});
        }
        all.push_back({0, text.size(), END});
        std::vector<std::string_view> out;
        for (size_t i = 0; i + 1 < all.size();) {
            const size_t end = gpt2 ? gpt2_word(all, i) : word(all, i);
            out.push_back(text.substr(all[i].at, all[end].at - all[i].at));
            i = end;
        }
        return out;
    }

  private:
    enum Kind { LETTER, NUMBER, SPACE, OTHER, END };
    struct Character {
        uint32_t point;
        size_t at;
        Kind kind;
    };
    using Text = std::vector<Character>;

    Kind kind_of(uint32_t point) const {
        if (point < 0x80) {
            if ((point | 0x20) >= 'a' && (point | 0x20) <= 'z') return LETTER;
            if (point >= '0' && point <= '9') return NUMBER;
            return point == ' ' || (point >= '\t' && point <= '\r') ? SPACE : OTHER;
        }
        if (within(letters, point)) return LETTER;
        if (within(numbers, point)) return NUMBER;
        return within(spaces, point) ? SPACE : OTHER;
    }

    static bool breaks(const Character& c) { return c.kind == SPACE && (c.point == '\r' || c.point == '\n'); }

    static size_t run(const Text& text, size_t i, Kind kind) {
        while (text[i].kind == kind) ++i;
        return i;
    }

    // Past an English ending such as 's or 're; i where there is none.
    static size_t ending(const Text& text, size_t i, bool any_case) {
        if (text[i].point != '\'' || text[i + 1].kind == END) return i;
        const auto is = [&](size_t at, char letter) {
            const uint32_t point = text[at].point;
            if (any_case && letter == 's' && point == 0x17F) return true;  // the long s
            return point == uint32_t(letter) || (any_case && point == uint32_t(letter - 32));
        };
        for (const char letter : {'s', 't', 'm', 'd'})
            if (is(i + 1, letter)) return i + 2;
        for (const char* pair : {"re", "ve", "ll"})
            if (is(i + 1, pair[0]) && text[i + 2].kind != END && is(i + 2, pair[1])) return i + 3;
        return i;
    }

    // Spaces but the last, which goes with what follows; all of them at the end, and one alone.
    static size_t blank(const Text& text, size_t i) {
        const size_t end = run(text, i, SPACE);
        return text[end].kind == END || end == i + 1 ? end : end - 1;
    }

    size_t word(const Text& text, size_t i) const {
        if (const size_t end = ending(text, i, true); end != i) return end;
        const Kind kind = text[i].kind;
        if (kind == LETTER) return run(text, i, LETTER);
        if (kind != NUMBER && !breaks(text[i]) && text[i + 1].kind == LETTER) return run(text, i + 1, LETTER);
        if (kind == NUMBER) {
            size_t end = i;
            while (text[end].kind == NUMBER && end - i < size_t(digits)) ++end;
            return end;
        }
        const size_t start = text[i].point == ' ' && text[i + 1].kind == OTHER ? i + 1 : i;
        if (text[start].kind == OTHER) {
            size_t end = run(text, start, OTHER);
            while (breaks(text[end])) ++end;
            return end;
        }
        size_t past_break = i;  // behind the last line break of these spaces
        for (size_t k = i; text[k].kind == SPACE; ++k)
            if (breaks(text[k])) past_break = k + 1;
        return past_break != i ? past_break : blank(text, i);
    }

    static size_t gpt2_word(const Text& text, size_t i) {
        if (const size_t end = ending(text, i, false); end != i) return end;
        const size_t start = text[i].point == ' ' && text[i + 1].kind != SPACE && text[i + 1].kind != END ? i + 1 : i;
        if (text[start].kind != SPACE) return run(text, start, text[start].kind);
        return blank(text, i);
    }
};

}  // namespace program
