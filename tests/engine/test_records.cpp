// Records against a brute-force softmax, and the sums over rounds.
#include <QtTest>
#include <cmath>
#include <numeric>

#include "engine/decoding/records.h"
#include "tests/support/random_values.h"

using namespace mb;
using namespace mb::test;

namespace {

using Logits = std::vector<float>;

std::vector<double> softmax(const Logits& logits) {
  const double top = *std::ranges::max_element(logits);
  std::vector<double> p;
  double sum = 0;
  for (const float logit : logits) sum += p.emplace_back(std::exp(logit - top));
  for (double& value : p) value /= sum;
  return p;
}

Logits randomLogits(Random& random, float spread) {
  Logits logits(256);
  for (float& logit : logits) logit = random.uniform(-spread, spread);
  return logits;
}

/// Bytes by falling logit, the lower byte first among equals.
std::vector<Byte> order(const Logits& logits) {
  std::vector<Byte> bytes(256);
  std::iota(bytes.begin(), bytes.end(), Byte{0});
  std::ranges::stable_sort(bytes, [&](Byte a, Byte b) { return logits[a] > logits[b]; });
  return bytes;
}

RoundRecord round(std::size_t drafted, std::uint32_t accepted, std::uint32_t corrected,
                  std::uint32_t bonus) {
  RoundRecord record;
  record.draft.resize(drafted);
  record.tokens.resize(2);
  record.accepted = accepted;
  record.rejected = accepted < drafted ? 1 : 0;
  record.ignored = static_cast<std::uint32_t>(drafted) - accepted - record.rejected;
  record.corrected = corrected;
  record.bonus = bonus;
  record.testedTokens = 2;
  record.acceptedTokens = accepted < drafted ? 1 : 2;
  record.times = {1, 2, 3, 4, 11};
  return record;
}

}  // namespace

class RecordsTest : public QObject {
  Q_OBJECT

 private slots:
  void surprisalIsMinusLog2OfTheProbability() {
    Random random(1);
    for (const float spread : {0.0f, 0.1f, 3.0f, 20.0f}) {
      const Logits logits = randomLogits(random, spread);
      const auto p = softmax(logits);
      for (int byte = 0; byte < 256; ++byte) {
        const auto record = scoreByte(logits, static_cast<Byte>(byte), Origin::Bonus);
        const double expected = -std::log2(p[static_cast<std::size_t>(byte)]);
        QVERIFY(std::abs(record.surprisal - expected) < 1e-5 * (1 + expected));
        QVERIFY(record.surprisal >= 0);
        QCOMPARE(record.byte, static_cast<Byte>(byte));
        QVERIFY(record.origin == Origin::Bonus);
        QVERIFY(record.scored);
        QCOMPARE(record.round, -1);
      }
    }
  }

  void aUniformDistributionCostsEightBits() {
    const auto record = scoreByte(Logits(256, 3.5f), 77, Origin::Prompt);
    QCOMPARE(record.surprisal, 8.0f);
    QCOMPARE(record.rank, Byte{0});
  }

  void extremeLogitsStayFinite() {
    Logits logits(256, -3e38f);
    logits[65] = 3e38f;
    QCOMPARE(scoreByte(logits, 65, Origin::Plain).surprisal, 0.0f);
    QVERIFY(std::isfinite(scoreByte(Logits(256, 3e38f), 1, Origin::Plain).surprisal));
    QCOMPARE(predict(logits).candidates[0].byte, Byte{65});
    QCOMPARE(predict(logits).candidates[0].probability, 1.0f);
    QCOMPARE(predict(logits).candidates[1].probability, 0.0f);
  }

  void rankCountsWhatIsMoreProbable() {
    Random random(2);
    Logits logits = randomLogits(random, 5);
    for (int trial = 0; trial < 60; ++trial) logits[random.below(256)] = logits[random.below(256)];
    for (int byte = 0; byte < 256; ++byte) {
      const float own = logits[static_cast<std::size_t>(byte)];
      const auto better = std::ranges::count_if(logits, [&](float l) { return l > own; });
      QCOMPARE(int{scoreByte(logits, static_cast<Byte>(byte), Origin::Plain).rank},
               static_cast<int>(better));
    }
  }

  void tiesShareARank() {
    Logits logits(256);
    logits[10] = logits[20] = 2;
    logits[5] = 1;
    QCOMPARE(scoreByte(logits, 10, Origin::Plain).rank, Byte{0});
    QCOMPARE(scoreByte(logits, 20, Origin::Plain).rank, Byte{0});
    QCOMPARE(scoreByte(logits, 5, Origin::Plain).rank, Byte{2});
    QCOMPARE(scoreByte(logits, 255, Origin::Plain).rank, Byte{3});
    Logits worst(256, 1);
    worst[0] = 0;
    QCOMPARE(scoreByte(worst, 0, Origin::Plain).rank, Byte{255});
  }

