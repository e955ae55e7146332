// Drawing from logits: the right sets, the right frequencies, and nothing but the position's
// chance.
#include <QtTest>
#include <cmath>
#include <set>

#include "engine/decoding/sampler.h"
#include "tests/support/random_values.h"

using namespace mb;
using namespace mb::test;

namespace {

using Logits = std::vector<float>;

Logits randomLogits(Random& random, std::size_t size, float spread) {
  Logits logits(size);
  for (float& logit : logits) logit = random.uniform(-spread, spread);
  return logits;
}

std::vector<double> probabilities(const Logits& logits, double temperature) {
  const double top = *std::ranges::max_element(logits);
  std::vector<double> p;
  double sum = 0;
  for (const float logit : logits) sum += p.emplace_back(std::exp((logit - top) / temperature));
  for (double& value : p) value /= sum;
  return p;
}

Token drawAt(const SamplerSettings& settings, const Logits& logits, std::uint64_t position) {
  return Sampler(settings).draw(logits, position, TokenView());
}

/// Every token drawn at many positions.
std::set<Token> drawn(const SamplerSettings& settings, const Logits& logits,
                      std::uint64_t positions = 4000) {
  Sampler sampler(settings);
  std::set<Token> tokens;
  for (std::uint64_t i = 0; i < positions; ++i) tokens.insert(sampler.draw(logits, i, TokenView()));
  return tokens;
}

/// sum (observed - expected)² / expected over `count` draws.
double chiSquare(const SamplerSettings& settings, const Logits& logits,
                 const std::vector<double>& p, std::size_t count) {
  Sampler sampler(settings);
  std::vector<double> observed(logits.size());
  for (std::uint64_t i = 0; i < count; ++i)
    ++observed[static_cast<std::size_t>(sampler.draw(logits, i, TokenView()))];
  double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double expected = p[i] * static_cast<double>(count);
    sum += (observed[i] - expected) * (observed[i] - expected) / expected;
  }
  return sum;
}

}  // namespace

class SamplerTest : public QObject {
  Q_OBJECT

 private slots:
  void greedyTakesTheLargestAndTheFirstOfEquals() {
    Logits logits{1, 5, 3, 5, -2};
    for (const double temperature : {0.0, -1.0})
      QCOMPARE(drawAt({.temperature = temperature}, logits, 3), 1);
    logits[4] = 6;
    QCOMPARE(drawAt({}, logits, 9), 4);
    QCOMPARE(argmax(Logits{2, 2, 2}), 0);
    QCOMPARE(argmax(Logits{-3, -1, -2}), 1);
  }

  void theLargestHasItsShareOfTheProbability() {
    Random random(12);
    for (const std::size_t size : {1u, 2u, 15u, 256u, 4096u, 50280u}) {
      for (const float spread : {0.1f, 3.0f, 60.0f}) {
        const Logits logits = randomLogits(random, size, spread);
        const double expected = std::ranges::max(probabilities(logits, 1));
        std::vector<float> weights;
        QVERIFY(std::abs(1 / double(weigh(logits, 1, weights)) / expected - 1) < 1e-5);
      }
    }
  }

  void topKOneIsGreedyAtAnyTemperature() {
    Random random(1);
    for (int trial = 0; trial < 50; ++trial) {
      const Logits logits = randomLogits(random, 256, 2);
      QCOMPARE(drawAt({.temperature = 3, .topK = 1}, logits, random.below(1000)), argmax(logits));
    }
  }

