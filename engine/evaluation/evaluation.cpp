#include "engine/evaluation/evaluation.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numbers>

#include "engine/decoding/cursor.h"
#include "engine/error.h"

namespace mb {

namespace {

bool isSpace(Byte byte) {
  return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

/// -log2 of the probability of `token`.
double surprisalBits(std::span<const float> logits, Token token) {
  const float top = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  const double logProbability = logits[static_cast<std::size_t>(token)] - top - std::log(sum);
  return -logProbability / std::numbers::ln2;
}

std::vector<Token> tokensOf(const Model& model, const Tokenizer* tokenizer, ByteView text,
                            std::stop_token stop) {
  if (model.config().isByteLevel()) return {text.begin(), text.end()};
  if (!tokenizer) {
    throw RequestError(model.info().name + " is a subword model and has no tokenizer.json");
  }
  if (tokenizer->vocabularySize() > model.config().vocabSize) {
    throw RequestError("tokenizer.json of " + model.info().name + " has " +
                       std::to_string(tokenizer->vocabularySize()) + " tokens, the model only " +
                       std::to_string(model.config().vocabSize));
  }
  return tokenizer->encode(text, std::move(stop));
}

}  // namespace

bool startsWord(std::optional<Byte> before, Byte byte) {
  return !isSpace(byte) && (!before || isSpace(*before));
}

std::uint64_t countWords(ByteView text) {
  std::uint64_t words = 0;
  for (std::size_t i = 0; i < text.size(); ++i)
    if (startsWord(i > 0 ? std::optional(text[i - 1]) : std::nullopt, text[i])) ++words;
  return words;
}

void SurprisalSum::add(double bits, std::uint64_t bytes) {
  m_bits += bits;
  m_bytes += bytes;
  m_blockBits += bits;
  m_blockBytes += bytes;
  if (m_blockBytes < kBlockBytes) return;
  m_blocks.push_back(m_blockBits / static_cast<double>(m_blockBytes));
  m_blockBits = 0;
  m_blockBytes = 0;
}

double SurprisalSum::standardError() const {
  const double count = static_cast<double>(m_blocks.size());
  if (m_blocks.size() < 2) return 0;
  double mean = 0;
  for (const double block : m_blocks) mean += block / count;
  double squares = 0;
  for (const double block : m_blocks) squares += (block - mean) * (block - mean);
  return std::sqrt(squares / (count - 1) / count);
}

double SurprisalSum::wordPerplexity(std::uint64_t words) const {
  if (words == 0) return std::numeric_limits<double>::quiet_NaN();
  return std::exp(m_bits * std::numbers::ln2 / static_cast<double>(words));
}

Evaluation evaluate(const Model& model, const Tokenizer* tokenizer, ByteView text,
                    const EvaluationProgress& progress, std::stop_token stop) {
  const std::vector<Token> tokens = tokensOf(model, tokenizer, text, stop);
  const auto lengthOf = [&](Token token) -> std::uint64_t {
    return model.config().isByteLevel() ? 1 : tokenizer->bytes(token).size();
  };
  const auto start = std::chrono::steady_clock::now();
  const std::unique_ptr<Runner> runner = model.newRunner();
  Cursor cursor(model, *runner);
  SurprisalSum sum;
  for (std::size_t first = 0; first < tokens.size();) {
    const std::size_t size = std::min(runner->maxRead(), tokens.size() - first);
    cursor.look(TokenView(tokens).subspan(first, size), {LogitsWanted::All, {}, stop});
    for (std::size_t i = first == 0 ? 1 : 0; i < size; ++i)
      sum.add(surprisalBits(cursor.expected(i), tokens[first + i]), lengthOf(tokens[first + i]));
    cursor.accept(size);
    first += size;
    if (progress) progress(sum.bytes(), text.size());
  }
  Evaluation result;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.bytes = sum.bytes();
  result.words = countWords(text);
  result.bitsPerByte = sum.bitsPerByte();
  result.standardError = sum.standardError();
  result.wordPerplexity = sum.wordPerplexity(result.words);
  return result;
}

}  // namespace mb
