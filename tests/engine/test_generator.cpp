// The decode loop with drafters whose guesses are known: counts, origins, edges and stops.
#include <QtTest>
#include <algorithm>
#include <memory>

#include "engine/decoding/sampler.h"
#include "engine/error.h"
#include "engine/model/mix.h"
#include "engine/session/session.h"
#include "tests/support/forwarding_model.h"
#include "tests/support/model_files.h"
#include "tests/support/random_values.h"
#include "tests/support/recorded_run.h"
#include "tests/support/scripted_drafter.h"
#include "tests/support/single_steps.h"
#include "tests/support/thrown.h"

using namespace mb;
using namespace mb::test;

namespace {

const Bytes kPrompt = toBytes("On a dark");

/// A verifier of random weights: its text is noise, but every byte of it depends on those before.
std::shared_ptr<const Model> verifier() {
  static const auto kModel = [] {
    ModelConfig config = smallConfig();
    config.tiedHead = false;
    return modelOf(MemoryWeights(config, 41));
  }();
  return kModel;
}

const SamplerSettings kGreedy;
const SamplerSettings kSampled{.temperature = 0.8, .topK = 40, .seed = 7};
const SamplerSettings kPenalised{
    .temperature = 1, .topP = 0.95, .repetitionPenalty = 1.4, .repetitionWindow = 20, .seed = 9};

GenerationSettings with(Speculation speculation, const SamplerSettings& sampler,
                        bool healing = true) {
  GenerationSettings settings;
  settings.speculation = speculation;
  settings.draftTokens = 4;
  settings.healing = healing;
  settings.sampler = sampler;
  return settings;
}

/// A session after its prompt, and what it reported since.
struct Run : Recorder {
  explicit Run(std::shared_ptr<Drafter> drafter, std::shared_ptr<const Model> model = verifier())
      : session(std::move(model), std::move(drafter)) {
    session.replace(0, 0, kPrompt);
  }
  Run& write(std::size_t count, const GenerationSettings& settings, std::stop_token stop = {}) {
    session.generate(count, settings, *this, stop);
    return *this;
  }
  QString problem(bool whole = true) const {
    return QString::fromStdString(problemOf(*this, kPrompt.size(), whole));
  }
  std::size_t written() const { return session.text().size() - kPrompt.size(); }

  Session session;
};

/// Prompt and continuation without speculation.
Bytes plainText(std::size_t count, const SamplerSettings& sampler) {
  return Run(nullptr).write(count, with(Speculation::Off, sampler)).session.text();
}

std::size_t rankOf(const std::vector<float>& logits, Byte byte) {
  return static_cast<std::size_t>(
      std::ranges::count_if(logits, [&](float logit) { return logit > logits[byte]; }));
}

std::size_t countOf(const Run& run, Origin origin) {
  return static_cast<std::size_t>(
      std::ranges::count_if(run.records, [&](const ByteRecord& r) { return r.origin == origin; }));
}

/// A verifier that draws ahead: what `text` says, with some of it wrong.
class DrawingModel : public ForwardingModel {
 public:
  DrawingModel(Bytes text, std::size_t wrongEvery)
      : ForwardingModel(verifier()), m_text(std::move(text)), m_wrongEvery(wrongEvery) {}
  std::unique_ptr<Runner> newRunner() const override {
    return std::make_unique<DrawingRunner>(*this);
  }

  mutable std::size_t drawn = 0;

 private:
  class DrawingRunner : public ForwardingRunner {
   public:
    explicit DrawingRunner(const DrawingModel& model)
        : ForwardingRunner(verifier()->newRunner()), m_model(model) {}
    TokenView advanceDrawing(const State& from, std::span<State> to, Token first,
                             const Drawing& drawing, const ChunkRequest& request) override {
      m_tokens.assign(1, first);
      for (std::size_t i = 0; i < drawing.keys.size() && m_tokens.size() < maxChunk(); ++i) {
        const Byte right = m_model.m_text.at(from.position() + m_tokens.size());
        const bool wrong = m_model.m_wrongEvery && m_model.drawn++ % m_model.m_wrongEvery == 0;
        m_tokens.push_back(wrong ? right ^ 1 : right);
      }
      m_runner->advance(from, to.back(), m_tokens, request);
      return TokenView(m_tokens).subspan(1);
    }

