// Training on a CUDA device against the CPU and against itself. Skipped without a device.
#include <QTest>
#include <cmath>
#include <limits>
#include <numbers>
#include <set>

#include "engine/error.h"
#include "engine/training/cpu_training_device.h"
#include "engine/training/trainer.h"
#include "engine/training/training_devices.h"
#include "tests/support/model_files.h"
#include "tests/support/random_values.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"
#include "tests/support/training_runs.h"

using namespace mb;
using namespace mb::test;

namespace {

constexpr auto kFloat = WeightPrecision::Float32;
constexpr auto kRounded = WeightPrecision::BFloat16;

/// A shape, and what is read with it.
struct Setting {
  const char* name;
  std::size_t width, channels, states, taps, rank, words;
  bool tied, convBias;
  std::size_t streams, tokens;
  std::size_t parts = 1;
};

constexpr Setting kSettings[] = {
    {"one token", 6, 10, 3, 4, 2, 11, true, true, 1, 1},
    {"fewer than taps", 6, 10, 3, 4, 2, 11, false, true, 2, 2},
    {"a tile", 16, 32, 16, 4, 1, 256, true, true, 2, 32},
    {"a token more than a tile", 16, 32, 16, 4, 1, 256, true, false, 1, 33},
    {"odd widths", 40, 120, 8, 3, 5, 256, true, true, 3, 71},
    {"odd widths, a head of its own", 41, 99, 7, 2, 17, 130, false, false, 3, 150},
    {"no memory of inputs", 24, 48, 5, 1, 2, 64, true, true, 2, 40},
    {"subword", 32, 64, 16, 4, 2, 3000, true, true, 2, 90},
    {"many states and taps", 20, 70, 33, 7, 3, 50, false, true, 2, 150},
    {"segments of the backward scan", 48, 96, 16, 4, 3, 256, true, true, 2, 500},
    {"strips of the convolution", 64, 128, 16, 4, 4, 256, true, true, 4, 200},
    {"long strips of the convolution", 16, 32, 16, 4, 1, 256, true, true, 200, 300},
    {"two segments", 48, 96, 16, 4, 3, 256, true, true, 3, 70, 2},
};

ModelConfig configOf(const Setting& s) {
  ModelConfig config;
  config.vocabSize = s.words;
  config.dModel = s.width;
  config.dInner = s.channels;
  config.dState = s.states;
  config.dConv = s.taps;
  config.dtRank = s.rank;
  config.layers = 3;
  config.tiedHead = s.tied;
  config.convBias = s.convBias;
  return config;
}

/// Streams that are in the middle of a text, and the segments they read next.
struct Exercise {
  Exercise(const ModelConfig& config, const Setting& s) {
    Random random(5);
    const std::size_t each = s.tokens * s.parts + 1;
    tokens = random.tokens(s.streams * each, config.vocabSize);
    for (std::size_t i = 0; i < s.streams; ++i) {
      for (std::size_t part = 0; part < s.parts; ++part) {
        const TokenView at = TokenView(tokens).subspan(i * each + part * s.tokens, s.tokens + 1);
        segments.push_back({at.first(s.tokens), at.subspan(1), i == 2 && part + 1 == s.parts});
      }
    }
    std::vector<float> state = emptyState<float>(config);
    for (std::size_t i = 0; i < s.streams; ++i) {
      for (float& value : state) value = random.uniform(-0.6f, 0.6f);
      states.push_back(state);
    }
  }

