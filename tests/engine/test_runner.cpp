// Runner::advance and rewind: chunks, threads and taps change nothing, down to the last bit.
#include <QtTest>
#include <algorithm>

#include "engine/error.h"
#include "kernels/cpu/ops.h"
#include "tests/support/model_files.h"
#include "tests/support/random_state.h"
#include "tests/support/random_values.h"
#include "tests/support/scalar_mamba.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"

using namespace mb;
using namespace mb::test;

namespace {

constexpr std::size_t kLongest = 64;

using Logits = std::vector<float>;

Logits copyOf(std::span<const float> logits) {
  return {logits.begin(), logits.end()};
}

/// States and logits after each of up to 64 tokens, one call a token.
struct Steps {
  Steps(const Model& model, Random& random)
      : tokens(random.tokens(kLongest, model.config().vocabSize)),
        states{randomState(model, random)} {
    const auto runner = model.newRunner();
    for (const Token token : tokens) {
      State next = model.newState();
      runner->advance(states.back(), next, {&token, 1}, {});
      states.push_back(next);
      logits.push_back(copyOf(runner->logits(0)));
    }
  }
  TokenView first(std::size_t count) const { return TokenView(tokens).first(count); }

  std::vector<Token> tokens;
  std::vector<State> states;   ///< [i]: after i tokens
  std::vector<Logits> logits;  ///< [i]: after i + 1 tokens
};

std::unique_ptr<WeightSource> weightsOf(const QString& name) {
  if (name == "odd-shapes") return std::make_unique<Checkpoint>(goldenFolder("odd-shapes"));
  ModelConfig config = smallConfig();
  config.layers = 3;
  if (name == "one tap") config.dConv = 1;
  if (name == "wide") {  // more taps than a short chunk has tokens, and a vocabulary of its own
    config.dConv = 9;
    config.dState = 20;
    config.vocabSize = 300;
  }
  return std::make_unique<MemoryWeights>(config, 11);
}

std::shared_ptr<const Model> small(std::size_t threads) {
  return modelOf(*weightsOf("small"), WeightPrecision::Float32, threads);
}

const scalar::Values& valuesOf(const scalar::LayerTaps& taps, TapKind kind) {
  if (kind == TapKind::Delta) return taps.delta;
  return kind == TapKind::StateNorm ? taps.stateNorm : taps.decay;
}

double mean(const scalar::Values& values, std::size_t begin, std::size_t end) {
  double sum = 0;
  for (std::size_t i = begin; i < end; ++i) sum += values[i];
  return sum / static_cast<double>(end - begin);
}

/// Of positive values that a few hundred float32 operations led to.
bool isClose(double got, double expected) {
  return std::abs(got - expected) < 1e-4 * expected;
}

constexpr const char* kModels[] = {"small", "odd-shapes", "one tap", "wide"};

}  // namespace

class RunnerTest : public QObject {
  Q_OBJECT

 private slots:
  void aChunkIsItsStepsBitForBit_data() { addModels(true); }
  void aChunkIsItsStepsBitForBit() {
    const auto model = fetchModel(1);
    const auto runner = model->newRunner();
    Random random(1);
    const Steps steps(*model, random);
    State state = model->newState();
    for (std::size_t count = 1; count <= kLongest; ++count) {
      runner->advance(steps.states[0], state, steps.first(count), {});
      QVERIFY(state == steps.states[count]);
      for (std::size_t i = 0; i < count; ++i) QVERIFY(copyOf(runner->logits(i)) == steps.logits[i]);
    }
  }

  void twoChunksAreOne_data() { aChunkIsItsStepsBitForBit_data(); }
  void twoChunksAreOne() {
    const auto model = fetchModel(1);
    const auto runner = model->newRunner();
    Random random(2);
    const Steps steps(*model, random);
    State state = model->newState();
    for (int trial = 0; trial < 12; ++trial) {
      const std::size_t split = 1 + random.below(kLongest - 1);
      runner->advance(steps.states[0], state, steps.first(split), {LogitsWanted::None, {}, {}});
      runner->advance(state, state, TokenView(steps.tokens).subspan(split), {});
      QVERIFY(state == steps.states[kLongest]);
      for (std::size_t i = split; i < kLongest; ++i)
        QVERIFY(copyOf(runner->logits(i - split)) == steps.logits[i]);
    }
  }

