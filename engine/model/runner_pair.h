// A drafting and a verifying runner that do a round together: nobody waits between the two.
#pragma once

#include "engine/model/model.h"

namespace mb {

/// What the drafting runner does: it reads tokens, and draws others behind them, each but the last
/// read before the next is drawn.
struct DraftPass {
  /// Most bytes that a token can be asked to agree with.
  static constexpr std::size_t kMostAgreeing = 32;
  /// Keys of a drawing. No chunk is as long: bytes behind so many drawn ones may share the last.
  static constexpr std::size_t kMostKeys = 32;

  const State* from = nullptr;
  /// As many as tokens are drawn at the most: the state behind those known, and behind each one
  /// drawn but the last. The first may be `from`.
  std::span<State> to;
  TokenView known;  ///< at least one; with the draws at most maxChunk() + 1
  /// The first token drawn is of those whose bytes start with these, or are their start. What the
  /// text has of its bytes is not drafted. When it ends before the text does, the next agrees with
  /// the rest if weighsBytes(); otherwise nothing drawn is drafted.
  ByteView agree;
  ByteView head;           ///< the draft so far, to which the bytes of the tokens drawn are added
  std::size_t tokens = 0;  ///< most tokens that add to it; a token without bytes ends the draft
  /// How the tokens are drawn. When that is greedy they are the most probable ones; otherwise it is
  /// how their bytes are drawn (see TokenChooser), with a key for each byte behind `head`,
  /// kMostKeys in all.
  Drawing drawing;
  /// The draft ends before the first byte that has less confidence (see TokenChooser), that of
  /// `head` included; 0 for whole tokens.
  double leastConfidence = 0;
  double confidence = 1;  ///< of `head`

  /// Whether what the tokens say of single bytes matters.
  bool weighsBytes() const { return drawing.temperature > 0 || leastConfidence > 0; }
};

/// What the verifying runner does: advanceJudging() over a byte and the draft, and all logits.
struct VerifyPass {
  const State& from;
  State& to;  ///< not `from`
  Token first = 0;
  std::size_t most = 0;  ///< bytes of the draft, at least one, fewer than maxChunk()
  const Judgement& judgement;
};

/// From Runner::pairWith(). Both runners must outlive it, and their thread uses it.
class RunnerPair {
 public:
  struct Outcome {
    /// At least one; where bytes are weighed, none behind the draft's last. The drafter has
    /// the states and logits before the i-th, the latter as those after token known.size() - 1 + i.
    TokenView drawn;
    TokenView chunk;        ///< what the verifier read, whose logits it has
    std::size_t kept = 0;   ///< tokens of the chunk that it let stand
    double confidence = 1;  ///< of all bytes that the tokens drawn bring, where leastConfidence > 0
    double draftSeconds = 0;  ///< of the time that the round took
  };
  virtual ~RunnerPair() = default;

  /// Whether it takes passes that weigh bytes.
  virtual bool weighsBytes() const = 0;

  /// What it returns is valid until the next pass of either runner. Taps are the verifier's. Throws
  /// Stopped when that was asked for before, and has done nothing then.
  virtual Outcome run(const DraftPass& draft, const VerifyPass& verify,
                      const ChunkRequest& request) = 0;
};

}  // namespace mb
