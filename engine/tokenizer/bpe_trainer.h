// Learns the vocabulary of a byte-level byte-pair encoding from text (Sennrich, Haddow and Birch
// 2016, section 3.2, over the bytes of GPT-2's alphabet), as tokenizer.json holds it.
#pragma once

#include <cstdint>
#include <functional>
#include <stop_token>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/tokenizer/tokenizer.h"
#include "engine/types.h"

namespace mb {

struct BpeTraining {
  static constexpr std::size_t kSmallestVocabulary = kByteVocabulary + 1;
  static constexpr std::size_t kLargestVocabulary = 65536;

  std::size_t vocabularySize;     ///< tokens wanted, the 256 of single bytes among them
  std::size_t leastCount = 2;     ///< a pair that occurs less often is not merged
  std::size_t longestToken = 16;  ///< bytes
};

/// What was learned. Deterministic: the same pieces in any order give the same vocabulary.
struct BpeVocabulary {
  /// Bytes of each token: the alphabet's 256 in its order, then one for each merge.
  std::vector<Bytes> tokens;
  /// Left and right part, the first learned first. merges[i] makes tokens[256 + i].
  std::vector<std::pair<Token, Token>> merges;
  std::uint64_t textBytes = 0;   ///< of the text learned from
  std::uint64_t textTokens = 0;  ///< that it takes
};

/// The content of a tokenizer.json that Tokenizer and the tokenizers library read.
std::string tokenizerJsonText(const BpeVocabulary& vocabulary);

/// Counts the pieces of texts, then merges the most frequent pair of neighbouring tokens again and
/// again. Not thread-safe.
class BpeTrainer {
 public:
  /// Called now and then with what is done and what there is to do.
  using Progress = std::function<void(std::uint64_t done, std::uint64_t total)>;

  /// Throws RequestError when the size of the vocabulary is out of range.
  explicit BpeTrainer(const BpeTraining& training);

  /// Counts the pieces of a text, which is not kept; progress in bytes. No piece reaches from one
  /// text into the next. After Stopped, a part of the text has been counted.
  void add(ByteView text, const Progress& progress = {}, std::stop_token stop = {});

  /// Of pairs that occur equally often the one of smaller ids is merged first, left before right.
  /// A piece's overlapping occurrences all count ("aaa" holds "aa" twice), and merge from the left.
  /// Ends with fewer tokens than wanted when no pair that may be merged occurs often enough.
  /// Progress in tokens. Throws RequestError when there was no text, and Stopped.
  BpeVocabulary learn(const Progress& progress = {}, std::stop_token stop = {}) const;

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>()(text);
    }
  };

  BpeTraining m_training;
  PieceSplitter m_splitter;
  std::unordered_map<std::string, std::uint64_t, Hash, std::equal_to<>> m_pieces;  ///< counts
  std::uint64_t m_textBytes = 0;
};

}  // namespace mb
