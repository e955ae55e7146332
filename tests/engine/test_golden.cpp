// The engine against what the transformers reference computed, at every instruction set.
#include <QtTest>
#include <cmath>

#include "engine/decoding/sampler.h"
#include "engine/model/devices.h"
#include "kernels/cpu/ops.h"
#include "tests/support/random_values.h"
#include "tests/support/scalar_mamba.h"
#include "tests/support/test_models.h"

using namespace mb;
using namespace mb::test;

namespace {

/// What the task asks of float32 weights: relative to the norm of each vector.
constexpr double kTolerance = 1e-4;

double surprisal(std::span<const float> logits, Token token) {
  const double top = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum) - logits[static_cast<std::size_t>(token)];
}

/// A golden model that has read its inputs in one chunk.
struct Reading {
  Reading(const std::string& name, WeightPrecision precision, const std::string& simd,
          std::size_t threads)
      : golden(loadGolden(name)),
        model(openModel(goldenFolder(name), precision, simd, threads)),
        runner(model->newRunner()),
        state(model->newState()) {
    runner->advance(state, state, golden.inputs, {});
  }

  std::size_t vocabulary() const { return model->config().vocabSize; }
  std::span<const float> expectedLogits(std::size_t i) const {
    return std::span(golden.logits).subspan(i * vocabulary(), vocabulary());
  }
  double worstLogits() const {
    double worst = 0;
    for (std::size_t i = 0; i < golden.inputs.size(); ++i)
      worst = std::max(worst, relativeError(runner->logits(i), expectedLogits(i)));
    return worst;
  }
  double worstSurprisal() const {
    double worst = 0;
    for (std::size_t i = 0; i + 1 < golden.inputs.size(); ++i) {
      const double got = surprisal(runner->logits(i), golden.inputs[i + 1]);
      worst = std::max(worst, std::abs(got - golden.nll[i]) / golden.nll[i]);
    }
    return worst;
  }
  double worstHidden() const {
    const ModelConfig& c = model->config();
    double worst = 0;
    for (std::size_t layer = 0; layer < c.layers; ++layer) {
      std::vector<float> got;
      for (std::size_t i = 0; i < c.dInner * c.dState; ++i)
        got.push_back(state.hiddenValue(layer, i / c.dState, i % c.dState));
      worst = std::max(worst, relativeError(got, golden.hidden[layer]));
    }
    return worst;
  }
  /// The reference keeps the last k inputs of a channel, the engine the k-1 it still needs.
  double worstConvolution() const {
    const ModelConfig& c = model->config();
    double worst = 0;
    for (std::size_t layer = 0; layer < c.layers; ++layer) {
      std::vector<float> got, expected;
      for (std::size_t channel = 0; channel < c.dInner; ++channel) {
        for (std::size_t i = 0; i + 1 < c.dConv; ++i) {
          got.push_back(state.convolution(layer)[i * state.shape().stride() + channel]);
          expected.push_back(golden.convolution[layer][channel * c.dConv + i + 1]);
        }
      }
      worst = std::max(worst, relativeError(got, expected));
    }
    return worst;
  }
  std::vector<Token> greedy48() {
    std::vector<Token> written{argmax(runner->logits(golden.inputs.size() - 1))};
    while (written.size() < 48) {
      runner->advance(state, state, {&written.back(), 1}, {});
      written.push_back(argmax(runner->logits(0)));
    }
    return written;
  }

  Golden golden;
  std::shared_ptr<const Model> model;
  std::unique_ptr<Runner> runner;
  State state;
};

QString nameOf(const std::string& text) {
  return QString::fromStdString(text);
}

}  // namespace

class GoldenTest : public QObject {
  Q_OBJECT

 private slots:
  void reproducesTheReference_data() {
    QTest::addColumn<QString>("golden");
    QTest::addColumn<QString>("simd");
    QTest::addColumn<int>("threads");
    const auto levels = cpu::availableSimdLevels();
    for (const std::string& golden : goldenNames()) {
      for (const cpu::SimdLevel& level : levels) addRow(golden, level, 1);
      for (const int threads : {2, 3}) addRow(golden, levels.front(), threads);
    }
  }
  void reproducesTheReference() {
    QFETCH(QString, golden);
    QFETCH(QString, simd);
    QFETCH(int, threads);
    Reading reading(golden.toStdString(), WeightPrecision::Float32, simd.toStdString(),
                    static_cast<std::size_t>(threads));
    QVERIFY(reading.golden.inputs.size() > 10);
    QVERIFY2(reading.worstLogits() < kTolerance, qPrintable(shown(reading.worstLogits())));
    QVERIFY2(reading.worstSurprisal() < kTolerance, qPrintable(shown(reading.worstSurprisal())));
    QVERIFY2(reading.worstHidden() < kTolerance, qPrintable(shown(reading.worstHidden())));
    QVERIFY2(reading.worstConvolution() < kTolerance,
             qPrintable(shown(reading.worstConvolution())));
    QCOMPARE(reading.state.position(), reading.golden.inputs.size());
    QCOMPARE(reading.greedy48(), reading.golden.greedy48);
  }

