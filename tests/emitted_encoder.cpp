// Encodes texts with an emitted tokenizer: a text a line in hexadecimal, its ids a line; then the same ids as text.
#include <cstdio>
#include <iostream>
#include <string>

#include "tokenizer.h"

int main(int, char** words) {
    const program::Tokenizer tokenizer(words[1]);
    for (std::string line; std::getline(std::cin, line);) {
        std::string text;
        for (size_t i = 0; i + 1 < line.size(); i += 2) text += char(std::stoi(line.substr(i, 2), nullptr, 16));
        const std::vector<int> ids = tokenizer.encode(text);
        for (const int id : ids) std::printf("%d ", id);
        std::puts("");
        program::Speaker speaker(tokenizer);
        std::string said;
        for (const int id : ids) said += speaker.push(id);
        said += speaker.finish();
        for (const char c : said) std::printf("%02x", static_cast<unsigned char>(c));
        std::puts("");
    }
}
