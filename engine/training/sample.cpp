#include "engine/training/sample.h"

#include <algorithm>

#include "engine/error.h"

namespace mb {

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
