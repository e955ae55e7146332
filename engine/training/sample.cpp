#include "engine/training/sample.h"

#include <algorithm>

#include "engine/error.h"

namespace mb {

namespace {

constexpr std::size_t kLongestPrompt = 48;

}  // namespace

Bytes promptFrom(ByteView text) {
  std::string_view words = toText(text);
  const std::size_t line = words.find('\n');
  const std::size_t start = line != std::string_view::npos ? line : words.find(' ');
  if (start != std::string_view::npos && start + kLongestPrompt < words.size())
    words.remove_prefix(start + 1);
  words = words.substr(0, kLongestPrompt);
  const std::size_t end = words.find_last_of(" \n");
  if (end != std::string_view::npos && end > 0) words = words.substr(0, end);
  return words.empty() ? Bytes{'\n'} : toBytes(words);
}

Bytes writeSample(const Model& model, const Tokenizer* tokenizer, ByteView prompt,
                  std::size_t count, const SamplerSettings& settings, std::stop_token stop) {
  if (prompt.empty()) throw RequestError("a sample needs a prompt: expected one byte, found none");
  std::vector<Token> tokens = tokenizer ? tokenizer->encode(prompt, stop)
                                        : std::vector<Token>(prompt.begin(), prompt.end());
  const std::unique_ptr<Runner> runner = model.newRunner();
  State state = model.newState();
  Sampler sampler(settings);
  ChunkRequest request;
  request.logits = LogitsWanted::Last;
  request.stop = std::move(stop);
  std::size_t read = 0;
  const std::size_t end = tokens.size() + count;
  for (;;) {
    const std::size_t most = std::min(runner->maxChunk(), tokens.size() - read);
    runner->advance(state, state, TokenView(tokens).subspan(read, most), request);
    read += most;
    if (read < tokens.size()) continue;
    if (read == end) break;
    tokens.push_back(sampler.draw(runner->logits(0), read, TokenView(tokens)));
  }
  return tokenizer ? tokenizer->decode(tokens) : Bytes(tokens.begin(), tokens.end());
}

}  // namespace mb
