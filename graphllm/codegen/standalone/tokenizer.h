// Text to ids and back, from the file that graphllm left beside the weights: bytes of every id, and what it takes to
// encode where that could be said in plain C++.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fail.h"
#include "mapped_file.h"
#include "merges.h"
#include "normal_form.h"
#include "scores.h"
#include "utf8.h"
#include "words.h"

namespace program {

class Tokenizer {
  public:
    explicit Tokenizer(const std::string& path) : file_(path), path_(path) {
        if (file_.size() < 8 || std::memcmp(file_.data(), "GLTK", 4) != 0) fail("%s: not a tokenizer", path.c_str());
        at_ = 4;
        if (number() != 2) fail("%s: of another version than this program", path.c_str());
        kind_ = Kind(number());
        leading_ = number();
        before_ = integers();
        after_ = integers();
        const uint32_t tokens = number();
        for (uint32_t i = 0; i < tokens; ++i) {
            const bool special = byte() != 0;
            tokens_.push_back({text(), special});
        }
        if (kind_ == SCORES) read_scores();
        if (kind_ == BYTE_MERGES || kind_ == CHARACTER_MERGES) read_merges();
    }

    // Whether it reads text; every tokenizer writes it.
    bool encodes() const { return kind_ != DECODES_ONLY; }
    int leading_spaces() const { return int(leading_); }

    // The bytes of an id; none for special ones and for those that are no token's.
    std::string_view bytes(int id) const {
        const bool known = id >= 0 && size_t(id) < tokens_.size() && !tokens_[size_t(id)].second;
        return known ? tokens_[size_t(id)].first : std::string_view();
    }

    std::vector<int> encode(std::string_view text) const {
        if (const size_t flaw = utf8_flaw(text); flaw != std::string_view::npos)
            fail("prompt: not UTF-8 at byte %zu", flaw);
        std::vector<int> ids(before_);
        if (kind_ == SCORES) {
            if (!text.empty()) encode_by_scores(text, ids);
        } else {
            encode_around(text, added_, [this, &ids](std::string_view part) {
                const std::string plain = normalised(part);
                encode_around(plain, added_normalised_, [this, &ids](std::string_view rest) { merge(rest, ids); }, ids);
            }, ids);
        }
        ids.insert(ids.end(), after_.begin(), after_.end());
        return ids;
    }

  private:
    enum Kind : uint32_t { DECODES_ONLY, SCORES, BYTE_MERGES, CHARACTER_MERGES };
    using Added = std::vector<std::pair<std::string_view, int>>;

    // Reading

    const unsigned char* take(size_t count) {
        if (count > file_.size() - at_) fail("%s: cut short", path_.c_str());
        at_ += count;
        return file_.data() + at_ - count;
    }

    uint32_t number() {
        uint32_t value;
        std::memcpy(&value, take(4), 4);
        return value;
    }

    uint32_t byte() { return *take(1); }

    std::string_view text() {
        const uint32_t size = number();
        return {reinterpret_cast<const char*>(take(size)), size};
    }

    std::vector<int> integers() {
        std::vector<int> out;
        for (uint32_t n = number(); n > 0; --n) out.push_back(int(number()));
        return out;
    }

    Ranges ranges() {
        Ranges out;
        for (uint32_t n = number(); n > 0; --n) {
            const uint32_t first = number();
            out.emplace_back(first, number());
        }
        return out;
    }

    Added added() {
        Added out;
        for (uint32_t n = number(); n > 0; --n) {
            const std::string_view name = text();
            out.emplace_back(name, int(number()));
        }
        return out;
    }

    void read_scores() {
        space_in_front_ = byte() != 0;
        spaces_collapse_ = byte() != 0;
        unknown_ = int(number());
        byte_ids_ = integers();
        for (uint32_t n = number(); n > 0; --n) {
            const std::string_view piece = text();
            const int id = int(number());
            float score;
            std::memcpy(&score, take(4), 4);
            scores_.add(piece, id, score, byte() != 0);
        }
    }

    void read_merges() {
        added_ = added();
        added_normalised_ = added();
        prepended_ = text();
        for (uint32_t n = number(); n > 0; --n) {
            const std::string_view from = text();
            replaced_.emplace_back(from, text());
        }
        read_normal_form();
        words_.gpt2 = byte() != 0;
        words_.digits = int(number());
        words_.letters = ranges();
        words_.numbers = ranges();
        words_.spaces = ranges();
        unknown_ = int(number());
        unknowns_fuse_ = byte() != 0;
        byte_ids_ = integers();
        for (const auto& [piece, id] : added()) whole_.emplace(piece, id);
        for (uint32_t n = number(); n > 0; --n) {
            const int left = int(number()), right = int(number());
            merges_.add(left, right, int(number()));
        }
    }

    void read_normal_form() {
        for (uint32_t n = number(); n > 0; --n) {
            const uint32_t point = number();
            normal_form_.add_class(point, int(number()));
        }
        for (uint32_t n = number(); n > 0; --n) {
            const uint32_t point = number();
            std::vector<uint32_t> parts(number());
            for (uint32_t& part : parts) part = number();
            normal_form_.add_parts(point, std::move(parts));
        }
        for (uint32_t n = number(); n > 0; --n) {
            const uint32_t first = number(), second = number();
            normal_form_.add_pair(first, second, number());
        }
    }

