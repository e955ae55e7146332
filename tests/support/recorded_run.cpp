#include "tests/support/recorded_run.h"

#include <algorithm>

namespace mb::test {

namespace {

std::string at(const RoundRecord& round, const char* problem) {
  return "round " + std::to_string(round.index) + ": " + problem;
}

/// The counts of one round, from its own draft and tokens.
std::string problemOfCounts(const RoundRecord& round, bool whole) {
  if (round.draft.empty()) return at(round, "no draft");
  if (round.drafted() != round.accepted + round.rejected + round.ignored)
    return at(round, "drafted is not accepted + rejected + ignored");
  if (round.tested() != round.accepted + round.rejected)
    return at(round, "tested is not accepted + rejected");
  if (round.rejected > 1 || round.bonus > 1) return at(round, "more than one rejection or bonus");
  if (round.rejected == 0 && (round.ignored || round.corrected))
    return at(round, "ignored or corrected bytes without a rejection");
  if (round.rejected == 1 && (round.bonus || (whole && round.corrected == 0)))
    return at(round, "a rejection with a bonus, or without a correction");
  std::uint32_t tested = 0;
  std::uint32_t accepted = 0;
  std::size_t end = 0;
  for (const DraftToken& token : round.tokens) {
    if (token.begin != end || token.end <= token.begin) return at(round, "tokens with gaps");
    end = token.end;
    if (token.begin < round.tested()) ++tested;
    if (token.end <= round.accepted) ++accepted;
  }
  if (end != round.draft.size()) return at(round, "tokens that do not cover the draft");
  if (tested != round.testedTokens || accepted != round.acceptedTokens)
    return at(round, "wrong counts of tokens");
  return {};
}

/// The records that a round wrote, from `first` on.
std::string problemOfBytes(const RoundRecord& round, const std::vector<ByteRecord>& records,
                           std::size_t first) {
  if (round.position != first) return at(round, "position is not where its first byte is");
  if (first + round.emitted() > records.size()) return at(round, "more bytes than the text");
  for (std::size_t i = 0; i < round.emitted(); ++i) {
    const ByteRecord& record = records[first + i];
    const Origin expected = i < round.accepted ? Origin::Accepted
                            : round.rejected   ? Origin::Corrected
                                               : Origin::Bonus;
    if (record.round != round.index) return at(round, "a byte of another round");
    if (record.origin != expected) return at(round, "a byte of the wrong origin");
    if (i < round.accepted && record.byte != round.draft[i])
      return at(round, "an accepted byte that was not drafted");
  }
  return {};
}

}  // namespace

void Recorder::bytesScored(std::size_t first, std::span<const ByteRecord> fresh) {
  gaps = gaps || first > records.size() || fresh.empty();
  records.resize(std::max(records.size(), first + fresh.size()));
  std::ranges::copy(fresh, records.begin() + static_cast<std::ptrdiff_t>(first));
}

void Recorder::tapsRead(std::size_t first, std::size_t count, const TapBlock& block) {
  const std::size_t perByte = kTapKinds * (block.layers + block.bins);
  for (std::size_t i = 0; i < count; ++i) {
    std::vector<float>& values = taps[first + i];
    values.clear();
    for (std::size_t j = 0; j < kTapKinds * block.layers; ++j)
      values.push_back(block.byLayer[i * kTapKinds * block.layers + j]);
    for (std::size_t j = 0; j < kTapKinds * block.bins; ++j)
      values.push_back(block.byChannel[i * kTapKinds * block.bins + j]);
    gaps = gaps || values.size() != perByte || count > block.count;
  }
}

Bytes Recorder::bytes(std::size_t first) const {
  Bytes result;
  for (std::size_t i = first; i < records.size(); ++i) result.push_back(records[i].byte);
  return result;
}

std::string problemOf(const Recorder& run, std::size_t start, bool whole) {
  if (run.gaps) return "reports with gaps";
  std::size_t at = start;
  const auto skipPlain = [&] {
    while (at < run.records.size() && run.records[at].origin == Origin::Plain) {
      if (run.records[at].round != -1) return false;
      ++at;
    }
    return true;
  };
  for (std::size_t i = 0; i < run.rounds.size(); ++i) {
    const RoundRecord& round = run.rounds[i];
    if (round.index != run.rounds.front().index + static_cast<std::int32_t>(i))
      return "rounds are not numbered in order";
    if (!skipPlain()) return "a plain byte with a round";
    const std::string counts = problemOfCounts(round, whole || i + 1 < run.rounds.size());
    if (!counts.empty()) return counts;
    const std::string bytes = problemOfBytes(round, run.records, at);
    if (!bytes.empty()) return bytes;
    at += round.emitted();
  }
  if (!skipPlain()) return "a plain byte with a round";
  return at == run.records.size() ? "" : "bytes of no round at " + std::to_string(at);
}

bool sameScore(const ByteRecord& a, const ByteRecord& b) {
  const auto sameCandidate = [](const Candidate& x, const Candidate& y) {
    return x.byte == y.byte && x.probability == y.probability;
  };
  return a.byte == b.byte && a.scored == b.scored && a.rank == b.rank &&
         a.surprisal == b.surprisal &&
         std::ranges::equal(a.prediction.candidates, b.prediction.candidates, sameCandidate);
}

}  // namespace mb::test
