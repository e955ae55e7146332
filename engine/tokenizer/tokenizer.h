// Byte-level byte-pair encoding as tokenizer.json describes it, lossless for every byte string.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <stop_token>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/types.h"

namespace mb {

/// Splits text as GPT-2 and GPT-NeoX do before merging. Bytes that are not UTF-8 form pieces of
/// their own.
class PieceSplitter {
 public:
  PieceSplitter();
  ~PieceSplitter();
  PieceSplitter(PieceSplitter&&) noexcept;
  PieceSplitter& operator=(PieceSplitter&&) noexcept;

  /// Lengths of consecutive pieces; they add up to the text's length. Thread-safe.
  std::vector<std::size_t> split(ByteView text, std::stop_token stop = {}) const;

 private:
  struct Pattern;
  std::unique_ptr<Pattern> m_pattern;
};

/// Immutable once loaded, and thread-safe.
///
/// Two deliberate differences from the tokenizers library keep every byte: a Unicode normalizer
/// named in the file is not applied, and special tokens are never produced from text.
class Tokenizer {
 public:
  /// Reads a tokenizers-library file: model BPE, pre-tokenizer ByteLevel. Throws FileError, or
  /// FormatError when it is another kind or some byte has no token.
  explicit Tokenizer(const std::filesystem::path& file);

  std::size_t vocabularySize() const { return m_bytes.size(); }
  /// Bytes of a token; empty for special tokens and for ids the file does not define.
  ByteView bytes(Token token) const {
    const auto id = static_cast<std::size_t>(token);
    return id < m_bytes.size() ? ByteView(m_bytes[id]) : ByteView();
  }

  /// Tokens whose bytes, joined, are `text`.
  std::vector<Token> encode(ByteView text) const;
  Bytes decode(TokenView tokens) const;
  /// Likewise, but throws Stopped when `stop` is triggered.
  std::vector<Token> encode(ByteView text, std::stop_token stop) const;
  /// Lengths of the pieces of a text that are encoded each for itself.
  std::vector<std::size_t> pieces(ByteView text) const;
  /// Offset of the last piece of a text that may still change: what comes before it keeps its
  /// tokens however the text goes on.
  std::size_t lastPieceStart(ByteView text) const;

  /// All tokens that stand for bytes, ordered by them.
  std::span<const Token> sortedTokens() const { return m_sorted; }
  /// The token of exactly these bytes, or -1.
  Token find(ByteView bytes) const;

 private:
  struct Merge {
    std::uint32_t rank;
    Token result;
  };

  void readVocabulary(const nlohmann::json& model, const std::filesystem::path& file);
  void readMerges(const nlohmann::json& model, const std::filesystem::path& file);
  void readAddedTokens(const nlohmann::json& root, const std::filesystem::path& file);
  void checkMerges(const std::filesystem::path& file) const;
  void index(const std::filesystem::path& file);
  void encodePiece(ByteView piece, std::vector<Token>& out) const;

  std::vector<Bytes> m_bytes;
  std::unordered_map<std::uint64_t, Merge> m_merges;  ///< key: left << 32 | right
  std::vector<Token> m_byteTokens;                    ///< [256]
  std::vector<Token> m_sorted;
  bool m_splits = true;        ///< by pattern, before merging
  bool m_wholePieces = false;  ///< a piece that is a token needs no merges
  PieceSplitter m_splitter;
};

}  // namespace mb
