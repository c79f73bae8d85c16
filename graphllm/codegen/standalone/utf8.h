// UTF-8: code points of a text, and bytes made fit to be shown as they arrive.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace program {

// Bytes of the character that begins with this one; 0 for a byte that begins none.
inline int utf8_length(unsigned char first) {
    if (first < 0x80) return 1;
    if (first >= 0xC2 && first <= 0xDF) return 2;
    if (first >= 0xE0 && first <= 0xEF) return 3;
    return first >= 0xF0 && first <= 0xF4 ? 4 : 0;
}

// Whether ``byte`` may be number ``place`` (1 …) of a character that begins with ``first``.
inline bool utf8_continues(unsigned char first, int place, unsigned char byte) {
    if (place == 1) {  // no surrogates, nothing in more bytes than it needs, nothing beyond U+10FFFF
        if (first == 0xE0) return byte >= 0xA0 && byte <= 0xBF;
        if (first == 0xED) return byte >= 0x80 && byte <= 0x9F;
        if (first == 0xF0) return byte >= 0x90 && byte <= 0xBF;
        if (first == 0xF4) return byte >= 0x80 && byte <= 0x8F;
    }
    return byte >= 0x80 && byte <= 0xBF;
}

// The place of the first byte that is not UTF-8; npos where all of it is.
inline size_t utf8_flaw(std::string_view text) {
    for (size_t i = 0; i < text.size();) {
        const auto first = static_cast<unsigned char>(text[i]);
        const int length = utf8_length(first);
        if (length == 0 || i + size_t(length) > text.size()) return i;
        for (int k = 1; k < length; ++k)
            if (!utf8_continues(first, k, static_cast<unsigned char>(text[i + size_t(k)]))) return i;
        i += size_t(length);
    }
    return std::string_view::npos;
}

// The code point at ``at`` of a sound text; ``at`` moves behind it.
inline uint32_t utf8_next(std::string_view text, size_t& at) {
    const auto first = static_cast<unsigned char>(text[at]);
    const int length = utf8_length(first);
    uint32_t point = length == 1 ? first : first & (0x7F >> length);
    for (int k = 1; k < length; ++k) point = point << 6 | (static_cast<unsigned char>(text[at + size_t(k)]) & 0x3F);
    at += size_t(length);
    return point;
}

inline void utf8_append(uint32_t point, std::string& out) {
    if (point < 0x80) {
        out += char(point);
        return;
    }
    const int more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
    out += char((0xFF00 >> (more + 1) & 0xFF) | point >> 6 * more);
    for (int k = more - 1; k >= 0; --k) out += char(0x80 | (point >> 6 * k & 0x3F));
}

// Takes bytes as they come and gives whole characters; what can be none becomes U+FFFD.
class Utf8Stream {
  public:
    std::string push(std::string_view bytes) {
        std::string out;
        for (const char byte : bytes) take(byte, out);
        return out;
    }

    std::string finish() {
        const bool unfinished = !held_.empty();
        held_.clear();
        return unfinished ? "\xEF\xBF\xBD" : "";
    }

  private:
    void take(char byte, std::string& out) {
        const auto next = static_cast<unsigned char>(byte);
        if (!held_.empty()) {
            const auto first = static_cast<unsigned char>(held_[0]);
            if (utf8_continues(first, int(held_.size()), next)) {
                held_ += byte;
                if (int(held_.size()) == utf8_length(first)) out += held_, held_.clear();
                return;
            }
            out += finish();
        }
        const int length = utf8_length(next);
        if (length == 1) {
            out += byte;
        } else if (length == 0) {
            out += "\xEF\xBF\xBD";
        } else {
            held_ = byte;
        }
    }

    std::string held_;  // the beginning of a character
};

}  // namespace program
