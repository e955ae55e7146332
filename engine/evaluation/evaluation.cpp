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

void addAt(std::vector<PositionBucket>& buckets, std::uint64_t position, double bits,
           std::uint64_t bytes) {
  std::size_t index = 0;
  for (std::uint64_t end = Evaluation::kFirstBucket; position >= end; end *= 2) ++index;
  while (buckets.size() <= index) {
    const std::uint64_t begin = buckets.empty() ? 0 : buckets.back().end;
    buckets.push_back({begin, std::max(Evaluation::kFirstBucket, 2 * begin), {}});
  }
  buckets[index].sum.add(bits, bytes);
}

/// Reads contexts one after the other and adds up their surprisals.
class Scorer {
 public:
  Scorer(const Model& model, const Tokenizer* tokenizer, std::stop_token stop)
      : m_tokenizer(model.config().isByteLevel() ? nullptr : tokenizer),
        m_runner(model.newRunner()),
        m_cursor(model, *m_runner),
        m_stop(std::move(stop)) {}

  std::uint64_t lengthOf(Token token) const {
    return m_tokenizer ? m_tokenizer->bytes(token).size() : 1;
  }
  /// Tokens from the first on until they are as long as a context.
  std::size_t contextOf(TokenView tokens, std::uint64_t context) const {
    std::uint64_t bytes = 0;
    std::size_t count = 0;
    while (count < tokens.size() && bytes < context) bytes += lengthOf(tokens[count++]);
    return count;
  }
  template <class Report>
  void read(TokenView tokens, const Report& report) {
    m_cursor.restart();
    std::uint64_t position = 0;
    for (std::size_t first = 0; first < tokens.size();) {
      const std::size_t size = std::min(m_runner->maxRead(), tokens.size() - first);
      m_cursor.look(tokens.subspan(first, size), {LogitsWanted::All, {}, m_stop});
      for (std::size_t i = 0; i < size; ++i) {
        const Token token = tokens[first + i];
        if (first + i > 0) score(surprisalBits(m_cursor.expected(i), token), position, token);
        position += lengthOf(token);
      }
      m_cursor.accept(size);
      first += size;
      report(m_sum.bytes());
    }
  }
  const SurprisalSum& sum() const { return m_sum; }
  std::vector<PositionBucket>& positions() { return m_positions; }

 private:
  void score(double bits, std::uint64_t position, Token token) {
    m_sum.add(bits, lengthOf(token));
    addAt(m_positions, position, bits, lengthOf(token));
  }

  const Tokenizer* m_tokenizer;
  std::unique_ptr<Runner> m_runner;
  Cursor m_cursor;
  std::stop_token m_stop;
  SurprisalSum m_sum;
  std::vector<PositionBucket> m_positions;
};

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
                    const EvaluationProgress& progress, std::stop_token stop,
                    std::uint64_t context) {
  const std::vector<Token> tokens = tokensOf(model, tokenizer, text, stop);
  const auto start = std::chrono::steady_clock::now();
  Scorer scorer(model, tokenizer, stop);
  for (std::size_t first = 0; first < tokens.size();) {
    const TokenView rest = TokenView(tokens).subspan(first);
    const std::size_t size = context ? scorer.contextOf(rest, context) : rest.size();
    scorer.read(rest.first(size), [&](std::uint64_t done) {
      if (progress) progress(done, text.size());
    });
    first += size;
  }
  const SurprisalSum& sum = scorer.sum();
  Evaluation result;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.bytes = sum.bytes();
  result.words = countWords(text);
  result.bitsPerByte = sum.bitsPerByte();
  result.standardError = sum.standardError();
  result.wordPerplexity = sum.wordPerplexity(result.words);
  result.positions = std::move(scorer.positions());
  return result;
}

}  // namespace mb