  // Storing a weight as bfloat16 moves it by at most 2^-9 of itself, so a product moves by about
  // 2^-9 of its norm whatever its length. Roundings behind the factors of a layer's output
  // (Δ u' B) C SiLU(z) W_out: u' 1, z 1, B and C 2 each, Δ 3, W_out 1, together 10; and one each
  // for embedding and head. Were all of them to add up, nothing cancelling, the logits would move
  // by (10 L + 2) · 2^-9 at first order; twice that leaves room for what a layer makes of the error
  // of its input. The tight test is the next one.
  void roundedWeightsStayWithinTheirRounding_data() { addGoldens(); }
  void roundedWeightsStayWithinTheirRounding() {
    QFETCH(QString, golden);
    const Reading reading(golden.toStdString(), WeightPrecision::BFloat16, "", 2);
    const double roundings = 10.0 * static_cast<double>(reading.model->config().layers) + 2;
    const double worst = reading.worstLogits();
    QVERIFY2(worst < 2 * roundings * 0x1p-9, qPrintable(shown(worst)));
    QVERIFY2(worst > 1e-5, "the weights were not rounded at all");
  }

  // The tight counterpart: the same rounding done beforehand, the rest in double precision. AMX
  // rounds the inputs of products, too.
  void roundedWeightsAreTheOnlyDifference_data() {
    QTest::addColumn<QString>("golden");
    QTest::addColumn<QString>("simd");
    for (const std::string& golden : goldenNames())
      for (const cpu::SimdLevel& level : cpu::availableSimdLevels())
        QTest::newRow(qPrintable(nameOf(golden) + " " + nameOf(std::string(level.name))))
            << nameOf(golden) << nameOf(std::string(level.name));
  }
  void roundedWeightsAreTheOnlyDifference() {
    QFETCH(QString, golden);
    QFETCH(QString, simd);
    const Reading reading(golden.toStdString(), WeightPrecision::BFloat16, simd.toStdString(), 1);
    scalar::Mamba reference(Checkpoint(goldenFolder(golden.toStdString())), true);
    const double tolerance = simd == "amx" ? 1e-1 : kTolerance;
    for (std::size_t i = 0; i < reading.golden.inputs.size(); ++i) {
      const auto expected = reference.step(reading.golden.inputs[i]).logits;
      const double error = relativeError(reading.runner->logits(i), expected);
      QVERIFY2(error < tolerance, qPrintable(shown(error)));
    }
  }

  // Guards the reference used where there are no golden vectors.
  void theScalarTwinReproducesTheReferenceToo_data() { addGoldens(); }
  void theScalarTwinReproducesTheReferenceToo() {
    QFETCH(QString, golden);
    const Golden expected = loadGolden(golden.toStdString());
    const Checkpoint checkpoint(goldenFolder(golden.toStdString()));
    const std::size_t vocabulary = checkpoint.config().vocabSize;
    scalar::Mamba reference(checkpoint);
    for (std::size_t i = 0; i < expected.inputs.size(); ++i) {
      const auto logits = reference.step(expected.inputs[i]).logits;
      QVERIFY(relativeError(logits,
                            std::span(expected.logits).subspan(i * vocabulary, vocabulary)) < 1e-5);
    }
  }

 private:
  static QString shown(double error) { return QString("relative error %1").arg(error); }
  static void addRow(const std::string& golden, const cpu::SimdLevel& level, int threads) {
    const QString simd = nameOf(std::string(level.name));
    QTest::newRow(qPrintable(QString("%1 %2 x%3").arg(nameOf(golden), simd).arg(threads)))
        << nameOf(golden) << simd << threads;
  }
  static void addGoldens() {
    QTest::addColumn<QString>("golden");
    for (const std::string& golden : goldenNames()) QTest::newRow(golden.c_str()) << nameOf(golden);
  }
};

QTEST_GUILESS_MAIN(GoldenTest)
#include "test_golden.moc"