  std::vector<Token> tokens;
  std::vector<SegmentTokens> segments;
  std::vector<std::vector<float>> states;
};

std::unique_ptr<TrainingDevice> onCuda(const ParameterLayout& layout, std::vector<float> parameters,
                                       std::size_t streams, std::size_t segment,
                                       WeightPrecision precision = kRounded, std::size_t memory = 0,
                                       bool averages = false) {
  cpu::ThreadPool pool(1);
  return makeTrainingDevice(layout, std::move(parameters),
                            {.streams = streams,
                             .segment = segment,
                             .device = {.kind = DeviceKind::Cuda, .precision = precision},
                             .averages = averages,
                             .memory = memory},
                            pool)
      .device;
}

/// What is learned from a exercise.
struct Learned {
  double loss;
  double norm;
  std::vector<float> gradient;
  std::vector<float> stateGradient;
  std::vector<float> states;      ///< afterwards
  std::vector<float> parameters;  ///< likewise
};

Learned learnedOn(TrainingDevice& device, const Exercise& exercise) {
  TrainedState state = device.state();
  state.states = exercise.states;
  device.setState(std::move(state));
  Learned result;
  result.loss = device.learn(exercise.segments, 0.25f, {});
  result.norm = device.gradientNorm();
  result.gradient = device.gradient();
  result.stateGradient = device.stateGradient();
  device.update({.count = 1,
                 .learningRate = 0.01,
                 .weightDecay = 0.1,
                 .beta1 = 0.9,
                 .beta2 = 0.95,
                 .epsilon = 1e-8,
                 .factor = 0.5});
  for (const auto& one : device.state().states)
    result.states.insert(result.states.end(), one.begin(), one.end());
  const auto parameters = device.parameters();
  result.parameters.assign(parameters.begin(), parameters.end());
  return result;
}

/// Of the lines of a test's excerpt.
std::vector<Token> excerpt(std::size_t size) {
  const std::string text = readFile(std::filesystem::path(MB_TEST_DATA) / "books-test-excerpt.txt");
  std::vector<Token> tokens;
  for (std::size_t i = 0; i < size; ++i) tokens.push_back(Byte(text[i]));
  return tokens;
}

TrainingOptions few() {
  TrainingOptions options;
  options.steps = 12;
  options.segment = 70;
  options.streams = 3;
  options.accumulate = 2;
  options.warmUp = 2;
  options.learningRate = 0.01;
  return options;
}

Trainer trainerOnCuda(const ParameterLayout& layout, TokenView text, const TrainingOptions& options,
                      std::uint64_t seed = 1) {
  return Trainer(layout, std::make_unique<TextSource>(text, layout.config().vocabSize, options),
                 options,
                 onCuda(layout, initialParameters(layout, seed), options.streams, options.segment,
                        kRounded, 0, options.ema > 0));
}

}  // namespace

class CudaTrainingTest : public QObject {
  Q_OBJECT

 private slots:
  void initTestCase() {
    const DeviceChoice choice = chooseDevice();
    if (!choice.hasCuda()) QSKIP(choice.reason.c_str());
  }

  void agreesWithTheCpu_data() {
    QTest::addColumn<int>("setting");
    QTest::addColumn<bool>("rounded");
    for (int i = 0; i < int(std::size(kSettings)); ++i) {
      QTest::addRow("%s, f32", kSettings[i].name) << i << false;
      QTest::addRow("%s, bf16", kSettings[i].name) << i << true;
    }
  }
  void agreesWithTheCpu() {
    QFETCH(int, setting);
    QFETCH(bool, rounded);
    const Setting& s = kSettings[setting];
    const ParameterLayout layout(configOf(s));
    const auto parameters = readParameters(layout, MemoryWeights(layout.config(), 3));
    const Exercise exercise(layout.config(), s);
    cpu::ThreadPool pool(2);
    CpuTrainingDevice cpu(layout, parameters, s.streams, pool);
    const auto cuda = onCuda(layout, parameters, s.streams, s.tokens, rounded ? kRounded : kFloat);
    const Learned expected = learnedOn(cpu, exercise);
    const Learned found = learnedOn(*cuda, exercise);
    const double tolerance = rounded ? 4e-2 : 2e-4;
    const auto close = [&](const std::string& what, std::span<const float> a,
                           std::span<const float> b) {
      const double error = relativeError(a, b);
      const bool holds = error < tolerance;
      if (!holds) qWarning("%s: off by %g", what.c_str(), error);
      return holds;
    };
    QVERIFY2(std::abs(found.loss / expected.loss - 1) < tolerance / 4,
             qPrintable(QString("%1, not %2").arg(found.loss).arg(expected.loss)));
    QVERIFY(std::abs(found.norm / expected.norm - 1) < tolerance);
    bool all = close("gradient", found.gradient, expected.gradient);
    for (const Parameter& p : layout.parameters()) {
      const auto of = [&](const Learned& learned) {
        return std::span(learned.gradient).subspan(p.offset, p.size);
      };
      if (!rounded) all &= close(p.name, of(found), of(expected));
    }
    all &= close("states", found.states, expected.states);
    all &= close("gradient by the states", found.stateGradient, expected.stateGradient);
    QVERIFY(all);
  }

  void oneStepIsThatOfTheCpu() {
    const Setting& s = kSettings[4];
    const ParameterLayout layout(configOf(s));
    const auto parameters = readParameters(layout, MemoryWeights(layout.config(), 3));
    const Exercise exercise(layout.config(), s);
    cpu::ThreadPool pool(2);
    CpuTrainingDevice cpu(layout, parameters, s.streams, pool);
    const auto cuda = onCuda(layout, parameters, s.streams, s.tokens, kFloat);
    const auto changeOf = [&](std::vector<float> after) {
      for (std::size_t i = 0; i < after.size(); ++i) after[i] -= parameters[i];
      return after;
    };
    const auto expected = changeOf(learnedOn(cpu, exercise).parameters);
    const auto found = changeOf(learnedOn(*cuda, exercise).parameters);
    const double error = relativeError(found, expected);
    QVERIFY2(error < 2e-2, qPrintable(QString::number(error)));  // AdamW: noise becomes signs
  }

