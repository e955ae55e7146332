// How well a model predicts a text: bits per byte and word-level perplexity (MODEL.md section 6).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <vector>

#include "engine/model/model.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/types.h"

namespace mb {

/// Whether a word begins with `byte`, which follows `before` or starts the text.
bool startsWord(std::optional<Byte> before, Byte byte);

/// Words as `wc -w` counts them: runs of bytes that are not ASCII white space.
std::uint64_t countWords(ByteView text);

/// Collects surprisals of a text's bytes in order.
class SurprisalSum {
 public:
  /// Bytes of one block of the standard error.
  static constexpr std::uint64_t kBlockBytes = 1024;

  /// Adds a token that stands for `bytes` bytes. A token that crosses the border of two blocks
  /// counts in the one it starts in.
  void add(double bits, std::uint64_t bytes);

  std::uint64_t bytes() const { return m_bytes; }
  double bits() const { return m_bits; }
  double bitsPerByte() const { return m_bytes ? m_bits / static_cast<double>(m_bytes) : 0; }
  /// Standard error of bitsPerByte over whole blocks; 0 with fewer than two.
  double standardError() const;
  /// exp(total natural NLL / words).
  double wordPerplexity(std::uint64_t words) const;

 private:
  double m_bits = 0;
  std::uint64_t m_bytes = 0;
  double m_blockBits = 0;
  std::uint64_t m_blockBytes = 0;
  std::vector<double> m_blocks;  ///< bits per byte of finished blocks
};

/// Bits per byte of what lies so far behind the beginning of a context. A token counts where it
/// starts.
struct PositionBucket {
  std::uint64_t begin = 0;  ///< bytes behind the beginning of the context
  std::uint64_t end = 0;
  SurprisalSum sum;
};

struct Evaluation {
  std::uint64_t bytes = 0;  ///< bytes scored: all but those of each context's first token
  std::uint64_t words = 0;  ///< words of the whole range
  double bitsPerByte = 0;
  double standardError = 0;
  double wordPerplexity = 0;
  double seconds = 0;
  /// Up to kFirstBucket bytes, then up to twice as many each time, to the longest context.
  std::vector<PositionBucket> positions;

  static constexpr std::uint64_t kFirstBucket = 64;

  double bytesPerSecond() const { return seconds > 0 ? static_cast<double>(bytes) / seconds : 0; }
};

/// Called now and then with bytes done and bytes in all.
using EvaluationProgress = std::function<void(std::uint64_t done, std::uint64_t total)>;

/// Scores `text` with the state carried through, or emptied every `context` bytes, at the next
/// token; the first token behind an empty state is not scored. A subword model needs its tokenizer,
/// a byte model none (null). Throws RequestError when it is missing or does not fit, and Stopped.
Evaluation evaluate(const Model& model, const Tokenizer* tokenizer, ByteView text,
                    const EvaluationProgress& progress, std::stop_token stop,
                    std::uint64_t context = 0);

}  // namespace mb