  void threadsDoNotChangeABit_data() { addModels(); }
  void threadsDoNotChangeABit() {
    Random random(3);
    const Steps expected(*fetchModel(1), random);
    for (const std::size_t threads : {2u, 3u}) {
      const auto model = fetchModel(threads);
      const auto runner = model->newRunner();
      State state = model->newState();
      for (const std::size_t count : {1u, 2u, 5u, 17u, 64u}) {
        runner->advance(expected.states[0], state, expected.first(count), {});
        QVERIFY(state == expected.states[count]);
        for (std::size_t i = 0; i < count; ++i)
          QVERIFY(copyOf(runner->logits(i)) == expected.logits[i]);
      }
    }
  }

  void fewerLogitsChangeNothingElse_data() { addModels(); }
  void fewerLogitsChangeNothingElse() {
    const auto model = fetchModel(2);
    const auto runner = model->newRunner();
    Random random(4);
    const Steps steps(*model, random);
    State state = model->newState();
    for (const std::size_t count : {1u, 3u, 31u, 64u}) {
      runner->advance(steps.states[0], state, steps.first(count), {LogitsWanted::Last, {}, {}});
      QVERIFY(state == steps.states[count]);
      for (const std::size_t ignored : {std::size_t{0}, count - 1})
        QVERIFY(copyOf(runner->logits(ignored)) == steps.logits[count - 1]);
      runner->advance(steps.states[0], state, steps.first(count), {LogitsWanted::None, {}, {}});
      QVERIFY(state == steps.states[count]);
    }
  }

  void advancingInPlaceIsTheSame_data() { addModels(); }
  void advancingInPlaceIsTheSame() {
    const auto model = fetchModel(2);
    const auto runner = model->newRunner();
    Random random(5);
    const Steps steps(*model, random);
    for (const std::size_t count : {1u, 2u, 3u, 8u, 64u}) {
      State state = steps.states[0];
      runner->advance(state, state, steps.first(count), {});
      QVERIFY(state == steps.states[count]);
      QVERIFY(copyOf(runner->logits(count - 1)) == steps.logits[count - 1]);
    }
  }

  void rewindingIsNeverHavingReadTheRest_data() { aChunkIsItsStepsBitForBit_data(); }
  void rewindingIsNeverHavingReadTheRest() {
    const auto model = fetchModel(2);
    const auto runner = model->newRunner();
    Random random(6);
    const Steps steps(*model, random);
    State state = model->newState();
    for (const std::size_t count : {1u, 2u, 7u, 32u}) {
      for (std::size_t kept = 0; kept <= count; ++kept) {
        runner->advance(steps.states[0], state, steps.first(count), {});
        runner->rewind(steps.states[0], state, kept);
        QVERIFY(state == steps.states[kept]);
        QVERIFY(copyOf(runner->logits(count - 1)) == steps.logits[count - 1]);
      }
    }
  }

  void rewindingSeveralTimesGoesAnywhere() {
    const auto model = small(2);
    const auto runner = model->newRunner();
    Random random(7);
    const Steps steps(*model, random);
    State state = model->newState();
    runner->advance(steps.states[0], state, steps.first(9), {});
    for (const std::size_t kept : {5u, 8u, 0u, 2u, 9u}) {
      runner->rewind(steps.states[0], state, kept);
      QVERIFY2(state == steps.states[kept], qPrintable(QString("to %1 of 9").arg(kept)));
    }
  }

  void rewindingFillsAnyState() {
    const auto model = small(2);
    const auto runner = model->newRunner();
    Random random(8);
    const Steps steps(*model, random);
    State state = model->newState();
    runner->advance(steps.states[0], state, steps.first(6), {});
    for (const std::size_t kept : {0u, 3u, 6u}) {
      State other = model->newState();
      runner->rewind(steps.states[0], other, kept);
      QVERIFY2(other == steps.states[kept], qPrintable(QString("to %1 of 6").arg(kept)));
    }
  }

  void noTokensLeaveTheStateAsItWas() {
    const auto model = small(2);
    const auto runner = model->newRunner();
    Random random(9);
    const Steps steps(*model, random);
    State state = model->newState();
    runner->advance(steps.states[0], state, steps.first(3), {});
    runner->advance(steps.states[3], state, {}, {LogitsWanted::None, {}, {}});
    QVERIFY(state == steps.states[3]);
  }