   private:
    const DrawingModel& m_model;
    std::vector<Token> m_tokens;
  };

  Bytes m_text;
  std::size_t m_wrongEvery;
};

/// A verifier that judges by itself, as the host would, with some of it wrong.
class JudgingModel : public ForwardingModel {
 public:
  JudgingModel(const SamplerSettings& sampler, std::size_t wrongEvery)
      : ForwardingModel(verifier()), m_sampler(sampler), m_wrongEvery(wrongEvery) {}
  std::unique_ptr<Runner> newRunner() const override {
    return std::make_unique<JudgingRunner>(*this);
  }

  mutable std::size_t judged = 0;
  mutable std::size_t rewinds = 0;
  mutable bool toldPoints = true;  ///< every guess came with the random number of its position

 private:
  class JudgingRunner : public ForwardingRunner {
   public:
    explicit JudgingRunner(const JudgingModel& model)
        : ForwardingRunner(verifier()->newRunner()), m_model(model) {}
    std::size_t advanceJudging(const State& from, State& to, TokenView tokens,
                               const Judgement& judgement, const ChunkRequest& request) override {
      m_runner->advance(from, to, tokens, request);
      std::size_t kept = 1;
      while (kept < tokens.size() && stands(from.position() + kept, tokens[kept], kept, judgement))
        ++kept;
      const bool wrong = m_model.m_wrongEvery && m_model.judged % m_model.m_wrongEvery == 0;
      if (wrong) kept = kept > 1 ? kept - 1 : tokens.size();
      ++m_model.judged;
      m_runner->rewind(from, to, kept);
      return kept;
    }
    void rewind(const State& from, State& to, std::size_t kept) override {
      ++m_model.rewinds;
      ForwardingRunner::rewind(from, to, kept);
    }

   private:
    bool stands(std::uint64_t position, Token token, std::size_t index,
                const Judgement& judgement) const {
      const auto logits = m_runner->logits(index - 1);
      if (judgement.beta) {
        const float own = logits[std::size_t(token)];
        return std::size_t(std::ranges::count_if(logits, [&](float l) { return l > own; })) <
               *judgement.beta;
      }
      m_model.toldPoints &=
          judgement.drawing.keys.at(index - 1) == mix(m_model.m_sampler.seed, position);
      return Sampler(m_model.m_sampler).draw(logits, position, TokenView()) == token;
    }

    const JudgingModel& m_model;
  };

  SamplerSettings m_sampler;
  std::size_t m_wrongEvery;
};

/// Stops its own run after a number of reported bytes.
struct StoppingRun : Run {
  using Run::Run;
  void bytesScored(std::size_t first, std::span<const ByteRecord> fresh) override {
    Run::bytesScored(first, fresh);
    if (records.size() >= stopAt) source.request_stop();
  }
  std::size_t stopAt = 0;
  std::stop_source source;
};

}  // namespace

class GeneratorTest : public QObject {
  Q_OBJECT

