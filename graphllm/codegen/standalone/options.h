// The command line.
#pragma once

#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "fail.h"
#include "sampler.h"

namespace program {

constexpr const char* USAGE =
    "usage: %s [-p TEXT | -f FILE | --ids \"1 403 407\"] [options]\n"
    "Continues a prompt; without one it is read from standard input.\n"
    "  -n N                     at most N tokens, -1: no limit (default: 256)\n"
    "  -t X                     temperature, 0: greedy (default: 0)\n"
    "  --top-k K  --top-p X  --min-p X  --seed N\n"
    "  --repetition-penalty X  --presence-penalty X  --frequency-penalty X  --penalty-window N\n"
    "  --stop TEXT              end the answer before this text; may be given again\n"
    "  --ignore-eos             go on past end tokens\n"
    "  --no-echo                print the answer without the prompt\n"
    "  --threads N              (default: one for each physical core); no result depends on it\n"
    "  --stats                  print speeds on stderr at the end\n"
    "  --encode                 print the ids of the prompt and end\n"
    "  --folder DIR             where weights.bin and tokenizer.bin lie (default: beside this program)\n";

struct Options {
    std::string prompt, folder;
    std::vector<std::string> stop;
    std::vector<int> ids;
    bool by_ids = false, ignore_eos = false, echo = true, stats = false, encode = false;
    long max_tokens = 256;
    int threads = 0;
    SamplerOptions sampler;
};

inline double parsed_number(const std::string& name, const char* text, double low, double high) {
    char* end = nullptr;
    const double value = std::strtod(text, &end);
    if (end == text || *end != 0 || !(value >= low && value <= high))
        fail("%s %s: expected a number from %g to %g", name.c_str(), text, low, high);
    return value;
}

inline long parsed_whole(const std::string& name, const char* text, long low, long high) {
    char* end = nullptr;
    errno = 0;
    const long value = std::strtol(text, &end, 10);
    if (end == text || *end != 0 || errno != 0 || value < low || value > high)
        fail("%s %s: expected a whole number from %ld to %ld", name.c_str(), text, low, high);
    return value;
}

inline std::vector<int> parsed_ids(const std::string& text, int vocab) {
    std::vector<int> out;
    std::string word;
    for (const char c : text + " ") {
        if (c != ' ' && c != ',' && c != '\n' && c != '\t') {
            word += c;
        } else if (!word.empty()) {
            out.push_back(int(parsed_whole("--ids", word.c_str(), 0, vocab - 1)));
            word.clear();
        }
    }
    return out;
}

// As editors write it: less its last line break.
inline std::string text_of(std::istream& in) {
    std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
    return text;
}

inline uint64_t fresh_seed() {
    std::random_device device;
    return (uint64_t(device()) << 32 | device()) >> 11;  // 53 bits
}

inline Options parsed_options(int count, char** words, int vocab) {
    Options out;
    const std::string self = words[0];
    const size_t slash = self.rfind('/');
    out.folder = slash == std::string::npos ? "." : self.substr(0, slash);
    bool prompted = false, seeded = false;
    SamplerOptions& s = out.sampler;
    for (int i = 1; i < count; ++i) {
        const std::string name = words[i];
        const auto value = [&]() -> const char* {
            if (i + 1 >= count) fail("%s: expected a value after it", name.c_str());
            return words[++i];
        };
        if (name == "-p" || name == "--prompt") {
            out.prompt = value(), prompted = true;
        } else if (name == "-f" || name == "--file") {
            const char* path = value();
            std::ifstream file(path, std::ios::binary);
            if (!file) fail("%s: cannot be read", path);
            out.prompt = text_of(file), prompted = true;
        } else if (name == "--ids") {
            out.ids = parsed_ids(value(), vocab), out.by_ids = prompted = true;
        } else if (name == "-n" || name == "--max-tokens") {
            out.max_tokens = parsed_whole(name, value(), -1, 1L << 30);
        } else if (name == "-t" || name == "--temperature") {
            s.temperature = parsed_number(name, value(), 0, 1e6);
        } else if (name == "--top-k") {
            s.top_k = int(parsed_whole(name, value(), 0, 1L << 30));
        } else if (name == "--top-p") {
            s.top_p = parsed_number(name, value(), 0, 1);
        } else if (name == "--min-p") {
            s.min_p = parsed_number(name, value(), 0, 1);
        } else if (name == "--repetition-penalty") {
            s.repetition = parsed_number(name, value(), 0.01, 100);
        } else if (name == "--presence-penalty") {
            s.presence = parsed_number(name, value(), -1000, 1000);
        } else if (name == "--frequency-penalty") {
            s.frequency = parsed_number(name, value(), -1000, 1000);
        } else if (name == "--penalty-window") {
            s.window = int(parsed_whole(name, value(), 0, 1L << 30));
        } else if (name == "--seed") {
            s.seed = uint64_t(parsed_whole(name, value(), 0, INT64_MAX)), seeded = true;
        } else if (name == "--stop") {
            out.stop.emplace_back(value());
            if (out.stop.back().empty()) fail("--stop: expected a text");
        } else if (name == "--threads") {
            out.threads = int(parsed_whole(name, value(), 0, 256));
        } else if (name == "--folder") {
            out.folder = value();
        } else if (name == "--ignore-eos") {
            out.ignore_eos = true;
        } else if (name == "--no-echo") {
            out.echo = false;
        } else if (name == "--stats") {
            out.stats = true;
        } else if (name == "--encode") {
            out.encode = true;
        } else if (name == "-h" || name == "--help") {
            std::printf(USAGE, self.c_str());
            std::exit(0);
        } else {
            fail("%s: no such option; --help tells them", name.c_str());
        }
    }
    if (!seeded) s.seed = fresh_seed();
    if (!prompted) out.prompt = text_of(std::cin);
    return out;
}

}  // namespace program
