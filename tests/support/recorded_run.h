// What a run reported, collected and checked.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/decoding/generator.h"
#include "engine/session/session.h"

namespace mb::test {

/// Records of a text as a session reports them, kept in step with its edits by cut().
class Recorder : public SessionListener {
 public:
  void bytesScored(std::size_t first, std::span<const ByteRecord> fresh) override;
  void roundFinished(const RoundRecord& round) override { rounds.push_back(round); }
  void tapsRead(std::size_t first, std::size_t count, const TapBlock& taps) override;

  /// Forgets the records from `size` on: the text has changed there.
  void cut(std::size_t size) { records.resize(std::min(size, records.size())); }
  /// The bytes of records[first ..).
  Bytes bytes(std::size_t first = 0) const;

  std::vector<ByteRecord> records;  ///< by text offset
  std::vector<RoundRecord> rounds;
  /// By text offset: all of a byte's taps, layers first, then bins.
  std::map<std::size_t, std::vector<float>> taps;
  bool gaps = false;  ///< a report began behind the end of what was known
};

/// What is wrong with a run that began at `start`, by the promises of records.h: bytes and rounds
/// account for each other and every count adds up. Empty when nothing is. `whole` is false for a
/// run that was stopped.
std::string problemOf(const Recorder& run, std::size_t start, bool whole = true);

/// Whether two records say the same of a byte, but for its origin and round.
bool sameScore(const ByteRecord& a, const ByteRecord& b);

}  // namespace mb::test