 private slots:
  void plainTextIsWhatTheSamplerDrawsWhateverTheRunnerDrew_data() {
    QTest::addColumn<bool>("sampled");
    QTest::addColumn<int>("wrongEvery");
    for (const bool sampled : {false, true})
      for (const int wrongEvery : {0, 1, 2, 3, 7, 17})
        QTest::addRow("%s, wrong every %d", sampled ? "sampled" : "greedy", wrongEvery)
            << sampled << wrongEvery;
  }
  void plainTextIsWhatTheSamplerDrawsWhateverTheRunnerDrew() {
    QFETCH(bool, sampled);
    QFETCH(int, wrongEvery);
    constexpr std::size_t kCount = 150;
    const SamplerSettings& sampler = sampled ? kSampled : kGreedy;
    const Bytes expected = plainText(kCount + 1, sampler);  // no run is to draw behind its end
    const auto model = std::make_shared<DrawingModel>(expected, std::size_t(wrongEvery));
    Run run(nullptr, model);
    for (const std::size_t count : {1, 2, 100, 47}) {
      run.write(count, with(Speculation::Off, sampler));
      QVERIFY2(run.problem().isEmpty(), qPrintable(run.problem()));
    }
    QCOMPARE(run.written(), kCount);
    QVERIFY(std::ranges::equal(run.session.text(), ByteView(expected).first(expected.size() - 1)));
    QCOMPARE(countOf(run, Origin::Plain), kCount);
    QVERIFY(wrongEvery == 0 || model->drawn > kCount / 2);
    run.session.replace(kPrompt.size() + 20, kCount, {});  // snapshots taken on the way are right
    run.write(kCount - 20, with(Speculation::Off, sampler));
    QVERIFY(std::ranges::equal(run.session.text(), ByteView(expected).first(expected.size() - 1)));
  }

  void aPenaltyIsNotLeftToTheRunner() {
    const Bytes expected = plainText(60, kPenalised);
    const auto model = std::make_shared<DrawingModel>(expected, 1);
    Run run(nullptr, model);
    run.write(60, with(Speculation::Off, kPenalised));
    QVERIFY(std::ranges::equal(run.session.text(), expected));
    QCOMPARE(model->drawn, std::size_t{0});
  }

  void exactTextDoesNotDependOnTheDrafter_data() {
    QTest::addColumn<int>("sampler");
    QTest::addColumn<int>("wrongEvery");
    QTest::addColumn<bool>("healing");
    const char* samplers[] = {"greedy", "sampled", "penalised"};
    for (int sampler = 0; sampler < 3; ++sampler)
      for (const int wrongEvery : {0, 1, 2, 5, 11})
        for (const bool healing : {true, false})
          QTest::newRow(qPrintable(QString("%1, wrong every %2%3")
                                       .arg(samplers[sampler])
                                       .arg(wrongEvery)
                                       .arg(healing ? "" : ", no healing")))
              << sampler << wrongEvery << healing;
  }
  void exactTextDoesNotDependOnTheDrafter() {
    QFETCH(int, sampler);
    QFETCH(int, wrongEvery);
    QFETCH(bool, healing);
    const SamplerSettings& settings =
        *std::array{&kGreedy, &kSampled, &kPenalised}[unsigned(sampler)];
    const Bytes expected = plainText(200, settings);
    const auto wrong = [&](std::size_t i) { return wrongEvery && i % unsigned(wrongEvery) == 0; };
    for (std::size_t m = 1; m <= 8; ++m) {
      const auto drafter = std::make_shared<ScriptedDrafter>(guessFrom(expected, 2 * m, wrong));
      GenerationSettings exact = with(Speculation::Exact, settings, healing);
      exact.draftTokens = m;
      Run run(drafter);
      run.write(200, exact);
      QVERIFY(run.session.text() == expected);
      QCOMPARE(run.problem(), QString());
      QVERIFY(drafter->text == expected);
      QVERIFY(!run.rounds.empty());
    }
  }

