// The backward pass against finite differences, the forward pass against the engine, and segments
// against one another.
#include <QtTest>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/checkpoint/safetensors.h"
#include "engine/error.h"
#include "engine/training/gradient.h"
#include "tests/support/model_files.h"
#include "tests/support/random_values.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"

using namespace mb;
using namespace mb::test;

namespace {

/// Small, but with extents that all differ.
ModelConfig tinyConfig(bool tied, bool convBias) {
  ModelConfig config;
  config.vocabSize = 11;
  config.dModel = 6;
  config.dInner = 10;
  config.dState = 3;
  config.dConv = 4;
  config.dtRank = 2;
  config.layers = 2;
  config.tiedHead = tied;
  config.convBias = convBias;
  return config;
}

/// Tokens of a text and what a segment of it starts with.
struct Text {
  Text(const ModelConfig& config, std::size_t size, std::uint32_t seed) {
    Random random(seed);
    const std::vector<Token> tokens = random.tokens(size + 1, config.vocabSize);
    inputs.assign(tokens.begin(), tokens.end() - 1);
    targets.assign(tokens.begin() + 1, tokens.end());
    state = emptyState<double>(config);
    for (double& value : state) value = 0.6 * (double(random.below(2001)) / 1000 - 1);
  }
  std::vector<Token> inputs;
  std::vector<Token> targets;
  std::vector<double> state;
};

std::vector<double> widen(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

/// All weights of a model, none of them trivial.
std::vector<double> weightsOf(const ParameterLayout& layout) {
  return widen(readParameters(layout, MemoryWeights(layout.config(), 3)));
}

double lossOf(Backprop<double>& backprop, const std::vector<double>& weights, const Text& text,
              double scale, std::span<double> gradient = {}, std::span<double> stateGradient = {}) {
  std::vector<double> stateOut(text.state.size());
  return backprop.run(weights,
                      {.inputs = text.inputs,
                       .targets = text.targets,
                       .stateIn = text.state,
                       .stateOut = stateOut,
                       .gradient = gradient,
                       .stateGradient = stateGradient},
                      scale);
}

}  // namespace

class GradientTest : public QObject {
  Q_OBJECT

 private slots:
  void agreesWithFiniteDifferences_data() {
    QTest::addColumn<bool>("tied");
    QTest::addColumn<bool>("convBias");
    QTest::addColumn<int>("tokens");
    QTest::addColumn<int>("counts");  // every how many-th target
    QTest::newRow("one token") << true << true << 1 << 1;
    QTest::newRow("fewer than taps") << false << true << 2 << 1;
    QTest::newRow("tied") << true << true << 9 << 1;
    QTest::newRow("with a head of its own, no bias") << false << false << 9 << 1;
    QTest::newRow("across kept states") << true << true << 70 << 1;
    QTest::newRow("some targets do not count") << false << true << 70 << 3;
  }
  void agreesWithFiniteDifferences() {
    QFETCH(bool, tied);
    QFETCH(bool, convBias);
    QFETCH(int, tokens);
    QFETCH(int, counts);
    const ParameterLayout layout(tinyConfig(tied, convBias));
    Backprop<double> backprop(layout);
    std::vector<double> weights = weightsOf(layout);
    Text text(layout.config(), std::size_t(tokens), 5);
    for (std::size_t i = 0; i < text.targets.size(); ++i)
      if ((i + 1) % std::size_t(counts) != 0) text.targets[i] = kNoTarget;
    constexpr double kScale = 0.25;
    std::vector<double> gradient(layout.size());
    std::vector<double> stateGradient(text.state.size());
    lossOf(backprop, weights, text, kScale, gradient, stateGradient);
    const auto difference = [&](double& value) {
      constexpr double kStep = 1e-5;
      const double kept = value;
      value = kept + kStep;
      const double above = lossOf(backprop, weights, text, kScale);
      value = kept - kStep;
      const double below = lossOf(backprop, weights, text, kScale);
      value = kept;
      return (above - below) / (2 * kStep);
    };
    const auto agree = [](double found, double expected) {
      return std::abs(found - expected) <= 1e-7 + 1e-5 * std::abs(expected);
    };
    for (const Parameter& parameter : layout.parameters()) {
      double largest = 0;
      for (std::size_t i = 0; i < parameter.size; ++i) {
        const double expected = difference(weights[parameter.offset + i]);
        const double found = gradient[parameter.offset + i];
        largest = std::max(largest, std::abs(expected));
        QVERIFY2(agree(found, expected), qPrintable(QString("%1[%2]: %3, not %4")
                                                        .arg(parameter.name.c_str())
                                                        .arg(i)
                                                        .arg(found)
                                                        .arg(expected)));
      }
      QVERIFY2(largest > 1e-6 || tokens < 9, parameter.name.c_str());
    }
    for (std::size_t i = 0; i < text.state.size(); ++i) {
      const double expected = difference(text.state[i]);
      QVERIFY2(
          agree(stateGradient[i], expected),
          qPrintable(QString("state %1: %2, not %3").arg(i).arg(stateGradient[i]).arg(expected)));
    }
  }

