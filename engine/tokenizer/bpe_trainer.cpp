#include "engine/tokenizer/bpe_trainer.h"

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <queue>

#include "engine/error.h"
#include "engine/tokenizer/byte_level.h"

namespace mb {

namespace {

using Json = nlohmann::ordered_json;
using PairKey = std::uint64_t;
using Position = std::uint32_t;

constexpr std::size_t kBlock = 1 << 20;  // bytes split at a time
constexpr int kAlphabetEnd = 512;        // above the alphabet's last code point

/// Ordered as pairs are: by the left token, then by the right one.
PairKey pairKey(Token left, Token right) {
  return static_cast<PairKey>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

std::string utf8(int codePoint) {
  if (codePoint < 0x80) return std::string(1, static_cast<char>(codePoint));
  return {static_cast<char>(0xc0 | codePoint >> 6), static_cast<char>(0x80 | (codePoint & 0x3f))};
}

/// The characters that stand for bytes.
struct Alphabet {
  Alphabet() {
    for (int codePoint = 0; codePoint < kAlphabetEnd; ++codePoint) {
      const std::string character = utf8(codePoint);
      const std::optional<Bytes> byte = bytesOfAlphabet(character);
      if (!byte) continue;
      bytes.push_back(byte->front());
      characters[byte->front()] = character;
    }
  }
  std::string text(ByteView token) const {
    std::string result;
    for (const Byte byte : token) result += characters[byte];
    return result;
  }

  Bytes bytes;                                            ///< in the order of their characters
  std::array<std::string, kByteVocabulary> characters{};  ///< of each byte, as UTF-8
};

bool isVisible(Byte byte) {
  return byte > ' ' && byte < 0x7f;
}

/// Where a block that starts at `start` may end: a piece ends before every line end that follows a
/// visible character, whatever comes after.
std::size_t blockEnd(ByteView text, std::size_t start) {
  if (text.size() - start <= kBlock) return text.size();
  for (std::size_t end = start + kBlock; end < text.size(); ++end)
    if (text[end] == '\n' && isVisible(text[end - 1])) return end;
  return text.size();
}

/// All pieces laid out side by side, and what is known of the pairs in them.
///
/// Every byte has a slot. The first and the last slot of a token hold its id, so that both its
/// neighbours are found from the token's own length.
class Merging {
 public:
  explicit Merging(const BpeTraining& training);

  void addPiece(std::string_view piece, std::uint64_t count);
  void countPairs(std::stop_token stop);
  /// Merges the most frequent pair; false when none may be merged.
  bool step(std::stop_token stop);
  /// Leaves nothing but tokens and merges to be asked for.
  BpeVocabulary finish();

  std::size_t tokenCount() const { return m_vocabulary.tokens.size(); }

 private:
  static constexpr Token kBorder = -1;  // before, between and after pieces
  static constexpr Token kInside = -2;  // a slot where a token used to start

  struct Occurrences {
    std::uint64_t count = 0;           ///< weighted by the counts of the pieces
    std::vector<Position> candidates;  ///< where the pair starts, or started once
  };
  struct Candidate {
    std::uint64_t count;
    PairKey pair;
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  std::size_t length(Token token) const {
    return m_vocabulary.tokens[static_cast<std::size_t>(token)].size();
  }
  std::uint64_t weight(Position position) const { return m_counts[m_pieceOf[position]]; }
  bool mayMerge(Token left, Token right) const {
    return left != kBorder && right != kBorder && length(left) + length(right) <= m_longest;
  }
  void appear(Token left, Token right, Position position);
  void vanish(Token left, Token right, Position position);
  std::optional<PairKey> mostFrequent();
  Token addToken(Token left, Token right);
  void mergeAt(Position position, Token left, Token right, Token result);
  void queueGrown();

  std::size_t m_longest;
  std::uint64_t m_least;
  std::vector<Token> m_slots{kBorder};
  std::vector<std::uint32_t> m_pieceOf{0};  ///< index of each slot's piece
  std::vector<std::uint64_t> m_counts;      ///< of each piece
  std::unordered_map<PairKey, Occurrences> m_pairs;
  std::priority_queue<Candidate> m_queue;  ///< counts may be out of date; see mostFrequent
  std::vector<PairKey> m_grown;            ///< pairs that appeared since they were queued
  std::array<Token, kByteVocabulary> m_byteTokens{};
  BpeVocabulary m_vocabulary;
};

Merging::Merging(const BpeTraining& training)
    : m_longest(training.longestToken), m_least(std::max<std::uint64_t>(training.leastCount, 1)) {
  for (const Byte byte : Alphabet().bytes) {
    m_byteTokens[byte] = static_cast<Token>(m_vocabulary.tokens.size());
    m_vocabulary.tokens.push_back({byte});
  }
}

void Merging::addPiece(std::string_view piece, std::uint64_t count) {
  constexpr std::size_t kMost = std::numeric_limits<Position>::max();
  if (piece.size() >= kMost - m_slots.size()) {
    throw RequestError("The text to learn from: expected pieces of at most " +
                       std::to_string(kMost) + " bytes, each counted once, found more");
  }
  const auto index = static_cast<std::uint32_t>(m_counts.size());
  m_counts.push_back(count);
  for (const char byte : piece) m_slots.push_back(m_byteTokens[static_cast<Byte>(byte)]);
  m_slots.push_back(kBorder);
  m_pieceOf.resize(m_slots.size(), index);
}

void Merging::countPairs(std::stop_token stop) {
  for (Position i = 1; i + 1 < m_slots.size(); ++i) {
    if (stop.stop_requested()) throw Stopped();
    appear(m_slots[i], m_slots[i + 1], i);
  }
  queueGrown();
}

void Merging::appear(Token left, Token right, Position position) {
  if (!mayMerge(left, right)) return;
  const PairKey pair = pairKey(left, right);
  Occurrences& occurrences = m_pairs[pair];
  occurrences.count += weight(position);
  occurrences.candidates.push_back(position);
  // A run of the same pair is noted once; queueGrown drops what is left of repetitions.
  if (m_grown.empty() || m_grown.back() != pair) m_grown.push_back(pair);
}

void Merging::vanish(Token left, Token right, Position position) {
  if (mayMerge(left, right)) m_pairs.at(pairKey(left, right)).count -= weight(position);
}

void Merging::queueGrown() {
  std::ranges::sort(m_grown);
  const auto repeated = std::ranges::unique(m_grown);
  m_grown.erase(repeated.begin(), repeated.end());
  for (const PairKey pair : m_grown) {
    const std::uint64_t count = m_pairs.at(pair).count;
    if (count >= m_least) m_queue.push({count, pair});
  }
  m_grown.clear();
}

/// A pair's count is queued anew when it grew. One that shrank is found out here: it goes back with
/// what is left of it.
std::optional<PairKey> Merging::mostFrequent() {
  while (!m_queue.empty()) {
    const Candidate best = m_queue.top();
    const auto pair = m_pairs.find(best.pair);
    const std::uint64_t count = pair == m_pairs.end() ? 0 : pair->second.count;
    if (count == best.count) return best.pair;
    m_queue.pop();
    if (count < best.count && count >= m_least) m_queue.push({count, best.pair});
  }
  return std::nullopt;
}

/// The token that a pair becomes, always a new one: the bytes of a token are merged in the same
/// order wherever they stand, so no other pair has them, and no pair comes up again.
Token Merging::addToken(Token left, Token right) {
  auto& tokens = m_vocabulary.tokens;
  Bytes bytes = tokens[static_cast<std::size_t>(left)];
  const Bytes& end = tokens[static_cast<std::size_t>(right)];
  bytes.insert(bytes.end(), end.begin(), end.end());
  tokens.push_back(std::move(bytes));
  m_vocabulary.merges.emplace_back(left, right);
  return static_cast<Token>(tokens.size() - 1);
}

bool Merging::step(std::stop_token stop) {
  const std::optional<PairKey> best = mostFrequent();
  if (!best) return false;
  const auto left = static_cast<Token>(*best >> 32);
  const auto right = static_cast<Token>(*best & 0xffffffffu);
  const Token result = addToken(left, right);
  std::vector<Position> positions = std::move(m_pairs.at(*best).candidates);
  std::ranges::sort(positions);  // of overlapping occurrences the left one is merged
  for (const Position position : positions) {
    if (stop.stop_requested()) throw Stopped();
    // A token that was here and is not any more lies within a longer one, so another id is here.
    if (m_slots[position] == left && m_slots[position + length(left)] == right)
      mergeAt(position, left, right, result);
  }
  m_pairs.erase(*best);
  queueGrown();
  return true;
}

void Merging::mergeAt(Position position, Token left, Token right, Token result) {
  const auto middle = static_cast<Position>(position + length(left));
  const auto end = static_cast<Position>(middle + length(right));
  const Token before = m_slots[position - 1];
  const Token after = m_slots[end];
  vanish(left, right, position);
  m_slots[middle] = kInside;
  m_slots[position] = m_slots[end - 1] = result;
  if (before != kBorder) {
    const auto start = static_cast<Position>(position - length(before));
    vanish(before, left, start);
    appear(before, result, start);
  }
  if (after != kBorder) {
    vanish(right, after, middle);
    appear(result, after, position);
  }
}

BpeVocabulary Merging::finish() {
  for (std::size_t i = 0; i < m_slots.size();) {
    const Token token = m_slots[i];
    if (token != kBorder) m_vocabulary.textTokens += weight(static_cast<Position>(i));
    i += token == kBorder ? 1 : length(token);
  }
  return std::move(m_vocabulary);
}

/// The ids of all tokens by their text. Appended as they are: looking each one up among those
/// before it would take quadratic time.
Json vocabularyJson(const std::vector<std::string>& texts) {
  Json::object_t vocabulary;
  std::vector<Json::object_t::value_type>& entries = vocabulary;
  for (std::size_t id = 0; id < texts.size(); ++id) entries.emplace_back(texts[id], id);
  return vocabulary;
}

Json mergesJson(const BpeVocabulary& vocabulary, const std::vector<std::string>& texts) {
  const auto text = [&](Token token) { return texts[static_cast<std::size_t>(token)]; };
  Json merges = Json::array();
  for (const auto& [left, right] : vocabulary.merges)
    merges.push_back(Json::array({text(left), text(right)}));
  return merges;
}

Json modelJson(const BpeVocabulary& vocabulary) {
  const Alphabet alphabet;
  std::vector<std::string> texts;
  for (const Bytes& token : vocabulary.tokens) texts.push_back(alphabet.text(token));
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", vocabularyJson(texts)},
          {"merges", mergesJson(vocabulary, texts)}};
}

Json byteLevelJson(bool prefixSpace) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", prefixSpace},
          {"trim_offsets", true},
          {"use_regex", true}};
}

}  // namespace

