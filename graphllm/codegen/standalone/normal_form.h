// Unicode's normal form C: a letter and its marks as one character where there is one, marks in one order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "utf8.h"

namespace program {

class NormalForm {
  public:
    // The class of a mark; characters that have none are letters.
    void add_class(uint32_t point, int number) { classes_[point] = number; }
    // What a character is apart, wholly.
    void add_parts(uint32_t point, std::vector<uint32_t> parts) { parts_[point] = std::move(parts); }
    // Two characters that are one together.
    void add_pair(uint32_t first, uint32_t second, uint32_t both) { pairs_[key(first, second)] = both; }

    bool empty() const { return parts_.empty(); }

    std::string composed(std::string_view text) const {
        if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; }))
            return std::string(text);
        std::string out;
        for (const uint32_t point : together(apart(text))) utf8_append(point, out);
        return out;
    }

  private:
    using Points = std::vector<std::pair<uint32_t, int>>;  // with their classes
    static constexpr uint32_t S = 0xAC00, L = 0x1100, V = 0x1161, T = 0x11A7;  // syllables of Hangul, and their letters
    static constexpr uint32_t LS = 19, VS = 21, TS = 28;

    static uint64_t key(uint32_t first, uint32_t second) { return uint64_t(first) << 32 | second; }

    Points apart(std::string_view text) const {
        Points out;
        const auto push = [&](uint32_t point) {
            const auto found = classes_.find(point);
            out.emplace_back(point, found == classes_.end() ? 0 : found->second);
        };
        for (size_t at = 0; at < text.size();) {
            const uint32_t point = utf8_next(text, at);
            const auto found = parts_.find(point);
            if (point >= S && point < S + LS * VS * TS) {
                const uint32_t i = point - S;
                push(L + i / (VS * TS)), push(V + i % (VS * TS) / TS);
                if (i % TS) push(T + i % TS);
            } else if (found == parts_.end()) {
                push(point);
            } else {
                for (const uint32_t part : found->second) push(part);
            }
        }
        for (size_t i = 0; i < out.size();) {  // marks that stand together, by their classes
            size_t end = i;
            while (end < out.size() && out[end].second != 0) ++end;
            std::stable_sort(out.begin() + long(i), out.begin() + long(end),
                             [](const auto& a, const auto& b) { return a.second < b.second; });
            i = end + 1;
        }
        return out;
    }

    std::vector<uint32_t> together(const Points& points) const {
        std::vector<uint32_t> out;
        size_t letter = 0;
        bool any = false;   // whether there is a letter
        int last = -1;      // the class of what stands between it and the next character, -1 where nothing does
        for (const auto& [point, number] : points) {
            uint32_t both = 0;
            if (any && last < number) both = pair(out[letter], point);
            if (both != 0) {
                out[letter] = both;
                continue;
            }
            if (number == 0) {
                letter = out.size(), any = true, last = -1;
            } else {
                last = number;
            }
            out.push_back(point);
        }
        return out;
    }

    uint32_t pair(uint32_t first, uint32_t second) const {
        if (first >= L && first < L + LS && second >= V && second < V + VS)
            return S + ((first - L) * VS + (second - V)) * TS;
        if (first >= S && first < S + LS * VS * TS && (first - S) % TS == 0 && second > T && second < T + TS)
            return first + (second - T);
        const auto found = pairs_.find(key(first, second));
        return found == pairs_.end() ? 0 : found->second;
    }

    std::unordered_map<uint32_t, int> classes_;
    std::unordered_map<uint32_t, std::vector<uint32_t>> parts_;
    std::unordered_map<uint64_t, uint32_t> pairs_;
};

}  // namespace program
