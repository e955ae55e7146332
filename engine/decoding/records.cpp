#include "engine/decoding/records.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>

#include "kernels/cpu/ops.h"

namespace mb {

namespace {

struct Weighed {
  Prediction prediction;
  double logTotal = 0;  ///< log(sum(exp(logits))), natural
};

/// The `kCandidates` largest by insertion into a short sorted list; ties keep the lower byte first.
Weighed weigh(std::span<const float> logits) {
  std::array<float, kCandidates> best{};
  Prediction prediction;
  std::size_t held = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (held == kCandidates && logits[i] <= best[kCandidates - 1]) continue;
    std::size_t place = std::min(held, kCandidates - 1);
    for (; place > 0 && logits[i] > best[place - 1]; --place) {
      best[place] = best[place - 1];
      prediction.candidates[place] = prediction.candidates[place - 1];
    }
    best[place] = logits[i];
    prediction.candidates[place].byte = static_cast<Byte>(i);
    held = std::min(held + 1, kCandidates);
  }
  std::array<float, kByteVocabulary> weights;
  const float sum =
      cpu::fastestOps().exponentials(logits.data(), logits.size(), best[0], 1, weights.data());
  for (std::size_t i = 0; i < held; ++i) {
    Candidate& candidate = prediction.candidates[i];
    candidate.probability = weights[candidate.byte] / sum;
  }
  return {prediction, best[0] + std::log(static_cast<double>(sum))};
}

}  // namespace

std::string_view nameOf(Origin origin) {
  static constexpr std::string_view kNames[] = {"prompt",    "plain", "accepted",
                                                "corrected", "bonus", "chosen"};
  return kNames[static_cast<std::size_t>(origin)];
}

Prediction predict(std::span<const float> logits) {
  assert(logits.size() == kByteVocabulary);
  return weigh(logits).prediction;
}

ByteRecord scoreByte(std::span<const float> logits, Byte byte, Origin origin) {
  assert(logits.size() == kByteVocabulary);
  const Weighed weighed = weigh(logits);
  ByteRecord record;
  record.byte = byte;
  record.origin = origin;
  record.scored = true;
  record.surprisal = static_cast<float>((weighed.logTotal - logits[byte]) / std::numbers::ln2);
  const auto better = std::ranges::count_if(logits, [&](float l) { return l > logits[byte]; });
  record.rank = static_cast<Byte>(better);
  record.prediction = weighed.prediction;
  return record;
}

void SpeculationTotals::add(const RoundRecord& round) {
  ++rounds;
  drafted += round.drafted();
  tested += round.tested();
  accepted += round.accepted;
  rejected += round.rejected;
  ignored += round.ignored;
  corrected += round.corrected;
  bonus += round.bonus;
  draftedTokens += round.tokens.size();
  testedTokens += round.testedTokens;
  acceptedTokens += round.acceptedTokens;
  times.draft += round.times.draft;
  times.verify += round.times.verify;
  times.correct += round.times.correct;
  times.rollback += round.times.rollback;
  times.total += round.times.total;
  if (round.tested() > testedAt.size()) {
    testedAt.resize(round.tested());
    acceptedAt.resize(round.tested());
  }
  for (std::size_t i = 0; i < round.tested(); ++i) ++testedAt[i];
  for (std::size_t i = 0; i < round.accepted; ++i) ++acceptedAt[i];
}

}  // namespace mb
