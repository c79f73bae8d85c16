// Texts that end an answer and are not part of it: what may be the beginning of one is held back.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace program {

class Stops {
  public:
    explicit Stops(std::vector<std::string> texts) : texts_(std::move(texts)) {}

    // What may be printed now that ``text`` has come; ``found`` from then on where one of the texts has.
    std::string push(const std::string& text) {
        held_ += text;
        size_t first = std::string::npos;
        for (const std::string& stop : texts_) first = std::min(first, held_.find(stop));
        if (first != std::string::npos) {
            found_ = true;
            return held_.substr(0, first);
        }
        size_t keep = 0;
        for (const std::string& stop : texts_)
            for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n)
                if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) keep = n;
        std::string out = held_.substr(0, held_.size() - keep);
        held_.erase(0, out.size());
        return out;
    }

    std::string finish() { return found_ ? std::string() : std::exchange(held_, std::string()); }
    bool found() const { return found_; }

  private:
    std::vector<std::string> texts_;
    std::string held_;
    bool found_ = false;
};

}  // namespace program
