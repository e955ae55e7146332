#include "engine/decoding/records.h"

#include <algorithm>
#include <cassert>
#include <numbers>

namespace mb {

namespace {

/// log(sum(exp(logits))), natural.
double logSum(std::span<const float> logits) {
  const double top = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<float>(logit - top));
  return top + std::log(sum);
}

/// The `kCandidates` largest by insertion into a short sorted list; ties keep the lower byte first.
Prediction largest(std::span<const float> logits, double logTotal) {
  std::array<float, kCandidates> best;
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
  for (std::size_t i = 0; i < held; ++i)
    prediction.candidates[i].probability = static_cast<float>(std::exp(best[i] - logTotal));
  return prediction;
}

}  // namespace

std::string_view nameOf(Origin origin) {
  static constexpr std::string_view kNames[] = {"prompt",    "plain", "accepted",
                                                "corrected", "bonus", "chosen"};
  return kNames[static_cast<std::size_t>(origin)];
}

Prediction predict(std::span<const float> logits) {
  assert(logits.size() == kByteVocabulary);
  return largest(logits, logSum(logits));
}

ByteRecord scoreByte(std::span<const float> logits, Byte byte, Origin origin) {
  assert(logits.size() == kByteVocabulary);
  const double logTotal = logSum(logits);
  ByteRecord record;
  record.byte = byte;
  record.origin = origin;
  record.scored = true;
  record.surprisal = static_cast<float>((logTotal - logits[byte]) / std::numbers::ln2);
  const auto better = std::ranges::count_if(logits, [&](float l) { return l > logits[byte]; });
  record.rank = static_cast<Byte>(better);
  record.prediction = largest(logits, logTotal);
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