  void theHostHasTheLastWordOnWhatTheRunnerJudged_data() {
    QTest::addColumn<int>("speculation");
    QTest::addColumn<bool>("sampled");
    QTest::addColumn<int>("wrongEvery");
    for (const auto speculation : {Speculation::Exact, Speculation::TopBeta})
      for (const bool sampled : {false, true})
        for (const int wrongEvery : {0, 1, 3})
          QTest::addRow("%s, %s, wrong every %d", nameOf(speculation).data(),
                        sampled ? "sampled" : "greedy", wrongEvery)
              << int(speculation) << sampled << wrongEvery;
  }
  void theHostHasTheLastWordOnWhatTheRunnerJudged() {
    QFETCH(int, speculation);
    QFETCH(bool, sampled);
    QFETCH(int, wrongEvery);
    const SamplerSettings& sampler = sampled ? kSampled : kGreedy;
    const GenerationSettings settings = with(Speculation(speculation), sampler);
    const auto guess =
        guessFrom(plainText(150, sampler), 6, [](std::size_t i) { return i % 5 == 0; });
    Run host(std::make_shared<ScriptedDrafter>(guess));
    const auto model = std::make_shared<JudgingModel>(sampler, std::size_t(wrongEvery));
    Run run(std::make_shared<ScriptedDrafter>(guess), model);
    for (Run* each : {&host, &run}) each->write(150, settings);
    QCOMPARE(run.problem(), QString());
    QVERIFY(run.session.text() == host.session.text());
    QCOMPARE(run.rounds.size(), host.rounds.size());
    for (std::size_t i = 0; i < run.records.size(); ++i)
      QVERIFY(sameScore(run.records[i], host.records[i]));
    QVERIFY(model->judged > 10);
    QVERIFY(model->toldPoints);
    // Nothing is left to do where it was right, but for the first draft: no byte comes before it.
    QCOMPARE(model->rewinds > 1, wrongEvery > 0);
  }

  void aPenalisedDrawIsNotLeftToTheRunnerToJudge() {
    const auto model = std::make_shared<JudgingModel>(kPenalised, 1);
    const auto guess = guessFrom(plainText(60, kPenalised), 6);
    Run run(std::make_shared<ScriptedDrafter>(guess), model);
    run.write(60, with(Speculation::Exact, kPenalised));
    QVERIFY(run.session.text() == plainText(60, kPenalised));
    QCOMPARE(model->judged, std::size_t{0});
  }

  void recordsOfARunAreThoseOfScoringItsText() {
    const Bytes expected = plainText(120, kSampled);
    const auto wrong = [](std::size_t i) { return i % 7 == 0; };
    Run run(std::make_shared<ScriptedDrafter>(guessFrom(expected, 6, wrong)));
    run.write(120, with(Speculation::Exact, kSampled));
    Session fresh(verifier(), nullptr);
    fresh.replace(0, 0, expected);
    Recorder scored;
    fresh.score(scored, {});
    QCOMPARE(run.records.size(), scored.records.size());
    for (std::size_t i = 0; i < expected.size(); ++i)
      QVERIFY(sameScore(run.records[i], scored.records[i]));
  }

  void aDrafterThatIsAlwaysRightEarnsTheBonusByte() {
    const Bytes expected = plainText(33, kSampled);
    const auto drafter = std::make_shared<ScriptedDrafter>(guessFrom(expected, 8));
    Run run(drafter);
    GenerationSettings whole = with(Speculation::Exact, kSampled);
    whole.cutsDrafts = false;
    run.write(33, whole);
    // Four tokens of two bytes and the bonus: 9 + 9 + 9, then 6 bytes that leave no room for one.
    QCOMPARE(run.rounds.size(), std::size_t{4});
    for (const RoundRecord& round : run.rounds) {
      const bool last = &round == &run.rounds.back();
      QCOMPARE(round.drafted(), last ? 6u : 8u);
      QCOMPARE(round.accepted, round.drafted());
      QCOMPARE(round.bonus, last ? 0u : 1u);
      QCOMPARE(round.corrected, 0u);
      QCOMPARE(round.acceptedTokens, last ? 3u : 4u);
    }
    QVERIFY(run.session.text() == expected);
    QCOMPARE(countOf(run, Origin::Bonus), std::size_t{3});
  }