  void candidatesAreTheMostProbableInOrder() {
    Random random(3);
    for (int trial = 0; trial < 200; ++trial) {
      Logits logits = randomLogits(random, 4);
      if (trial % 2)  // few different values, many ties
        for (float& logit : logits) logit = std::round(logit);
      const auto p = softmax(logits);
      const auto expected = order(logits);
      const Prediction prediction = predict(logits);
      double sum = 0;
      for (std::size_t i = 0; i < kCandidates; ++i) {
        QCOMPARE(prediction.candidates[i].byte, expected[i]);
        const double probability = p[expected[i]];
        QVERIFY(std::abs(prediction.candidates[i].probability - probability) < 1e-6 * probability);
        sum += prediction.candidates[i].probability;
      }
      QVERIFY(sum <= 1 + 1e-6);
    }
  }

  void scoringAndPredictingAgree() {
    Random random(4);
    const Logits logits = randomLogits(random, 4);
    const auto record = scoreByte(logits, 9, Origin::Plain);
    const auto prediction = predict(logits);
    for (std::size_t i = 0; i < kCandidates; ++i) {
      QCOMPARE(record.prediction.candidates[i].byte, prediction.candidates[i].byte);
      QCOMPARE(record.prediction.candidates[i].probability, prediction.candidates[i].probability);
    }
    const auto top = scoreByte(logits, prediction.candidates[0].byte, Origin::Plain);
    QVERIFY(std::abs(std::exp2(-top.surprisal) - prediction.candidates[0].probability) < 1e-6f);
  }

  void originsHaveNames() {
    const std::pair<Origin, std::string_view> names[] = {
        {Origin::Prompt, "prompt"},       {Origin::Plain, "plain"}, {Origin::Accepted, "accepted"},
        {Origin::Corrected, "corrected"}, {Origin::Bonus, "bonus"}, {Origin::Chosen, "chosen"}};
    for (const auto& [origin, name] : names) QVERIFY(nameOf(origin) == name);
  }

  void roundsKnowWhatTheyEmitted() {
    const RoundRecord rejected = round(6, 2, 3, 0);
    QCOMPARE(rejected.drafted(), 6u);
    QCOMPARE(rejected.tested(), 3u);
    QCOMPARE(rejected.emitted(), 5u);
    QCOMPARE(round(4, 4, 0, 1).emitted(), 5u);
  }

  void totalsAddUpTheRounds() {
    SpeculationTotals totals;
    QCOMPARE(totals.acceptance(), 0.0);
    QCOMPARE(totals.bytesPerRound(), 0.0);
    totals.add(round(6, 2, 1, 0));
    totals.add(round(4, 4, 0, 1));
    totals.add(round(3, 0, 2, 0));
    QCOMPARE(totals.rounds, std::uint64_t{3});
    QCOMPARE(totals.drafted, std::uint64_t{13});
    QCOMPARE(totals.accepted, std::uint64_t{6});
    QCOMPARE(totals.rejected, std::uint64_t{2});
    QCOMPARE(totals.ignored, std::uint64_t{5});
    QCOMPARE(totals.tested, std::uint64_t{8});
    QCOMPARE(totals.corrected, std::uint64_t{3});
    QCOMPARE(totals.bonus, std::uint64_t{1});
    QCOMPARE(totals.emitted(), std::uint64_t{10});
    QCOMPARE(totals.draftedTokens, std::uint64_t{6});
    QCOMPARE(totals.testedTokens, std::uint64_t{6});
    QCOMPARE(totals.acceptedTokens, std::uint64_t{4});
    QCOMPARE(totals.acceptance(), 6.0 / 8);
    QCOMPARE(totals.tokenAcceptance(), 4.0 / 6);
    QCOMPARE(totals.meanAcceptedLength(), 2.0);
    QCOMPARE(totals.bytesPerRound(), 10.0 / 3);
    QCOMPARE(totals.times.draft, 3.0);
    QCOMPARE(totals.times.verify, 6.0);
    QCOMPARE(totals.times.correct, 9.0);
    QCOMPARE(totals.times.rollback, 12.0);
    QCOMPARE(totals.times.total, 33.0);
    // Tested 3, 4 and 1 bytes deep; accepted 2, 4 and 0.
    QCOMPARE(totals.testedAt, (std::vector<std::uint64_t>{3, 2, 2, 1}));
    QCOMPARE(totals.acceptedAt, (std::vector<std::uint64_t>{2, 2, 1, 1}));
  }
};

QTEST_GUILESS_MAIN(RecordsTest)
#include "test_records.moc"
