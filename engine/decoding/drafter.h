// The interface of everything that can guess the next bytes cheaply.
#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "engine/decoding/records.h"
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
  /// Draft a token only while the drafter gives the draft up to it at least this probability. An
  /// unsure drafter then drafts nothing and the verifier writes a byte alone. 0 always drafts.
  double leastConfidence = 0;
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

  /// The text grew by `bytes`. What of the last proposal they confirm is kept, the rest rolled
  /// back.
  virtual void append(ByteView bytes) = 0;
};

}  // namespace mb