  /// Goldens are rounded to float32: 2^-24 of each value.
  void agreesWithAutogradOfPyTorch_data() {
    QTest::addColumn<QString>("name");
    for (const char* name : {"tied", "own-head", "deep"}) QTest::newRow(name) << name;
  }
  void agreesWithAutogradOfPyTorch() {
    QFETCH(QString, name);
    const auto folder = std::filesystem::path(MB_TEST_DATA) / "gradients" / name.toStdString();
    const Checkpoint checkpoint(folder);
    const ParameterLayout layout(checkpoint.config());
    const auto expected = nlohmann::json::parse(readFile(folder / "expected.json"));
    const auto tokens = expected.at("tokens").get<std::vector<Token>>();
    Text text(layout.config(), 0, 0);
    text.inputs.assign(tokens.begin(), tokens.end() - 1);
    text.targets.assign(tokens.begin() + 1, tokens.end());
    std::ranges::fill(text.state, 0);
    Backprop<double> backprop(layout);
    std::vector<double> gradient(layout.size());
    const double loss =
        lossOf(backprop, widen(readParameters(layout, checkpoint)), text, 1, gradient);
    const double expectedLoss = expected.at("loss_nats");
    QVERIFY(std::abs(loss - expectedLoss) < 1e-7 * expectedLoss);
    const auto goldens = readSafetensors(folder / "gradient.safetensors");
    QCOMPARE(goldens.size(), layout.parameters().size());
    for (const Parameter& parameter : layout.parameters()) {
      std::vector<float> golden(parameter.size);
      goldens.at(parameter.name).read(0, golden);
      const auto found = std::span(gradient).subspan(parameter.offset, parameter.size);
      const double error = relativeError(found, golden);
      QVERIFY2(error < 1e-6, qPrintable(QString("%1: %2").arg(parameter.name.c_str()).arg(error)));
    }
  }

  /// Finite differences would agree, too, with targets that count though they should not.
  void whatCountsAndWhatDoesNotAddUp() {
    const ParameterLayout layout(tinyConfig(true, true));
    Backprop<double> backprop(layout);
    const std::vector<double> weights = weightsOf(layout);
    const Text whole(layout.config(), 70, 6);
    std::vector<double> expected(layout.size());
    const double loss = lossOf(backprop, weights, whole, 1, expected);
    std::vector<double> sum(layout.size());
    double parts = 0;
    for (const std::size_t odd : {0u, 1u}) {
      Text part = whole;
      for (std::size_t i = odd; i < part.targets.size(); i += 2) part.targets[i] = kNoTarget;
      const double own = lossOf(backprop, weights, part, 1, sum);
      QVERIFY(own > 0 && own < loss);
      parts += own;
    }
    QVERIFY(std::abs(parts - loss) < 1e-9 * loss);
    for (std::size_t i = 0; i < sum.size(); ++i) QVERIFY(std::abs(sum[i] - expected[i]) < 1e-9);
  }

  void gradientsAddUp() {
    const ParameterLayout layout(tinyConfig(true, true));
    Backprop<double> backprop(layout);
    const std::vector<double> weights = weightsOf(layout);
    const Text text(layout.config(), 12, 6);
    std::vector<double> once(layout.size());
    lossOf(backprop, weights, text, 1, once);
    std::vector<double> twice(layout.size());
    lossOf(backprop, weights, text, 0.5, twice);
    lossOf(backprop, weights, text, 1.5, twice);
    for (std::size_t i = 0; i < once.size(); ++i) QVERIFY(std::abs(twice[i] - 2 * once[i]) < 1e-9);
  }