  void aDrafterThatIsAlwaysWrongCostsNoBytes() {
    const Bytes expected = plainText(30, kSampled);
    const auto drafter =
        std::make_shared<ScriptedDrafter>(guessFrom(expected, 6, [](std::size_t) { return true; }));
    Run run(drafter);
    run.write(30, with(Speculation::Exact, kSampled));
    QCOMPARE(run.rounds.size(), std::size_t{30});
    for (const RoundRecord& round : run.rounds) {
      QCOMPARE(round.accepted, 0u);
      QCOMPARE(round.rejected, 1u);
      QCOMPARE(round.corrected, 1u);
      QCOMPARE(round.testedTokens, 1u);
      QCOMPARE(round.acceptedTokens, 0u);
    }
    QVERIFY(run.session.text() == expected);
    QCOMPARE(run.problem(), QString());
  }

  void aDrafterWithoutAGuessLeavesPlainDecoding() {
    const auto drafter = std::make_shared<ScriptedDrafter>([](ByteView) { return Bytes(); });
    Run run(drafter);
    run.write(25, with(Speculation::Exact, kSampled));
    QVERIFY(run.rounds.empty());
    QCOMPARE(countOf(run, Origin::Plain), std::size_t{25});
    QCOMPARE(drafter->proposals, std::size_t{25});
    QVERIFY(run.session.text() == plainText(25, kSampled));
    QVERIFY(drafter->text == run.session.text());
    QCOMPARE(run.problem(), QString());
  }

  void aDrafterMayGuessOnlyNowAndThen() {
    const Bytes expected = plainText(150, kSampled);
    const auto sometimes = [guess = guessFrom(expected, 4)](ByteView text) {
      return text.size() % 3 ? Bytes() : guess(text);
    };
    Run run(std::make_shared<ScriptedDrafter>(sometimes));
    run.write(150, with(Speculation::Exact, kSampled));
    QVERIFY(run.session.text() == expected);
    QCOMPARE(run.problem(), QString());
    QVERIFY(countOf(run, Origin::Plain) > 5);
    QVERIFY(countOf(run, Origin::Accepted) > 20);
  }

  // A drafter that breaks its promise must not make the generator break its own.
  void aDrafterThatSaysMoreThanItWasAskedForIsCutShort_data() {
    QTest::addColumn<int>("length");
    for (const int length : {9, 20, 63, 64, 200})
      QTest::newRow(qPrintable(QString::number(length))) << length;
  }
  void aDrafterThatSaysMoreThanItWasAskedForIsCutShort() {
    QFETCH(int, length);
    const Bytes expected = plainText(300, kSampled);
    const auto drafter = std::make_shared<ScriptedDrafter>(
        guessFrom(expected, static_cast<std::size_t>(length)), true);
    Run run(drafter);
    std::optional<Error> error;
    error = thrown<Error>([&] { run.write(8, with(Speculation::Exact, kSampled)); });
    QVERIFY2(!error, error ? error->what() : "");
    QCOMPARE(run.written(), std::size_t{8});
    QCOMPARE(run.problem(), QString());
  }

  void askingIsLimitedToWhatCanBeUsed() {
    const Bytes expected = plainText(100, kSampled);
    const auto drafter = std::make_shared<ScriptedDrafter>(guessFrom(expected, 200));
    GenerationSettings exact = with(Speculation::Exact, kSampled);
    exact.draftTokens = 64;
    exact.cutsDrafts = false;
    Run run(drafter);
    run.write(100, exact);
    QCOMPARE(drafter->largestRequest, std::size_t{63});  // a chunk less the pending byte
    QVERIFY(run.session.text() == expected);
    QCOMPARE(run.rounds[0].drafted(), 63u);
    QCOMPARE(run.problem(), QString());
  }

