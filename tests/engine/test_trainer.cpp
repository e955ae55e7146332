// The trainer: what it learns, that it goes on exactly, and what it refuses.
#include <QtTest>
#include <cmath>
#include <limits>

#include "engine/error.h"
#include "engine/training/trainer.h"
#include "tests/support/file_size_limit.h"
#include "tests/support/model_files.h"
#include "tests/support/random_values.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"
#include "tests/support/training_runs.h"

using namespace mb;
using namespace mb::test;

namespace {

/// What a trainer needs beside its options.
struct Setting {
  explicit Setting(std::size_t tokens = 3000, std::size_t threads = 2)
      : layout(smallConfig()), pool(threads) {
    const std::string words =
        readFile(std::filesystem::path(MB_TEST_DATA) / "books-test-excerpt.txt");
    for (std::size_t i = 0; i < tokens; ++i) text.push_back(Byte(words[i]));
  }
  Trainer trainer(const TrainingOptions& options) {
    return trainer(options, initialParameters(layout, 1));
  }
  Trainer trainer(const TrainingOptions& options, std::vector<float> parameters) {
    return Trainer(layout, std::move(parameters),
                   std::make_unique<TextSource>(text, layout.config().vocabSize, options), options,
                   pool);
  }

  ParameterLayout layout;
  std::vector<Token> text;
  cpu::ThreadPool pool;
};

TrainingOptions few() {
  TrainingOptions options;
  options.steps = 12;
  options.segment = 40;
  options.streams = 3;
  options.warmUp = 2;
  options.learningRate = 0.01;
  return options;
}

std::vector<float> weightsOf(const Trainer& trainer) {
  return {trainer.parameters().begin(), trainer.parameters().end()};
}

}  // namespace

class TrainerTest : public QObject {
  Q_OBJECT

 private slots:
  void learnsASmallTextByHeart() {
    constexpr std::size_t kBytes = 256;
    Setting setting(kBytes + 1);
    TrainingOptions options = few();
    options.steps = 600;
    options.segment = 64;
    options.streams = 4;
    options.weightDecay = 0;
    options.learningRate = 0.02;
    Trainer trainer = setting.trainer(options);
    const double before = trainer.validate(setting.text, {});
    QVERIFY(before > 7.5);
    while (!trainer.isDone()) trainer.step({});
    const double after = trainer.validate(setting.text, {});
    QVERIFY2(after < 0.3, qPrintable(QString::number(after)));
  }

  void carriedStatesReadTheTextInOrder() {
    // One stream, one step over the text: its loss is that of reading the text.
    Setting setting(3 * 40 + 1);
    TrainingOptions options = few();
    options.streams = 1;
    options.accumulate = 3;
    Trainer trainer = setting.trainer(options);
    const double expected = trainer.validate(setting.text, {});
    const double found = trainer.step({}).bits;
    QVERIFY(std::abs(found - expected) < 1e-4 * expected);
    options.carryState = false;
    Trainer forgetful = setting.trainer(options);
    QVERIFY(std::abs(forgetful.step({}).bits - expected) > 1e-4 * expected);
  }

  void theEndOfTheTextIsLearnedToo() {
    constexpr std::size_t kSegment = 64;
    Setting setting(2 * kSegment);  // the second segment lacks one target
    TrainingOptions options = few();
    options.steps = 400;
    options.segment = kSegment;
    options.streams = 1;
    options.weightDecay = 0;
    options.learningRate = 0.02;
    Trainer trainer = setting.trainer(options);
    while (!trainer.isDone()) trainer.step({});
    const double bits = trainer.validate(setting.text, {});
    QVERIFY2(bits < 2, qPrintable(QString::number(bits)));
  }

  void goesOnExactly_data() { addWaysToGoOn(); }
  void goesOnExactly() {
    QFETCH(bool, carry);
    QFETCH(std::size_t, run);
    QFETCH(double, ema);
    Setting setting;
    TrainingOptions options = few();
    options.carryState = carry;
    options.run = run;
    options.ema = ema;
    Trainer whole = setting.trainer(options);
    const std::vector<double> expected = lossesOf(whole, 12);
    QTemporaryDir folder;
    const std::filesystem::path at = folder.filePath("checkpoint").toStdString();
    {
      Trainer first = setting.trainer(options);
      lossesOf(first, 3);
      first.save(at);
      lossesOf(first, 5);
      first.save(at);  // in place of the one before
      lossesOf(first, 7);
    }
    Trainer second = setting.trainer(options, initialParameters(setting.layout, 2));
    second.resume(Trainer::newest(at));
    QCOMPARE(second.steps(), std::uint64_t{5});
    const std::vector<double> rest = lossesOf(second, 12);
    QVERIFY(std::equal(rest.begin(), rest.end(), expected.begin() + 5));
    QVERIFY(weightsOf(second) == weightsOf(whole));
    QVERIFY(std::ranges::equal(second.kept(), whole.kept()));
  }