  // 7 degrees of freedom: 30 is exceeded by chance once in 10,000 draws of seeds; the seed is
  // fixed.
  void frequenciesFollowTheProbabilities_data() {
    QTest::addColumn<double>("temperature");
    for (const double temperature : {0.3, 0.8, 1.0, 2.5})
      QTest::newRow(qPrintable(QString::number(temperature))) << temperature;
  }
  void frequenciesFollowTheProbabilities() {
    QFETCH(double, temperature);
    const Logits logits{0.5f, 1.2f, -0.3f, 1.0f, 0.8f, 0.1f, -0.5f, 0.9f};
    for (const std::uint64_t seed : {0u, 1u, 12345u}) {
      const SamplerSettings settings{.temperature = temperature, .seed = seed};
      const double value = chiSquare(settings, logits, probabilities(logits, temperature), 20000);
      QVERIFY2(value < 30, qPrintable(QString("chi-square %1").arg(value)));
    }
    // The wrong temperature would be noticed.
    const SamplerSettings settings{.temperature = temperature};
    QVERIFY(chiSquare(settings, logits, probabilities(logits, temperature * 1.3), 20000) > 30);
  }

  void neighbouringPositionsAreIndependent() {
    const Logits even{0, 0};
    Sampler sampler({.temperature = 1, .seed = 5});
    int pairs[4] = {};
    Token last = sampler.draw(even, 0, TokenView());
    for (std::uint64_t i = 1; i <= 20000; ++i) {
      const Token next = sampler.draw(even, i, TokenView());
      ++pairs[2 * last + next];
      last = next;
    }
    for (const int count : pairs) QVERIFY(std::abs(count - 5000) < 300);  // 5 deviations of 61
  }