  void exactlyTheBytesAskedForAreWritten_data() {
    QTest::addColumn<int>("speculation");
    QTest::addColumn<bool>("healing");
    for (int speculation = 0; speculation < 3; ++speculation)
      for (const bool healing : {true, false})
        QTest::newRow(qPrintable(QString("%1%2").arg(
            QString::fromStdString(std::string(nameOf(Speculation(speculation)))),
            healing ? "" : ", no healing")))
            << speculation << healing;
  }
  void exactlyTheBytesAskedForAreWritten() {
    QFETCH(int, speculation);
    QFETCH(bool, healing);
    const Bytes expected = plainText(100, kSampled);
    for (const std::size_t count : {0u, 1u, 2u, 7u, 33u}) {
      for (const unsigned wrongEvery : {1u, 3u, 1000u}) {
        const auto wrong = [&](std::size_t i) { return i % wrongEvery == 0; };
        Run run(std::make_shared<ScriptedDrafter>(guessFrom(expected, 8, wrong)));
        run.write(count, with(Speculation(speculation), kSampled, healing));
        QCOMPARE(run.written(), count);
        QCOMPARE(run.problem(), QString());
        if (Speculation(speculation) != Speculation::TopBeta)
          QVERIFY(std::ranges::equal(run.session.text(),
                                     ByteView(expected).first(kPrompt.size() + count)));
      }
    }
  }

  void withoutHealingTheVerifierWritesOnToABoundary() {
    const Bytes expected = plainText(3000, kSampled);
    const auto wrong = [](std::size_t i) { return i % 5 == 0; };
    Run run(std::make_shared<ScriptedDrafter>(guessFrom(expected, 8, wrong)));
    run.write(3000, with(Speculation::Exact, kSampled, false));
    QVERIFY(run.session.text() == expected);
    QCOMPARE(run.problem(), QString());
    const auto isBoundary = [](Byte byte) { return byte == ' ' || byte == '\n'; };
    std::size_t boundaries = 0;
    for (const RoundRecord& round : run.rounds) {
      for (std::size_t i = 0; i < round.corrected; ++i) {
        const std::size_t at = round.position + round.accepted + i;
        const bool last = i + 1 == round.corrected;
        if (at + 1 == expected.size()) break;
        QCOMPARE(isBoundary(expected[at]), last);
        boundaries += last;
      }
    }
    QVERIFY(boundaries > 5);
  }

  void aCorrectionThatIsABoundaryEndsItsRound() {
    // The verifier's text is known, so let the draft fail exactly where a space or newline follows.
    const Bytes expected = plainText(3000, kSampled);
    const auto wrong = [&](std::size_t i) { return expected[i] == ' ' || expected[i] == '\n'; };
    Run run(std::make_shared<ScriptedDrafter>(guessFrom(expected, 8, wrong)));
    run.write(3000, with(Speculation::Exact, kSampled, false));
    std::size_t corrections = 0;
    for (const RoundRecord& round : run.rounds) {
      QVERIFY(round.corrected <= 1);
      corrections += round.corrected;
    }
    QVERIFY(corrections > 5);
    QVERIFY(run.session.text() == expected);
  }