  void isTheSameBitForBitWithAnyMemory() {
    const Setting& s = kSettings[10];
    const ParameterLayout layout(configOf(s));
    const auto parameters = readParameters(layout, MemoryWeights(layout.config(), 3));
    const Exercise exercise(layout.config(), s);
    const auto roomy = onCuda(layout, parameters, s.streams, s.tokens);
    const auto tight = onCuda(layout, parameters, s.streams, s.tokens, kRounded, 1);
    const Learned expected = learnedOn(*roomy, exercise);
    const std::size_t least = tight->memoryBytes();
    const std::size_t most = roomy->memoryBytes();
    std::set<std::size_t> taken;
    constexpr std::size_t kSteps = 12;
    for (std::size_t i = 0; i <= kSteps; ++i) {
      const std::size_t memory = least + (most - least) * i / kSteps;
      const auto device = onCuda(layout, parameters, s.streams, s.tokens, kRounded, memory);
      QVERIFY(device->memoryBytes() <= memory);
      taken.insert(device->memoryBytes());
      const Learned found = learnedOn(*device, exercise);
      QVERIFY(found.loss == expected.loss);
      QVERIFY(found.gradient == expected.gradient);
      QVERIFY(found.stateGradient == expected.stateGradient);
      QVERIFY(found.states == expected.states);
    }
    QCOMPARE(*taken.begin(), least);
    QCOMPARE(*taken.rbegin(), most);
    // From u and z of the last layer alone to those of all, then to u' and W_dt δ of all others.
    QCOMPARE(taken.size(), 2 * layout.config().layers - 1);
  }

  void targetsThatDoNotCountChangeNothing() {
    const Setting& s = kSettings[4];
    const ParameterLayout layout(configOf(s));
    const auto parameters = readParameters(layout, MemoryWeights(layout.config(), 3));
    Exercise exercise(layout.config(), s);
    const auto cuda = onCuda(layout, parameters, s.streams, s.tokens);
    const std::vector<Token> none(s.tokens, -1);
    for (SegmentTokens& segment : exercise.segments) segment.targets = none;
    const Learned found = learnedOn(*cuda, exercise);
    QCOMPARE(found.loss, 0.0);
    QCOMPARE(found.norm, 0.0);
  }

  void validatesAsTheCpu() {
    const ParameterLayout layout(configOf(kSettings[4]));
    const auto parameters = readParameters(layout, MemoryWeights(layout.config(), 3));
    const std::vector<Token> text = excerpt(300);
    cpu::ThreadPool pool(2);
    CpuTrainingDevice cpu(layout, parameters, 2, pool);
    const auto cuda = onCuda(layout, parameters, 2, 64, kFloat);
    const double expected = cpu.lossOf(text, 300, {});
    for (int again = 0; again < 2; ++again) {
      const double found = cuda->lossOf(text, 64, {});
      QVERIFY2(std::abs(found / expected - 1) < 1e-5,
               qPrintable(QString("%1, not %2").arg(found).arg(expected)));
    }
  }

  void keepsTheMovingAverageOfTheCpu() {
    const ParameterLayout layout(configOf(kSettings[4]));
    const std::vector<Token> text = excerpt(3000);
    TrainingOptions options = few();
    options.ema = 0.9;
    Trainer trainer = trainerOnCuda(layout, text, options);
    std::vector<double> average(layout.size());
    std::ranges::copy(trainer.parameters(), average.begin());
    for (int step = 1; step <= 5; ++step) {
      trainer.step({});
      const double stays = std::min(0.9, step / (step + 9.0));
      for (std::size_t i = 0; i < average.size(); ++i)
        average[i] = stays * average[i] + (1 - stays) * double(trainer.parameters()[i]);
    }
    const double error = relativeError(trainer.kept(), average);
    QVERIFY2(error < 1e-6, qPrintable(QString::number(error)));
    const auto weightsBefore = trainer.device().state().parameters;
    cpu::ThreadPool pool(2);
    CpuTrainingDevice cpu(layout, {trainer.kept().begin(), trainer.kept().end()}, 1, pool);
    const double expected = cpu.lossOf(text, 300, {}) / std::numbers::ln2 / double(text.size() - 1);
    QVERIFY(std::abs(trainer.validate(text, {}) / expected - 1) < 1e-2);  // bfloat16
    QVERIFY(trainer.device().state().parameters == weightsBefore);
  }

