// The verifier's place in a text: what it has read, what it expects next, and passes over guesses.
#pragma once

#include <functional>
#include <span>
#include <stop_token>
#include <vector>

#include "engine/model/model.h"
#include "engine/model/runner_pair.h"
#include "engine/types.h"

namespace mb {

/// A state together with the distribution over the next token.
struct Snapshot {
  State state;
  std::vector<float> logits;  ///< empty before the first token
};

/// Reads tokens into a state. At most one token of the text is "pending": written, but not yet
/// read, because reading it together with the next draft costs no extra pass.
class Cursor {
 public:
  /// The runner and the model must outlive the cursor.
  Cursor(const Model& model, Runner& runner);

  /// Called whenever tokens have been read for good: the text offset of the first of them, how
  /// many, and their taps (empty when the request wanted none). snapshot() may be called from it.
  using OnRead = std::function<void(std::uint64_t first, std::size_t count, const TapBlock& taps)>;
  void onRead(OnRead callback) { m_onRead = std::move(callback); }

  /// Starts at the beginning of a text, or at a snapshot.
  void restart();
  void restart(const Snapshot& snapshot);

  /// Tokens read; the pending one not counted.
  std::uint64_t position() const { return m_state.position(); }
  const State& state() const { return m_state; }
  bool hasPending() const { return !m_pending.empty(); }
  /// Most tokens that look() takes.
  std::size_t maxGuess() const { return m_runner.maxChunk() - 1; }
  /// Those behind which one more makes it much dearer.
  std::size_t cheapGuess() const { return m_runner.cheapChunk() - 1; }

  /// One pass over the pending token and `guess`, which stays provisional until accept(). Throws
  /// Stopped, after which the cursor is as before.
  void look(TokenView guess, const ChunkRequest& request);
  /// Likewise; the runner judges the guess by itself, so that accept() of what it let stand finds
  /// the state there.
  void look(TokenView guess, const Judgement& judgement, const ChunkRequest& request);
  /// One pass over the pending token and those that the runner draws behind it by itself, which are
  /// then the guess; without a pending token nothing. Returns them, valid until the next pass.
  TokenView lookAhead(const Drawing& drawing, const ChunkRequest& request);
  /// One pass over the pending token, which is needed, and a draft of at most `most` bytes that the
  /// pair's drafter makes meanwhile; the draft is then the guess. The cursor's runner is that which
  /// verifies.
  RunnerPair::Outcome lookTogether(RunnerPair& pair, const DraftPass& draft, std::size_t most,
                                   const Judgement& judgement, const ChunkRequest& request);
  /// What the last look() was over, valid until the next.
  TokenView guess() const { return TokenView(m_chunk).subspan(m_pending.size()); }
  /// Distribution over the token at guess index i: after the text and i guessed tokens. Valid until
  /// the next look(). Empty at the beginning of a text.
  std::span<const float> expected(std::size_t i) const;
  /// Takes the first `count` guessed tokens as text; the state ends up behind them.
  void accept(std::size_t count);
  /// Adds a token that becomes the pending one. Needs hasPending() == false.
  void push(Token token);

  /// Reads all of `tokens`, at most the runner's longest read, after the pending one was read.
  void read(TokenView tokens, const ChunkRequest& request);
  /// Reads the pending token, so that expected(0) is known and a snapshot can be taken.
  void settle(const ChunkRequest& request);
  /// Needs hasPending() == false.
  Snapshot snapshot() const;

 private:
  void startChunk(TokenView guess);
  void keepLogits(std::span<const float> logits);

  Runner& m_runner;
  State m_state;
  State m_next;                  ///< where the last look() left the runner
  std::size_t m_kept = 0;        ///< tokens of m_chunk that m_next has read
  std::vector<Token> m_pending;  ///< none or one
  std::vector<Token> m_chunk;    ///< pending and guess of the last look()
  std::vector<float> m_logits;   ///< after m_state, when nothing is pending
  OnRead m_onRead;
};

}  // namespace mb