  void topKKeepsTheKMostProbable() {
    Random random(2);
    for (const std::size_t k : {1u, 2u, 5u, 12u, 40u}) {
      const Logits logits = randomLogits(random, 12, 0.5f);
      std::vector<Token> order{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
      std::ranges::sort(order, [&](Token a, Token b) { return logits[a] > logits[b]; });
      const std::set<Token> expected(order.begin(), order.begin() + std::min<long>(long(k), 12));
      QVERIFY(drawn({.temperature = 1, .topK = k}, logits) == expected);
    }
  }

  void topKTakesTheLowerOfEquals() {
    QVERIFY((drawn({.temperature = 1, .topK = 2}, {1, 3, 1, 1}) == std::set<Token>{0, 1}));
  }

  void topPKeepsTheSmallestSetThatReachesIt() {
    // Probabilities 0.4, 0.3, 0.2, 0.1, in another order.
    const Logits logits{std::log(0.2f), std::log(0.4f), std::log(0.1f), std::log(0.3f)};
    const std::pair<double, std::set<Token>> cases[] = {
        {0.0, {1}},        {0.39, {1}},       {0.41, {1, 3}},       {0.69, {1, 3}},
        {0.71, {0, 1, 3}}, {0.89, {0, 1, 3}}, {0.91, {0, 1, 2, 3}}, {1.0, {0, 1, 2, 3}}};
    for (const auto& [topP, expected] : cases)
      QVERIFY2(drawn({.temperature = 1, .topP = topP}, logits) == expected,
               qPrintable(QString::number(topP)));
  }

  void minPIsRelativeToTheMostProbable() {
    const Logits logits{std::log(0.2f), std::log(0.4f), std::log(0.1f), std::log(0.3f)};
    const std::pair<double, std::set<Token>> cases[] = {{0.0, {0, 1, 2, 3}}, {0.24, {0, 1, 2, 3}},
                                                        {0.26, {0, 1, 3}},   {0.51, {1, 3}},
                                                        {0.76, {1}},         {1.0, {1}}};
    for (const auto& [minP, expected] : cases)
      QVERIFY2(drawn({.temperature = 1, .minP = minP}, logits) == expected,
               qPrintable(QString::number(minP)));
  }

  void restrictionsApplyAfterTheTemperature() {
    const Logits logits{std::log(0.2f), std::log(0.4f), std::log(0.1f), std::log(0.3f)};
    // At temperature 1/2 the probabilities are 16/30, 9/30, 4/30, 1/30.
    QVERIFY((drawn({.temperature = 0.5, .topP = 0.52}, logits) == std::set<Token>{1}));
    QVERIFY((drawn({.temperature = 0.5, .topP = 0.55}, logits) == std::set<Token>{1, 3}));
    QVERIFY((drawn({.temperature = 0.5, .minP = 0.26}, logits) == std::set<Token>{1, 3}));
  }

  void topPIsReckonedWithinTopK() {
    const Logits logits{std::log(0.2f), std::log(0.4f), std::log(0.1f), std::log(0.3f)};
    // Of the two most probable, 0.4 is 57 %.
    QVERIFY((drawn({.temperature = 1, .topK = 2, .topP = 0.56}, logits) == std::set<Token>{1}));
    QVERIFY((drawn({.temperature = 1, .topK = 2, .topP = 0.58}, logits) == std::set<Token>{1, 3}));
  }

  void whatIsLeftKeepsItsProportions() {
    const Logits logits{0.5f, 1.2f, -0.3f, 1.0f, 0.8f, 0.1f, -0.5f, 0.9f};
    const SamplerSettings settings{.temperature = 0.9, .topK = 5, .minP = 0.5, .seed = 3};
    auto p = probabilities(logits, 0.9);
    const double largest = *std::ranges::max_element(p);
    double kept = 0;
    for (double& value : p) kept += value = value < 0.5 * largest ? 0 : value;
    Logits left;
    std::vector<double> share;
    std::vector<Token> back;
    for (std::size_t i = 0; i < p.size(); ++i)
      if (p[i] > 0) share.push_back(p[i] / kept), back.push_back(static_cast<Token>(i));
    QVERIFY(share.size() > 2 && share.size() <= 5);
    std::vector<double> observed(logits.size());
    Sampler sampler(settings);
    for (std::uint64_t i = 0; i < 20000; ++i)
      ++observed[static_cast<std::size_t>(sampler.draw(logits, i, TokenView()))];
    for (std::size_t i = 0; i < share.size(); ++i)
      QVERIFY(std::abs(observed[static_cast<std::size_t>(back[i])] - 20000 * share[i]) < 350);
  }

  void thePenaltyDividesPositiveAndMultipliesNegativeLogits() {
    const SamplerSettings settings{.repetitionPenalty = 2};
    Sampler sampler(settings);
    const Logits logits{4, 3, -1, -3};
    const auto draw = [&](std::vector<Token> recent) {
      return sampler.draw(logits, 0, TokenView(recent));
    };
    QCOMPARE(draw({}), 0);
    QCOMPARE(draw({0}), 1);           // 2 against 3
    QCOMPARE(draw({0, 1}), 0);        // 2 against 1.5
    QCOMPARE(draw({0, 0, 0, 0}), 1);  // once for a token, however often it occurred
    const Logits negative{-1, -1.5f};
    QCOMPARE(sampler.draw(negative, 0, TokenView(std::vector<Token>{0})), 1);  // -2 against -1.5
    // The formula also shows in the frequencies.
    const SamplerSettings warm{.temperature = 1, .repetitionPenalty = 1.5};
    const Logits adjusted{4 / 1.5f, 3, -1.5f, -3};
    const std::vector<Token> recent{2, 0};
    Sampler penalising(warm);
    for (std::uint64_t i = 0; i < 2000; ++i)
      QCOMPARE(penalising.draw(logits, i, TokenView(recent)),
               drawAt({.temperature = 1}, adjusted, i));
  }

  void thePenaltyLooksBackOneWindow() {
    SamplerSettings settings{.repetitionPenalty = 10, .repetitionWindow = 3};
    const Logits logits{4, 3};
    QCOMPARE(Sampler(settings).draw(logits, 0, TokenView(std::vector<Token>{0, 1, 1, 1})), 0);
    QCOMPARE(Sampler(settings).draw(logits, 0, TokenView(std::vector<Token>{1, 0, 0, 0})), 1);
    settings.repetitionWindow = 0;
    QCOMPARE(Sampler(settings).draw(logits, 0, TokenView(std::vector<Token>{0})), 0);
  }

  void bytesAndTokensArePenalisedAlike() {
    Random random(4);
    const SamplerSettings settings{
        .temperature = 1.1, .repetitionPenalty = 1.3, .repetitionWindow = 20, .seed = 8};
    Sampler sampler(settings);
    for (std::uint64_t i = 0; i < 300; ++i) {
      const Logits logits = randomLogits(random, 256, 2);
      const Bytes recent = random.bytes(random.below(60));
      const std::vector<Token> tokens(recent.begin(), recent.end());
      QCOMPARE(sampler.draw(logits, i, ByteView(recent)),
               sampler.draw(logits, i, TokenView(tokens)));
    }
  }

  void aDrawDependsOnNothingButItsArguments() {
    Random random(5);
    const SamplerSettings settings{.temperature = 1,
                                   .topK = 60,
                                   .topP = 0.9,
                                   .minP = 0.01,
                                   .repetitionPenalty = 1.2,
                                   .seed = 99};
    std::vector<Logits> logits;
    std::vector<Bytes> recent;
    std::vector<Token> expected;
    for (std::uint64_t i = 0; i < 200; ++i) {
      logits.push_back(randomLogits(random, 256, 3));
      recent.push_back(random.bytes(i % 70));
      expected.push_back(Sampler(settings).draw(logits.back(), i, ByteView(recent.back())));
    }
    Sampler reused(settings);  // backwards, with other draws in between
    for (std::size_t i = 200; i-- > 0;) {
      reused.draw(logits[random.below(200)], random.below(9999),
                  ByteView(recent[random.below(200)]));
      QCOMPARE(reused.draw(logits[i], i, ByteView(recent[i])), expected[i]);
    }
  }

  // Two distributions at a total variation distance D agree at least as often as (1 - D) / (1 + D),
  // and the larger the lead, the surer.
  void similarLogitsMostlyDrawTheSame() {
    Random random(8);
    Sampler sampler({.temperature = 1, .seed = 4});
    double agreed = 0, expected = 0, leading = 0, leadersAgreed = 0;
    constexpr int kDraws = 4000;
    for (std::uint64_t i = 0; i < kDraws; ++i) {
      const Logits one = randomLogits(random, 40, 3);
      Logits two = one;
      for (float& logit : two) logit += random.uniform(-0.5f, 0.5f);
      const auto p = probabilities(one, 1), q = probabilities(two, 1);
      double distance = 0;
      for (std::size_t t = 0; t < p.size(); ++t) distance += std::abs(p[t] - q[t]) / 2;
      const Sampler::Outcome outcome = sampler.race(one, i, TokenView());
      const bool same = outcome.token == sampler.draw(two, i, TokenView());
      QVERIFY(outcome.lead >= 1);
      agreed += same;
      expected += (1 - distance) / (1 + distance);
      if (outcome.lead < 3) continue;  // more than two weights can be off by, each by exp(1/2)
      ++leading;
      leadersAgreed += same;
    }
    QVERIFY2(agreed > expected - 100 && agreed < kDraws,
             qPrintable(QString("%1, at least %2").arg(agreed).arg(expected)));
    QVERIFY(leading > 1000);
    QCOMPARE(leadersAgreed, leading);
  }

  void withoutARaceNothingTakesTheLead() {
    const Logits logits{1, 2, 3};
    QVERIFY(std::isinf(Sampler({}).race(logits, 0, TokenView()).lead));
    QVERIFY(std::isinf(Sampler({.temperature = 1, .topK = 1}).race(logits, 0, TokenView()).lead));
  }

  void seedsAndPositionsMatter() {
    const Logits even(256);
    int sameSeed = 0, samePosition = 0;
    for (std::uint64_t i = 0; i < 1000; ++i) {
      const Token token = drawAt({.temperature = 1, .seed = 1}, even, i);
      sameSeed += token == drawAt({.temperature = 1, .seed = 2}, even, i);
      samePosition += token == drawAt({.temperature = 1, .seed = 1}, even, i + 1);
    }
    QVERIFY(sameSeed < 20 && samePosition < 20);  // by chance 4
  }
};

QTEST_GUILESS_MAIN(SamplerTest)
#include "test_sampler.moc"