  void learnsFourKilobytesByHeart() {
    ModelConfig config = configOf({"", 128, 256, 16, 4, 8, 256, true, true, 0, 0});
    const ParameterLayout layout(config);
    const std::vector<Token> text = excerpt(4096 + 1);
    TrainingOptions options;
    options.steps = 800;
    options.segment = 256;
    options.streams = 16;
    options.learningRate = 5e-3;
    options.finalShare = 0.02;
    options.weightDecay = 0;
    Trainer trainer = trainerOnCuda(layout, text, options);
    QVERIFY(trainer.validate(text, {}) > 7.5);
    while (!trainer.isDone()) trainer.step({});
    const double bits = trainer.validate(text, {});
    QVERIFY2(bits < 0.05, qPrintable(QString::number(bits)));
  }

  void goesOnExactly_data() { addWaysToGoOn(); }
  void goesOnExactly() {
    QFETCH(bool, carry);
    QFETCH(std::size_t, run);
    QFETCH(double, ema);
    const ParameterLayout layout(configOf(kSettings[4]));
    const std::vector<Token> text = excerpt(3000);
    TrainingOptions options = few();
    options.carryState = carry;
    options.run = run;
    options.ema = ema;
    Trainer whole = trainerOnCuda(layout, text, options);
    const std::vector<double> expected = lossesOf(whole, 12);
    Trainer twin = trainerOnCuda(layout, text, options);
    QVERIFY(lossesOf(twin, 12) == expected);
    const TemporaryFolder folder;
    {
      Trainer first = trainerOnCuda(layout, text, options);
      lossesOf(first, 5);
      first.save(folder / "checkpoint");
    }
    Trainer second = trainerOnCuda(layout, text, options, 2);
    second.resume(folder / "checkpoint");
    const std::vector<double> rest = lossesOf(second, 12);
    QVERIFY(std::equal(rest.begin(), rest.end(), expected.begin() + 5));
    QVERIFY(std::ranges::equal(second.parameters(), whole.parameters()));
    QVERIFY(std::ranges::equal(second.kept(), whole.kept()));
    QCOMPARE(std::ranges::equal(whole.kept(), whole.parameters()), ema == 0);
    cpu::ThreadPool pool(2);
    Trainer onCpu(layout, initialParameters(layout, 3),
                  std::make_unique<TextSource>(text, layout.config().vocabSize, options), options,
                  pool);
    onCpu.resume(folder / "checkpoint");
    QVERIFY(std::abs(onCpu.step({}).bits / expected[5] - 1) < 1e-2);
  }

  void stopsWithNothingChanged() {
    const ParameterLayout layout(configOf(kSettings[4]));
    const std::vector<Token> text = excerpt(3000);
    Trainer trainer = trainerOnCuda(layout, text, few());
    Trainer twin = trainerOnCuda(layout, text, few());
    lossesOf(trainer, 1);
    std::stop_source source;
    source.request_stop();
    QVERIFY_EXCEPTION_THROWN(trainer.step(source.get_token()), Stopped);
    QVERIFY_EXCEPTION_THROWN(trainer.validate(text, source.get_token()), Stopped);
    QVERIFY(lossesOf(trainer, 4).back() == lossesOf(twin, 4).back());
  }

  void aLossThatIsNoNumberLeavesTheWeights() {
    const ParameterLayout layout(configOf(kSettings[4]));
    const std::vector<Token> text = excerpt(3000);
    const TrainingOptions options = few();
    std::vector<float> weights = initialParameters(layout, 1);
    weights[layout.layer(0).skip] = std::numeric_limits<float>::infinity();
    Trainer trainer(layout, std::make_unique<TextSource>(text, layout.config().vocabSize, options),
                    options,
                    onCuda(layout, weights, options.streams, options.segment, kRounded, 0, false));
    const auto error = thrown<DivergedError>([&] { trainer.step({}); });
    QVERIFY(error && mentions(error->what(), "step 1", "not a number"));
    QVERIFY(std::ranges::equal(trainer.parameters(), weights));
    QCOMPARE(trainer.steps(), std::uint64_t{0});
  }

  void sayWhenTheDeviceIsTooSmall() {
    const ParameterLayout layout(configOf(kSettings[4]));
    const auto parameters = initialParameters(layout, 1);
    const auto error = thrown<DeviceError>([&] { onCuda(layout, parameters, 1u << 14, 1u << 16); });
    QVERIFY(error && mentions(error->what(), "CUDA device 0", "memory"));
    const auto after = onCuda(layout, parameters, 1, 8);
    QVERIFY(after->lossOf(excerpt(9), 8, {}) > 0);
  }

  void refusesShapesTheKernelsDoNotTake() {
    ModelConfig config = configOf(kSettings[4]);
    config.dState = 65;
    const ParameterLayout layout(config);
    const auto error =
        thrown<RequestError>([&] { onCuda(layout, std::vector<float>(layout.size()), 1, 8); });
    QVERIFY(error && mentions(error->what(), "64", "65"));
  }
};

QTEST_GUILESS_MAIN(CudaTrainingTest)
#include "test_cuda_training.moc"