  void refusesTokensOutsideTheVocabulary() {
    const auto model = modelOf(*weightsOf("wide"), WeightPrecision::Float32, 2);
    const auto runner = model->newRunner();
    State state = model->newState();
    for (const Token wrong : {-1, 300, 1 << 30}) {
      const std::vector<Token> tokens{1, wrong, 2};
      const auto error = thrown<RequestError>([&] { runner->advance(state, state, tokens, {}); });
      QVERIFY(error);
      QVERIFY(mentions(error->what(), std::to_string(wrong), "300"));
      QVERIFY(state == model->newState());
    }
  }

  void refusesChunksThatAreTooLong() {
    const auto model = small(1);
    const auto runner = model->newRunner();
    State state = model->newState();
    const std::vector<Token> tokens(runner->maxChunk() + 1, 65);
    QVERIFY(thrown<RequestError>([&] { runner->advance(state, state, tokens, {}); }));
    QVERIFY(state == model->newState());
    runner->advance(state, state, TokenView(tokens).first(runner->maxChunk()), {});
    QCOMPARE(state.position(), runner->maxChunk());
  }

  void aStopLeavesTheOriginUsable() {
    const auto model = small(3);
    const auto runner = model->newRunner();
    Random random(10);
    const Steps steps(*model, random);
    std::stop_source source;
    source.request_stop();
    const State from = steps.states[0];
    State to = model->newState();
    for (const std::size_t count : {1u, 64u}) {
      QVERIFY(thrown<Stopped>([&] {
        runner->advance(from, to, steps.first(count), {LogitsWanted::All, {}, source.get_token()});
      }));
      QVERIFY(from == steps.states[0]);
      runner->advance(from, to, steps.first(count), {});
      QVERIFY(to == steps.states[count]);
    }
  }

  void watchingChangesNothing_data() { addModels(); }
  void watchingChangesNothing() {
    const auto model = fetchModel(2);
    const auto runner = model->newRunner();
    Random random(11);
    const Steps steps(*model, random);
    State state = model->newState();
    for (const std::size_t count : {1u, 9u, 64u}) {  // growing, so that scratch memory is replaced
      runner->advance(steps.states[0], state, steps.first(count), {});
      QCOMPARE(runner->taps().count, std::size_t{0});
      const TapRequest taps{true, 1, 4};
      runner->advance(steps.states[0], state, steps.first(count), {LogitsWanted::All, taps, {}});
      QCOMPARE(runner->taps().count, count);
      QVERIFY(state == steps.states[count]);
      for (std::size_t i = 0; i < count; ++i) QVERIFY(copyOf(runner->logits(i)) == steps.logits[i]);
    }
  }