  void theLossIsTheEngines() {
    ModelConfig config = smallConfig();
    config.tiedHead = false;
    const MemoryWeights source(config, 9);
    const ParameterLayout layout(config);
    Backprop<float> backprop(layout);
    const std::vector<float> weights = readParameters(layout, source);
    Random random(2);
    const std::vector<Token> tokens = random.tokens(50, 256);
    std::vector<float> state = emptyState<float>(config);
    const float loss = backprop.run(weights,
                                    {.inputs = TokenView(tokens).first(49),
                                     .targets = TokenView(tokens).subspan(1),
                                     .stateIn = state,
                                     .stateOut = state,
                                     .gradient = {}},
                                    1);
    const auto model = modelOf(source);
    const auto runner = model->newRunner();
    State engineState = model->newState();
    double expected = 0;
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
      runner->advance(engineState, engineState, {&tokens[i], 1}, {});
      const auto logits = runner->logits(0);
      double total = 0;
      for (const float logit : logits) total += std::exp(double(logit));
      expected += std::log(total) - double(logits[std::size_t(tokens[i + 1])]);
    }
    QVERIFY(std::abs(double(loss) - expected) < 1e-4 * expected);
  }

  /// Truncation takes something from the gradient, but nothing from the loss.
  void fourSegmentsAreOneInTheForwardPass() {
    const ParameterLayout layout(tinyConfig(true, true));
    Backprop<double> backprop(layout);
    const std::vector<double> weights = weightsOf(layout);
    const Text text(layout.config(), 1024, 7);
    std::vector<double> whole(layout.size());
    const double expected = lossOf(backprop, weights, text, 1, whole);
    std::vector<double> state = text.state;
    std::vector<double> truncated(layout.size());
    double loss = 0;
    for (std::size_t first = 0; first < 1024; first += 256)
      loss += backprop.run(weights,
                           {.inputs = TokenView(text.inputs).subspan(first, 256),
                            .targets = TokenView(text.targets).subspan(first, 256),
                            .stateIn = state,
                            .stateOut = state,
                            .gradient = truncated},
                           1);
    QVERIFY(std::abs(loss - expected) < 1e-9 * expected);
    QVERIFY(whole != truncated);
    // What only the last segment's states see of the first is what is missing.
    double dot = 0;
    double squares = 0;
    for (std::size_t i = 0; i < whole.size(); ++i) {
      dot += whole[i] * truncated[i];
      squares += whole[i] * whole[i];
    }
    QVERIFY(dot > 0.9 * squares);
  }

  void whatTrainingDoesNotTakeIsSaid() {
    ModelConfig config = smallConfig();
    config.norm = NormKind::Layer;
    const auto refused = [&](const char* why) {
      const auto error = thrown<RequestError>([&] { ParameterLayout layout(config); });
      return error && mentions(error->what(), why);
    };
    QVERIFY(refused("LayerNorm"));
    config.norm = NormKind::Rms;
    config.projectionBias = true;
    QVERIFY(refused("biases"));
  }

  void aWrittenModelIsReadAgain() {
    const ParameterLayout layout(smallConfig());
    const std::vector<float> weights = initialParameters(layout, 4);
    QVERIFY(weights == initialParameters(layout, 4));
    QVERIFY(weights != initialParameters(layout, 5));
    QTemporaryDir folder;
    const std::filesystem::path to = folder.filePath("new/model").toStdString();
    writeModel(to, layout, weights);
    const Checkpoint read(to);
    QVERIFY(read.config() == layout.config());
    QVERIFY(readParameters(layout, read) == weights);
  }

  void weightsThatAreNotNumbersAreNotWritten() {
    const ParameterLayout layout(smallConfig());
    std::vector<float> weights = initialParameters(layout, 4);
    weights[layout.embedding() + 7] = std::numeric_limits<float>::quiet_NaN();
    QTemporaryDir folder;
    const auto error = thrown<FormatError>(
        [&] { writeModel(folder.filePath("model").toStdString(), layout, weights); });
    QVERIFY(error && mentions(error->what(), "weights in memory", "backbone.embeddings.weight",
                              "nan at element 7"));
  }
};

QTEST_APPLESS_MAIN(GradientTest)
#include "test_gradient.moc"