  void topBetaAcceptsExactlyTheBetaMostProbable_data() {
    QTest::addColumn<int>("beta");
    for (const int beta : {0, 1, 3, 17, 100, 255, 256})
      QTest::newRow(qPrintable(QString::number(beta))) << beta;
  }
  void topBetaAcceptsExactlyTheBetaMostProbable() {
    QFETCH(int, beta);
    const auto ranks = static_cast<std::size_t>(beta);
    Random random(static_cast<std::uint32_t>(beta));
    // One guess in four just misses the rank in question, so that both outcomes occur.
    const auto guess = [&](ByteView text) {
      Bytes draft;
      while (draft.size() < 6) {
        Bytes whole(text.begin(), text.end());
        whole.insert(whole.end(), draft.begin(), draft.end());
        const auto logits = logitsAlong(*verifier(), whole).back();
        std::vector<Byte> order(256);
        for (std::size_t i = 0; i < 256; ++i) order[i] = static_cast<Byte>(i);
        std::ranges::sort(order, [&](Byte a, Byte b) { return logits[a] > logits[b]; });
        const bool within = ranks > 0 && random.below(4) > 0;
        draft.push_back(order[within ? random.below(ranks) : std::min<std::size_t>(ranks, 255)]);
      }
      return draft;
    };
    GenerationSettings settings = with(Speculation::TopBeta, kSampled);
    settings.beta = ranks;
    Run run(std::make_shared<ScriptedDrafter>(guess));
    run.write(120, settings);
    QCOMPARE(run.written(), std::size_t{120});
    QCOMPARE(run.problem(), QString());
    const auto along = logitsAlong(*verifier(), run.session.text());
    for (const RoundRecord& round : run.rounds) {
      for (std::size_t i = 0; i < round.tested(); ++i) {
        const std::size_t rank = rankOf(along[round.position + i], round.draft[i]);
        QCOMPARE(rank < ranks, i < round.accepted);
      }
    }
    if (beta == 0) QCOMPARE(countOf(run, Origin::Accepted), std::size_t{0});
    if (beta == 256) QCOMPARE(countOf(run, Origin::Corrected), std::size_t{0});
    if (beta > 0 && beta < 256) QVERIFY(countOf(run, Origin::Corrected) > 0);
    if (beta > 0) QVERIFY(countOf(run, Origin::Accepted) > 0);
    // What the verifier adds itself is drawn as always.
    for (const ByteRecord& record : run.records) {
      const auto i = static_cast<std::size_t>(&record - run.records.data());
      if (record.origin == Origin::Corrected || record.origin == Origin::Bonus)
        QCOMPARE(Sampler(kSampled).draw(along[i], i, ByteView(run.session.text()).first(i)),
                 Token{record.byte});
    }
  }

  void noDraftTokensMeansPlainDecoding() {
    GenerationSettings settings = with(Speculation::Exact, kSampled);
    settings.draftTokens = 0;
    Run run(std::make_shared<ScriptedDrafter>(guessFrom(plainText(20, kSampled), 8)));
    run.write(20, settings);
    QVERIFY(run.rounds.empty());
    QCOMPARE(countOf(run, Origin::Plain), std::size_t{20});
  }

  void roundsAreNumberedAcrossRuns() {
    const Bytes expected = plainText(90, kSampled);
    Run run(std::make_shared<ScriptedDrafter>(guessFrom(expected, 4)));
    for (int i = 0; i < 3; ++i) run.write(30, with(Speculation::Exact, kSampled));
    QVERIFY(run.session.text() == expected);
    QCOMPARE(run.problem(), QString());  // checks that the numbers run on
    QCOMPARE(run.rounds.front().index, 0);
  }

  void theDrafterHearsItsSettings() {
    const auto drafter = std::make_shared<ScriptedDrafter>([](ByteView) { return Bytes(); });
    GenerationSettings settings = with(Speculation::Exact, kSampled, false);
    settings.leastConfidence = 0.3;
    Run(drafter).write(1, settings);
    QCOMPARE(drafter->settings.healing, false);
    QCOMPARE(drafter->settings.leastConfidence, 0.3);
    QVERIFY(drafter->settings.sampler == kSampled);
  }