    // Encoding

    void encode_by_scores(std::string_view text, std::vector<int>& ids) const {
        const std::string_view space = "\xE2\x96\x81";  // sentencepiece's visible space
        if (spaces_collapse_) {
            while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
            while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
            if (text.empty()) return;
        }
        std::string plain(space_in_front_ ? space : std::string_view());
        for (size_t i = 0; i < text.size(); ++i) {
            if (text[i] != ' ') {
                plain += text[i];
            } else if (!spaces_collapse_ || text[i - 1] != ' ') {
                plain += space;
            }
        }
        bool after_unknown = false;
        for (const auto& [piece, id] : scores_.cut(plain)) {
            if (id >= 0) {
                ids.push_back(id);
            } else if (!byte_ids_.empty()) {
                for (const char c : piece) ids.push_back(byte_ids_[static_cast<unsigned char>(c)]);
            } else if (!after_unknown) {
                ids.push_back(unknown_);
            }
            after_unknown = id < 0;
        }
    }

    // The names of added tokens in a text become those tokens, the longest where several begin; ``other`` takes the rest.
    template <class Other>
    static void encode_around(std::string_view text, const Added& names, Other other, std::vector<int>& ids) {
        size_t from = 0;
        for (size_t i = 0; i < text.size() && !names.empty();) {
            const std::pair<std::string_view, int>* found = nullptr;
            for (const auto& name : names)
                if (name.first[0] == text[i] && text.compare(i, name.first.size(), name.first) == 0 &&
                    (found == nullptr || name.first.size() > found->first.size()))
                    found = &name;
            if (found == nullptr) {
                ++i;
                continue;
            }
            if (i > from) other(text.substr(from, i - from));
            ids.push_back(found->second);
            from = i += found->first.size();
        }
        if (from < text.size()) other(text.substr(from));
    }

    std::string normalised(std::string_view text) const {
        std::string out(prepended_);
        if (normal_form_.empty()) {
            out += text;
        } else {
            out += normal_form_.composed(text);
        }
        for (const auto& [from, to] : replaced_)
            for (size_t at = 0; (at = out.find(from, at)) != std::string::npos; at += to.size())
                out.replace(at, from.size(), to);
        return out;
    }

    void merge(std::string_view text, std::vector<int>& ids) const {
        if (kind_ == CHARACTER_MERGES) return merges_.apply(characters(text), ids);
        for (const std::string_view word : words_.cut(text)) {
            const auto known = whole_.find(word);  // where words that are tokens are not merged
            if (known != whole_.end()) {
                ids.push_back(known->second);
                continue;
            }
            std::vector<int> symbols;
            for (const char c : word) symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
            merges_.apply(symbols, ids);
        }
    }

    // The ids of characters, of their bytes where they have none, and of the unknown where bytes have none either.
    std::vector<int> characters(std::string_view text) const {
        std::vector<int> out;
        bool unknown = false;  // one is still to be written: it stands for all in a row
        for (size_t at = 0; at < text.size();) {
            const size_t first = at;
            utf8_next(text, at);
            const std::string_view character = text.substr(first, at - first);
            const auto known = whole_.find(character);
            if (known != whole_.end()) {
                if (unknown) out.push_back(unknown_);
                unknown = false;
                out.push_back(known->second);
                continue;
            }
            bool by_bytes = true;
            for (const char c : character) by_bytes &= byte_ids_[static_cast<unsigned char>(c)] >= 0;
            if (by_bytes) {
                for (const char c : character) out.push_back(byte_ids_[static_cast<unsigned char>(c)]);
            } else {
                if (unknown && !unknowns_fuse_) out.push_back(unknown_);
                unknown = true;
            }
        }
        if (unknown) out.push_back(unknown_);
        return out;
    }

    MappedFile file_;
    std::string path_;
    size_t at_ = 0;
    Kind kind_ = DECODES_ONLY;
    uint32_t leading_ = 0;
    std::vector<int> before_, after_;  // ids that begin and end a prompt
    std::vector<std::pair<std::string_view, bool>> tokens_;  // bytes, and whether it is special
    std::vector<int> byte_ids_;
    int unknown_ = 0;
    // scores
    Scores scores_;
    bool space_in_front_ = false, spaces_collapse_ = false;
    // merges
    bool unknowns_fuse_ = false;
    Merges merges_;
    Added added_, added_normalised_;
    std::string_view prepended_;
    std::vector<std::pair<std::string_view, std::string_view>> replaced_;
    NormalForm normal_form_;
    Words words_;
    std::unordered_map<std::string_view, int> whole_;
};

// The text of ids, one by one: whole characters, without the spaces that the encoder put in front.
class Speaker {
  public:
    explicit Speaker(const Tokenizer& tokenizer) : tokenizer_(tokenizer), leading_(tokenizer.leading_spaces()) {}

    std::string push(int id) { return settled(stream_.push(tokenizer_.bytes(id))); }
    std::string finish() { return settled(stream_.finish()); }

  private:
    std::string settled(std::string text) {
        size_t drop = 0;
        while (leading_ > 0 && drop < text.size() && text[drop] == ' ') ++drop, --leading_;
        if (drop < text.size()) leading_ = 0;
        return text.substr(drop);
    }

    const Tokenizer& tokenizer_;
    Utf8Stream stream_;
    int leading_;
};

}  // namespace program