  void theMovingAverageIsWhatIsKept() {
    Setting setting;
    TrainingOptions options = few();
    Trainer plain = setting.trainer(options);
    options.ema = 0.25;
    Trainer averaging = setting.trainer(options);
    std::vector<double> average(setting.layout.size());
    std::ranges::copy(plain.parameters(), average.begin());
    for (int step = 1; step <= 6; ++step) {
      lossesOf(plain, std::uint64_t(step));
      lossesOf(averaging, std::uint64_t(step));
      const double stays = std::min(0.25, step / (step + 9.0));
      for (std::size_t i = 0; i < average.size(); ++i)
        average[i] = stays * average[i] + (1 - stays) * double(plain.parameters()[i]);
    }
    QVERIFY(weightsOf(averaging) == weightsOf(plain));
    double worst = 0;
    for (std::size_t i = 0; i < average.size(); ++i)
      worst = std::max(worst, std::abs(average[i] - double(averaging.kept()[i])));
    QVERIFY(worst < 1e-6);
    QTemporaryDir folder;
    const std::filesystem::path at = folder.filePath("checkpoint").toStdString();
    averaging.save(at);
    const std::vector<float> saved = readParameters(setting.layout, Checkpoint(at));
    QVERIFY(std::ranges::equal(saved, averaging.kept()));
    Trainer fromAverage = setting.trainer(few(), saved);
    QCOMPARE(averaging.validate(setting.text, {}), fromAverage.validate(setting.text, {}));
    QVERIFY(averaging.validate(setting.text, {}) != plain.validate(setting.text, {}));
  }

  void onlyTargetsThatCountAreLearned() {
    /// A text of which every other target counts.
    class Alternating : public TextSource {
     public:
      using TextSource::TextSource;
      void next(std::uint64_t& place, std::uint64_t index, Lesson& lesson) const override {
        TextSource::next(place, index, lesson);
        for (std::size_t i = 0; i < lesson.targets.size(); i += 2) lesson.targets[i] = kNoTarget;
      }
    };
    Setting setting(41);
    TrainingOptions options = few();
    options.streams = 1;
    Trainer trainer(setting.layout, initialParameters(setting.layout, 1),
                    std::make_unique<Alternating>(setting.text, 256, options), options,
                    setting.pool);
    const auto bitsOf = [&](std::size_t count) {
      return double(count) * trainer.validate(TokenView(setting.text).first(count + 1), {});
    };
    double expected = 0;
    for (std::size_t i = 1; i < 40; i += 2) expected += bitsOf(i + 1) - bitsOf(i);
    const double found = trainer.step({}).bits;
    QVERIFY(std::abs(found - expected / 20) < 1e-4 * found);
  }

  void aCheckpointIsAModel() {
    Setting setting;
    Trainer trainer = setting.trainer(few());
    lossesOf(trainer, 4);
    QTemporaryDir folder;
    const std::filesystem::path at = folder.filePath("run/checkpoint").toStdString();
    trainer.save(at);
    const auto model = openModel(at, WeightPrecision::Float32);
    const auto runner = model->newRunner();
    State state = model->newState();
    double bits = 0;
    for (std::size_t i = 0; i < 100; ++i) {
      runner->advance(state, state, {&setting.text[i], 1}, {});
      const auto logits = runner->logits(0);
      double total = 0;
      for (const float logit : logits) total += std::exp(double(logit));
      bits += std::log2(total) - double(logits[std::size_t(setting.text[i + 1])]) / std::log(2.0);
    }
    const double expected = trainer.validate(TokenView(setting.text).first(101), {});
    QVERIFY(std::abs(bits / 100 - expected) < 1e-3 * expected);
  }

  void aCrashBetweenTwoCheckpointsLosesNeither() {
    Setting setting;
    Trainer trainer = setting.trainer(few());
    lossesOf(trainer, 2);
    QTemporaryDir folder;
    const std::filesystem::path at = folder.filePath("checkpoint").toStdString();
    trainer.save(at);
    std::filesystem::rename(at, at.string() + ".old");  // and then the power failed
    Trainer other = setting.trainer(few());
    other.resume(Trainer::newest(at));
    QCOMPARE(other.steps(), std::uint64_t{2});
    std::filesystem::create_directories(at.string() + ".new");  // half of the next one
    QVERIFY(Trainer::newest(at) == at.string() + ".old");
  }

  void stopsBetweenSegmentsWithNothingChanged() {
    Setting setting;
    Trainer trainer = setting.trainer(few());
    Trainer twin = setting.trainer(few());
    lossesOf(trainer, 1);
    const std::vector<float> weights = weightsOf(trainer);
    std::stop_source source;
    source.request_stop();
    QVERIFY_EXCEPTION_THROWN(trainer.step(source.get_token()), Stopped);
    QVERIFY_EXCEPTION_THROWN(trainer.validate(setting.text, source.get_token()), Stopped);
    QVERIFY(weightsOf(trainer) == weights);
    lossesOf(trainer, 4);
    lossesOf(twin, 4);
    QVERIFY(weightsOf(trainer) == weightsOf(twin));
  }