  void aStopLeavesWhatWasReportedAndALaterRunGoesOn_data() {
    QTest::addColumn<int>("speculation");
    QTest::addColumn<int>("wrongEvery");
    QTest::addColumn<bool>("healing");
    QTest::newRow("plain") << 0 << 1 << true;
    for (const int wrongEvery : {2, 7, 1000})
      for (const bool healing : {true, false})
        QTest::newRow(qPrintable(
            QString("wrong every %1%2").arg(wrongEvery).arg(healing ? "" : ", no healing")))
            << 1 << wrongEvery << healing;
  }
  void aStopLeavesWhatWasReportedAndALaterRunGoesOn() {
    QFETCH(int, speculation);
    QFETCH(int, wrongEvery);
    QFETCH(bool, healing);
    const Bytes expected = plainText(80, kSampled);
    const auto wrong = [&](std::size_t i) { return i % unsigned(wrongEvery) == 0; };
    for (std::size_t after = 1; after < 60; after += 3) {
      StoppingRun run(std::make_shared<ScriptedDrafter>(guessFrom(expected, 8, wrong)));
      run.stopAt = kPrompt.size() + after;
      const GenerationSettings settings = with(Speculation(speculation), kSampled, healing);
      QVERIFY(thrown<Stopped>([&] { run.write(80, settings, run.source.get_token()); }));
      QVERIFY(run.bytes() == run.session.text());
      QVERIFY(run.written() >= after && run.written() < after + 10);
      QCOMPARE(run.problem(false), QString());
      run.rounds.clear();
      const std::size_t start = run.session.text().size();
      run.write(80 - run.written(), settings);
      QVERIFY(run.session.text() == expected);
      QCOMPARE(QString::fromStdString(problemOf(run, start)), QString());
    }
  }

  void aStopThatCameBeforeWritesNothing() {
    std::stop_source source;
    source.request_stop();
    Run run(nullptr);
    const auto settings = with(Speculation::Off, kGreedy);
    QVERIFY(thrown<Stopped>([&] { run.write(10, settings, source.get_token()); }));
    QCOMPARE(run.written(), std::size_t{0});
    QVERIFY(run.write(10, settings).session.text() == plainText(10, kGreedy));
  }

  void theCursorReadsEveryByteOnce() {
    const Bytes text = plainText(60, kSampled);
    const auto runner = verifier()->newRunner();
    Cursor cursor(*verifier(), *runner);
    std::uint64_t next = 0;
    bool contiguous = true;
    cursor.onRead([&](std::uint64_t first, std::size_t count, const TapBlock&) {
      contiguous = contiguous && first == next && count > 0;
      next = first + count;
    });
    const auto along = logitsAlong(*verifier(), text);
    const auto agrees = [&](std::size_t guess, std::size_t at) {
      return std::ranges::equal(cursor.expected(guess), along[at]);
    };
    QVERIFY(cursor.expected(0).empty());
    std::vector<Token> tokens(text.begin(), text.end());
    cursor.read(TokenView(tokens).first(10), {});
    QVERIFY(agrees(0, 10));
    cursor.look(TokenView(tokens).subspan(10, 8), {});  // nothing pending
    for (std::size_t i = 0; i <= 8; ++i) QVERIFY(agrees(i, 10 + i));
    cursor.accept(0);
    QCOMPARE(cursor.position(), std::uint64_t{10});
    QVERIFY(agrees(0, 10));
    cursor.push(tokens[10]);
    QVERIFY(cursor.hasPending());
    cursor.look(TokenView(tokens).subspan(11, 8), {});  // behind the pending byte
    for (std::size_t i = 0; i <= 8; ++i) QVERIFY(agrees(i, 11 + i));
    cursor.accept(3);
    QCOMPARE(cursor.position(), std::uint64_t{14});
    QVERIFY(agrees(0, 14));
    cursor.push(tokens[14]);
    cursor.settle({});
    QVERIFY(agrees(0, 15));
    const Snapshot snapshot = cursor.snapshot();
    cursor.read(TokenView(tokens).subspan(15, 20), {});
    QVERIFY(agrees(0, 35));
    QCOMPARE(next, std::uint64_t{35});
    QVERIFY(contiguous);
    cursor.restart(snapshot);
    QVERIFY(agrees(0, 15));
    QCOMPARE(cursor.position(), std::uint64_t{15});
    cursor.restart();
    QVERIFY(cursor.expected(0).empty());
  }
};

QTEST_GUILESS_MAIN(GeneratorTest)
#include "test_generator.moc"