std::string tokenizerJsonText(const BpeVocabulary& vocabulary) {
  const Json root{{"version", "1.0"},
                  {"truncation", nullptr},
                  {"padding", nullptr},
                  {"added_tokens", Json::array()},
                  {"normalizer", nullptr},
                  {"pre_tokenizer", byteLevelJson(false)},
                  {"post_processor", nullptr},
                  {"decoder", byteLevelJson(true)},  // as the bundled file has it; unused there
                  {"model", modelJson(vocabulary)}};
  return root.dump(2);
}

BpeTrainer::BpeTrainer(const BpeTraining& training) : m_training(training) {
  if (training.vocabularySize < BpeTraining::kSmallestVocabulary ||
      training.vocabularySize > BpeTraining::kLargestVocabulary) {
    throw RequestError("The size of the vocabulary: expected " +
                       std::to_string(BpeTraining::kSmallestVocabulary) + " to " +
                       std::to_string(BpeTraining::kLargestVocabulary) + " tokens, found " +
                       std::to_string(training.vocabularySize));
  }
}

void BpeTrainer::add(ByteView text, const Progress& progress, std::stop_token stop) {
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t end = blockEnd(text, start);
    std::string_view rest = toText(text.subspan(start, end - start));
    for (const std::size_t length : m_splitter.split(text.subspan(start, end - start), stop)) {
      const std::string_view piece = rest.substr(0, length);
      const auto known = m_pieces.find(piece);
      if (known != m_pieces.end()) {
        ++known->second;
      } else {
        m_pieces.emplace(piece, 1);
      }
      rest.remove_prefix(length);
    }
    m_textBytes += end - start;
    start = end;
    if (progress) progress(start, text.size());
  }
}

BpeVocabulary BpeTrainer::learn(const Progress& progress, std::stop_token stop) const {
  if (m_pieces.empty())
    throw RequestError("The text to learn from: expected at least one byte, found none");
  Merging merging(m_training);
  for (const auto& [piece, count] : m_pieces) merging.addPiece(piece, count);
  merging.countPairs(stop);
  while (merging.tokenCount() < m_training.vocabularySize && merging.step(stop))
    if (progress) progress(merging.tokenCount(), m_training.vocabularySize);
  BpeVocabulary vocabulary = merging.finish();
  vocabulary.textBytes = m_textBytes;
  return vocabulary;
}

}  // namespace mb
