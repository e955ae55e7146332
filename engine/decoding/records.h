// The record stream of a run: one record a byte, one a speculative round. Panels, exports and the
// command line read these; nothing is computed twice for display.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "engine/types.h"

namespace mb {

/// Where a byte of the text came from.
enum class Origin : std::uint8_t {
  Prompt,     ///< typed or pasted
  Plain,      ///< written without speculation
  Accepted,   ///< drafted and accepted
  Corrected,  ///< the verifier's own byte after a rejection
  Bonus,      ///< the verifier's own byte after a draft that was accepted whole
  Chosen      ///< picked by hand among the candidates
};

/// "prompt", "plain", "accepted", "corrected", "bonus", "chosen".
std::string_view nameOf(Origin origin);

struct Candidate {
  Byte byte = 0;
  float probability = 0;
};
inline constexpr std::size_t kCandidates = 10;

/// What the model thought of one position. Probabilities are the model's own, before temperature
/// and restrictions.
struct Prediction {
  std::array<Candidate, kCandidates> candidates{};  ///< most probable first
};

struct ByteRecord {
  Byte byte = 0;
  Origin origin = Origin::Prompt;
  bool scored = false;      ///< false for a first byte, which nothing predicts
  Byte rank = 0;            ///< 0 when the byte was the most probable one
  std::int32_t round = -1;  ///< index of its RoundRecord, or -1
  float surprisal = 0;      ///< -log2 p(byte), bits
  Prediction prediction;
};

/// Most probable bytes of a distribution. `logits` has 256 values.
Prediction predict(std::span<const float> logits);

/// Fills byte, surprisal, rank and prediction from the logits at the byte's position.
ByteRecord scoreByte(std::span<const float> logits, Byte byte, Origin origin);

/// A drafted token and the bytes it added to the draft. A healed token starts before the draft,
/// with bytes the text already has.
struct DraftToken {
  Token id = 0;
  std::uint16_t begin = 0;  ///< offset of its first new byte in the draft
  std::uint16_t end = 0;
};

/// Wall time in seconds.
struct RoundTimes {
  double draft = 0;
  double verify = 0;
  double correct = 0;
  double rollback = 0;
  double total = 0;  ///< includes scoring and bookkeeping
};

/// One round of speculation. Always drafted = accepted + rejected + ignored and
/// tested = accepted + rejected.
struct RoundRecord {
  std::int32_t index = 0;
  std::uint64_t position = 0;  ///< text offset of the first drafted byte
  Bytes draft;
  std::vector<DraftToken> tokens;
  std::uint32_t accepted = 0;
  std::uint32_t rejected = 0;        ///< 0 or 1: the byte at the bifurcation
  std::uint32_t ignored = 0;         ///< bytes after the bifurcation, never tested
  std::uint32_t corrected = 0;       ///< bytes the verifier wrote itself after the rejection
  std::uint32_t bonus = 0;           ///< 0 or 1
  std::uint32_t acceptedTokens = 0;  ///< tokens all of whose new bytes were accepted
  std::uint32_t testedTokens = 0;    ///< tokens with at least one tested byte
  RoundTimes times;

  std::uint32_t drafted() const { return static_cast<std::uint32_t>(draft.size()); }
  std::uint32_t tested() const { return accepted + rejected; }
  std::uint32_t emitted() const { return accepted + corrected + bonus; }
};

/// Sums over the rounds of a run.
struct SpeculationTotals {
  std::uint64_t rounds = 0;
  std::uint64_t drafted = 0;
  std::uint64_t tested = 0;
  std::uint64_t accepted = 0;
  std::uint64_t rejected = 0;
  std::uint64_t ignored = 0;
  std::uint64_t corrected = 0;
  std::uint64_t bonus = 0;
  std::uint64_t draftedTokens = 0;
  std::uint64_t testedTokens = 0;
  std::uint64_t acceptedTokens = 0;
  RoundTimes times;
  /// Per position in the draft, from 0: how often it was tested and accepted.
  std::vector<std::uint64_t> testedAt;
  std::vector<std::uint64_t> acceptedAt;

  void add(const RoundRecord& round);

  std::uint64_t emitted() const { return accepted + corrected + bonus; }
  /// accepted / tested, 0 before the first test.
  double acceptance() const { return ratio(accepted, tested); }
  double tokenAcceptance() const { return ratio(acceptedTokens, testedTokens); }
  double meanAcceptedLength() const { return ratio(accepted, rounds); }
  double bytesPerRound() const { return ratio(emitted(), rounds); }

 private:
  static double ratio(std::uint64_t part, std::uint64_t whole) {
    return whole ? static_cast<double>(part) / static_cast<double>(whole) : 0;
  }
};

}  // namespace mb
