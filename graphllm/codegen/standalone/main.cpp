// Continues a prompt with the model beside it: encode, feed, and then sample and step until something says stop.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cores.h"
#include "fail.h"
#include "mapped_file.h"
#include "model.h"
#include "options.h"
#include "sampler.h"
#include "session.h"
#include "stops.h"
#include "tokenizer.h"

namespace program {
namespace {

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool ends_text(int id) {
    return std::find(std::begin(model::STOP_IDS), std::end(model::STOP_IDS), id) != std::end(model::STOP_IDS);
}

// Prints an answer: text, or ids with spaces between them.
class Output {
  public:
    Output(const Tokenizer* tokenizer, const Options& options, const std::vector<int>& prompt) : stops_(options.stop) {
        if (tokenizer == nullptr) return;
        speaker_ = std::make_unique<Speaker>(*tokenizer);
        std::string said;
        for (const int id : prompt) said += speaker_->push(id);
        if (options.echo) write(said);
    }

    void push(int id) {
        write(speaker_ ? stops_.push(speaker_->push(id)) : (first_ ? "" : " ") + std::to_string(id));
        first_ = false;
    }

    // Whether one of the texts that end an answer has come.
    bool stopped() const { return stops_.found(); }

    void finish() {
        if (speaker_ && !stopped()) write(stops_.push(speaker_->finish()) + stops_.finish());
        write("\n");
    }

  private:
    static void write(const std::string& text) {
        if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
            fail("output: cannot be written");
    }

    std::unique_ptr<Speaker> speaker_;
    Stops stops_;
    bool first_ = true;
};

int run(int count, char** words) {
    const Options options = parsed_options(count, words, model::VOCAB);
    std::unique_ptr<Tokenizer> tokenizer;
    if (model::HAS_TOKENIZER && (!options.by_ids || options.encode))
        tokenizer = std::make_unique<Tokenizer>(options.folder + "/tokenizer.bin");
    std::vector<int> history = options.ids;
    if (!options.by_ids) {
        if (!tokenizer || !tokenizer->encodes())
            fail("prompt: this program cannot encode text for this model; give --ids (README.md says why)");
        history = tokenizer->encode(options.prompt);
    }
    if (!options.stop.empty() && !tokenizer) fail("--stop: texts need a tokenizer, which this program does not have here");
    if (options.encode) {
        for (size_t i = 0; i < history.size(); ++i) std::printf(i ? " %d" : "%d", history[i]);
        std::puts("");
        return 0;
    }
    if (history.empty()) fail("prompt: no tokens; expected at least one");
    if (history.size() > size_t(model::CONTEXT))
        fail("context: %zu tokens do not fit in %d positions; shorten the prompt", history.size(), model::CONTEXT);

    const MappedFile weights(options.folder + "/weights.bin");
    Session session(weights, options.threads > 0 ? options.threads : physical_cores());
    Sampler sampler(options.sampler, model::ALLOWED);
    Output output(tokenizer.get(), options, history);
    const size_t prompt = history.size();
    const double started = now();
    const float* logits = session.feed(history);
    const double first = now();
    double last = first;
    const char* finish = "length";
    for (long made = 0; options.max_tokens < 0 || made < options.max_tokens;) {
        const int id = sampler.next(logits, history);
        if (!options.ignore_eos && ends_text(id)) {
            finish = "stop";
            break;
        }
        history.push_back(id);
        output.push(id);
        if (output.stopped()) {
            finish = "stop";
            break;
        }
        if (++made == options.max_tokens) break;
        if (session.length() >= model::CONTEXT) {
            finish = "context";
            break;
        }
        logits = session.step(id);
        last = now();
    }
    output.finish();
    const size_t made = history.size() - prompt;
    if (std::string(finish) == "context")
        std::fprintf(stderr, "stopped: the context of %d positions is full\n", model::CONTEXT);
    if (options.stats)
        std::fprintf(stderr, "prompt %zu tokens, %.1f tok/s; answer %zu, %.1f tok/s; seed %llu; ended by %s\n", prompt,
                     double(prompt) / (first - started), made,
                     made > 1 && last > first ? double(made - 1) / (last - first) : 0.0,
                     (unsigned long long)options.sampler.seed, finish);
    return 0;
}

}  // namespace
}  // namespace program

int main(int count, char** words) { return program::run(count, words); }