  void tapsAreMeansOverChannels_data() {
    QTest::addColumn<QString>("name");
    QTest::addColumn<int>("bins");
    for (const char* name : kModels)
      for (const int bins : {1, 3, 64})
        QTest::newRow(qPrintable(QString("%1, %2 bins").arg(name).arg(bins)))
            << QString(name) << bins;
  }
  void tapsAreMeansOverChannels() {
    QFETCH(QString, name);
    QFETCH(int, bins);
    const auto weights = weightsOf(name);
    const auto model = modelOf(*weights, WeightPrecision::Float32, 2);
    scalar::Mamba reference(*weights);
    const auto runner = model->newRunner();
    const ModelConfig& c = model->config();
    Random random(12);
    const std::vector<Token> tokens = random.tokens(20, c.vocabSize);
    const TapRequest request{true, 1, static_cast<std::size_t>(bins)};
    State state = model->newState();
    runner->advance(state, state, tokens, {LogitsWanted::None, request, {}});
    const TapBlock& taps = runner->taps();
    const std::size_t groups = (c.dInner + 15) / 16;
    QCOMPARE(taps.layers, c.layers);
    QCOMPARE(taps.layer, std::size_t{1});
    QCOMPARE(taps.bins, std::min<std::size_t>(request.bins, groups));
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      const auto step = reference.step(tokens[t]);
      for (const TapKind kind : {TapKind::Delta, TapKind::StateNorm, TapKind::Decay}) {
        for (std::size_t layer = 0; layer < c.layers; ++layer) {
          const auto& values = valuesOf(step.layers[layer], kind);
          QVERIFY(isClose(taps.layerValue(t, kind, layer), mean(values, 0, values.size())));
        }
        const auto& values = valuesOf(step.layers[1], kind);
        for (std::size_t bin = 0; bin < taps.bins; ++bin) {
          const std::size_t begin = groups * bin / taps.bins * 16;
          const std::size_t end = std::min(c.dInner, groups * (bin + 1) / taps.bins * 16);
          QVERIFY(isClose(taps.channelValue(t, kind, bin), mean(values, begin, end)));
        }
      }
    }
  }

  void aLayerThatDoesNotExistShowsTheLast() {
    const auto model = small(1);
    const auto runner = model->newRunner();
    State state = model->newState();
    const std::vector<Token> tokens{1, 2, 3};
    runner->advance(state, state, tokens, {LogitsWanted::None, {true, 99, 0}, {}});
    QCOMPARE(runner->taps().layer, std::size_t{2});
    QCOMPARE(runner->taps().bins, std::size_t{1});
  }

  // Forms that no golden covers: LayerNorm with bias, a head of its own, no convolution bias.
  void agreesWithTheScalarTwin_data() {
    QTest::addColumn<bool>("layerNorm");
    QTest::addColumn<bool>("ownHead");
    QTest::addColumn<bool>("biases");
    for (const bool layerNorm : {false, true})
      for (const bool ownHead : {false, true})
        for (const bool biases : {false, true})
          QTest::newRow(qPrintable(QString("%1%2%3").arg(layerNorm ? "LayerNorm" : "RMSNorm",
                                                         ownHead ? ", own head" : "",
                                                         biases ? ", biases" : "")))
              << layerNorm << ownHead << biases;
  }
  void agreesWithTheScalarTwin() {
    QFETCH(bool, layerNorm);
    QFETCH(bool, ownHead);
    QFETCH(bool, biases);
    ModelConfig config = smallConfig();
    config.dModel = 24;
    config.dInner = 72;
    config.dtRank = 3;
    config.norm = layerNorm ? NormKind::Layer : NormKind::Rms;
    config.normEpsilon = 1e-3;
    config.tiedHead = !ownHead;
    config.projectionBias = biases;
    config.convBias = !biases;
    const TemporaryFolder folder;
    writeModel(folder.path(), config, randomTensors(config, 21));
    const auto model = openModel(folder.path());
    QVERIFY(model->config() == config);
    const auto runner = model->newRunner();
    scalar::Mamba reference(Checkpoint(folder.path()));
    Random random(13);
    const std::vector<Token> tokens = random.tokens(50, 256);
    State state = model->newState();
    runner->advance(state, state, tokens, {});
    for (std::size_t t = 0; t < tokens.size(); ++t)
      QVERIFY(relativeError(runner->logits(t), reference.step(tokens[t]).logits) < 1e-5);
    for (std::size_t layer = 0; layer < config.layers; ++layer)
      for (std::size_t channel = 0; channel < config.dInner; ++channel)
        for (std::size_t n = 0; n < config.dState; ++n)
          QVERIFY(std::abs(state.hiddenValue(layer, channel, n) -
                           reference.hidden(layer)[channel][n]) < 1e-4);
  }

 private:
  static std::shared_ptr<const Model> fetchModel(std::size_t threads) {
    QFETCH(QString, name);
    QFETCH(bool, rounded);
    QFETCH(QString, simd);
    const auto precision = rounded ? WeightPrecision::BFloat16 : WeightPrecision::Float32;
    return modelOf(*weightsOf(name), precision, threads, simd.toStdString());
  }
  static void addModels(bool everyLevel = false) {
    QTest::addColumn<QString>("name");
    QTest::addColumn<bool>("rounded");
    QTest::addColumn<QString>("simd");
    QStringList levels{""};
    if (everyLevel)
      for (const cpu::SimdLevel& level : cpu::availableSimdLevels())
        levels.append(QString::fromStdString(std::string(level.name)));
    levels = everyLevel ? levels.mid(1) : levels;
    for (const char* name : kModels)
      for (const bool rounded : {false, true})
        for (const QString& simd : levels)
          QTest::newRow(qPrintable(QString("%1 %2 %3").arg(name, rounded ? "bf16" : "f32", simd)))
              << QString(name) << rounded << simd;
  }
};

QTEST_GUILESS_MAIN(RunnerTest)
#include "test_runner.moc"