  void aLossThatIsNoNumberLeavesTheWeights() {
    Setting setting;
    std::vector<float> weights = initialParameters(setting.layout, 1);
    weights[setting.layout.layer(1).skip] = std::numeric_limits<float>::infinity();
    Trainer trainer = setting.trainer(few(), weights);
    const auto error = thrown<DivergedError>([&] { trainer.step({}); });
    QVERIFY(error && mentions(error->what(), "step 1", "not a number"));
    QVERIFY(weightsOf(trainer) == weights);
    QCOMPARE(trainer.steps(), std::uint64_t{0});
  }

  void onlyMatricesDecay() {
    Setting setting;
    TrainingOptions options = few();
    options.learningRate = 1;
    options.warmUp = 0;
    options.weightDecay = 1;  // with a rate of 1 nothing is left but the step itself
    options.clip = 1e-30;     // and next to nothing of that
    options.epsilon = 1;
    Trainer trainer = setting.trainer(options);
    const std::vector<float> before = weightsOf(trainer);
    trainer.step({});
    for (const Parameter& parameter : setting.layout.parameters()) {
      const bool isMatrix = parameter.name.find("proj.weight") != std::string::npos ||
                            parameter.name.find("conv1d.weight") != std::string::npos;
      QCOMPARE(parameter.decays, isMatrix);
      for (std::size_t i = parameter.offset; i < parameter.offset + parameter.size; ++i)
        QVERIFY(std::abs(trainer.parameters()[i] - (isMatrix ? 0 : before[i])) < 1e-6f);
    }
  }

  void theLearningRateRisesAndFalls() {
    TrainingOptions options;
    options.steps = 110;
    options.warmUp = 10;
    options.learningRate = 0.5;
    options.finalShare = 0.2;
    for (const Schedule schedule : {Schedule::Cosine, Schedule::Linear}) {
      options.schedule = schedule;
      QCOMPARE(learningRateAt(options, 0), 0.05);
      QCOMPARE(learningRateAt(options, 9), 0.5);
      QCOMPARE(learningRateAt(options, 10), 0.5);
      QCOMPARE(learningRateAt(options, 60), 0.3);
      QCOMPARE(learningRateAt(options, 110), 0.1);
    }
    QCOMPARE(learningRateAt(options, 35), 0.4);
    options.schedule = Schedule::Cosine;
    QVERIFY(learningRateAt(options, 35) > 0.43);
  }

  void refusesWhatItCannotTrain() {
    Setting setting;
    const auto refused = [&](const TrainingOptions& options, const char* what) {
      const auto error = thrown<RequestError>([&] { setting.trainer(options); });
      return error && mentions(error->what(), what, "expected", "found");
    };
    TrainingOptions options = few();
    options.segment = setting.text.size();
    QVERIFY(refused(options, "text"));
    options = few();
    options.streams = 0;
    QVERIFY(refused(options, "streams"));
    options = few();
    options.learningRate = -1;
    QVERIFY(refused(options, "learning rate"));
    setting.text[7] = 256;
    QVERIFY(refused(few(), "vocabulary"));
  }

  void refusesACheckpointOfAnotherRun() {
    Setting setting;
    QTemporaryDir folder;
    const std::filesystem::path at = folder.filePath("checkpoint").toStdString();
    setting.trainer(few()).save(at);
    const auto refused = [&](Trainer trainer, const char* what) {
      const std::vector<float> before = weightsOf(trainer);
      const auto error = thrown<FormatError>([&] { trainer.resume(at); });
      return error && mentions(error->what(), what) && weightsOf(trainer) == before;
    };
    TrainingOptions options = few();
    options.learningRate = 0.02;
    QVERIFY(refused(setting.trainer(options), "options"));
    Setting other(2999);
    QVERIFY(refused(other.trainer(few()), "data"));
    const auto size = std::filesystem::file_size(at / "trainer.bin");
    std::filesystem::resize_file(at / "trainer.bin", size - 1);
    QVERIFY(refused(setting.trainer(few()), "length"));
    std::filesystem::resize_file(at / "trainer.bin", 4);
    QVERIFY(refused(setting.trainer(few()), "length"));
  }

  void aDiskWithoutRoomLeavesTheCheckpointBefore() {
    Setting setting;
    Trainer trainer = setting.trainer(few());
    QTemporaryDir folder;
    const std::filesystem::path at = folder.filePath("checkpoint").toStdString();
    trainer.save(at);
    lossesOf(trainer, 1);
    {
      const FileSizeLimit limit(1000);
      const auto error = thrown<FileError>([&] { trainer.save(at); });
      QVERIFY(error && mentions(error->what(), "checkpoint.new"));
    }
    Trainer other = setting.trainer(few());
    other.resume(Trainer::newest(at));
    QCOMPARE(other.steps(), std::uint64_t{0});
    trainer.save(at);  // there is room again
    other.resume(Trainer::newest(at));
    QCOMPARE(other.steps(), std::uint64_t{1});
  }
};

QTEST_APPLESS_MAIN(TrainerTest)
#include "test_trainer.moc"
