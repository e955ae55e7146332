// The interface of everything that can guess the next bytes cheaply.
#pragma once

#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/decoding/records.h"
#include "engine/decoding/sampler.h"
#include "engine/model/runner_pair.h"
#include "engine/types.h"

namespace mb {

/// Guessed bytes and the tokens they came in.
struct Draft {
  Bytes bytes;
  std::vector<DraftToken> tokens;
};

/// How a drafter resumes after a correction.
struct DraftSettings {
  /// After a correction in mid-word the drafter goes back to its last token boundary, and its next
  /// token is the most probable one that agrees with the bytes since: its bytes start with them, or
  /// are their start. Without healing those bytes are read as tokens of their own.
  bool healing = true;
  /// Draft a byte only while the drafter expects the draft up to it to be kept with at least this
  /// probability: about what it costs to test a byte, of what it costs to write one. An unsure
  /// drafter drafts nothing, and the verifier writes a byte alone. 0 always drafts whole tokens.
  double leastConfidence = 0;
  /// How the verifier draws. When it is greedy, drafts are the most probable tokens. Otherwise they
  /// are drawn, byte by byte with the verifier's random numbers, so that it mostly draws the same.
  SamplerSettings sampler = {};
};

/// Follows a text and proposes how it goes on. Use from one thread.
class Drafter {
 public:
  virtual ~Drafter() = default;
  virtual std::string name() const = 0;
  virtual void configure(const DraftSettings& settings) = 0;

  /// Follows this text from now on. Cheap when it only extends the text followed so far. Throws
  /// Stopped; the drafter then follows nothing until the next reset().
  virtual void reset(ByteView text, std::stop_token stop) = 0;

  /// At most `tokens` tokens and `maxBytes` bytes; may be empty. Throws Stopped.
  virtual Draft propose(std::size_t tokens, std::size_t maxBytes, std::stop_token stop) = 0;

  /// The drafter's runner together with one that verifies; null when there is no such pair.
  virtual std::unique_ptr<RunnerPair> pairWith(Runner&) { return nullptr; }

  /// Runs a round of which this is the drafter's part, and returns what came of it.
  using RunPass = std::function<RunnerPair::Outcome(const DraftPass&)>;
  /// For a drafter of a pair: has `run` compute what propose() would compute with the same
  /// arguments, so that it has to wait for nothing. Returns false, without a run, when propose()
  /// has nothing to wait for, or has to do it by itself.
  virtual bool prepare(std::size_t /*tokens*/, std::size_t /*maxBytes*/, const RunPass&) {
    return false;
  }

  /// The text grew by `bytes`. What of the last proposal they confirm is kept, the rest rolled
  /// back.
  virtual void append(ByteView bytes) = 0;
};

}  // namespace mb
