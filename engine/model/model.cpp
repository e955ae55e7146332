#include "engine/model/model.h"

#include "engine/error.h"
#include "engine/model/runner_pair.h"

namespace mb {

std::string nameOf(WeightPrecision precision) {
  return precision == WeightPrecision::BFloat16 ? "bf16" : "f32";
}

void checkChunk(const ModelConfig& config, TokenView tokens, std::size_t most) {
  if (tokens.size() > most) {
    throw RequestError("a chunk of " + std::to_string(tokens.size()) + " tokens; at most " +
                       std::to_string(most));
  }
  for (const Token token : tokens) {
    if (token < 0 || static_cast<std::size_t>(token) >= config.vocabSize) {
      throw RequestError("token " + std::to_string(token) + " is outside the vocabulary of " +
                         std::to_string(config.vocabSize));
    }
  }
}

TokenView Runner::advanceDrawing(const State& from, std::span<State> to, Token first,
                                 const Drawing&, const ChunkRequest& request) {
  advance(from, to.front(), {&first, 1}, request);
  return {};
}

std::size_t Runner::advanceJudging(const State& from, State& to, TokenView tokens, const Judgement&,
                                   const ChunkRequest& request) {
  advance(from, to, tokens, request);
  return tokens.size();
}

std::unique_ptr<RunnerPair> Runner::pairWith(Runner&, std::shared_ptr<const TokenTree>) {
  return nullptr;
}

}  // namespace mb
