// The recipes' examples against their definition, the accuracy of models that answer in known ways,
// and that a recipe is learned.
#include <QtTest>
#include <set>

#include "engine/error.h"
#include "engine/evaluation/recipe_accuracy.h"
#include "engine/training/recipe.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"

using namespace mb;
using namespace mb::test;

namespace {

TrainingOptions optionsOf(const Recipe& recipe, std::size_t length, std::uint64_t seed = 3) {
  TrainingOptions options = recipe.options;
  options.segment = length;
  options.seed = seed;
  return options;
}

Lesson example(const RecipeSource& source, std::uint64_t index) {
  Lesson lesson;
  std::uint64_t place = 0;
  source.next(place, index, lesson);
  return lesson;
}

std::vector<Token> answers(const Lesson& lesson) {
  std::vector<Token> found;
  for (const Token token : lesson.targets)
    if (token != kNoTarget) found.push_back(token);
  return found;
}

/// Does not read: after every token the most probable next one is the same.
class Stubborn : public Model {
 public:
  Stubborn(ModelConfig config, Token answer) : m_config(config), m_answer(answer) {}
  const ModelConfig& config() const override { return m_config; }
  const ModelInfo& info() const override { return m_info; }
  std::unique_ptr<Runner> newRunner() const override {
    class Answers : public Runner {
     public:
      Answers(std::size_t vocabulary, Token answer) : m_logits(vocabulary) {
        m_logits[std::size_t(answer)] = 1;
      }
      std::size_t maxChunk() const override { return 64; }
      void advance(const State&, State&, TokenView, const ChunkRequest& request) override {
        if (request.stop.stop_requested()) throw Stopped();
      }
      void rewind(const State&, State&, std::size_t) override {}
      std::span<const float> logits(std::size_t) const override { return m_logits; }
      const TapBlock& taps() const override { return m_taps; }

     private:
      std::vector<float> m_logits;
      TapBlock m_taps;
    };
    return std::make_unique<Answers>(m_config.vocabSize, m_answer);
  }

 private:
  ModelConfig m_config;
  ModelInfo m_info;
  Token m_answer;
};

}  // namespace

class RecipeTest : public QObject {
  Q_OBJECT

 private slots:
  void selectiveCopyingAsksForTheDataInOrder() {
    const Recipe& recipe = findRecipe("selective-copying");
    const RecipeSource source(recipe, optionsOf(recipe, 200));
    std::set<std::size_t> places;
    std::set<Token> data;
    for (std::uint64_t i = 0; i < 500; ++i) {
      const Lesson lesson = example(source, i);
      QCOMPARE(lesson.inputs.size(), std::size_t{216});
      QCOMPARE(lesson.targets.size(), lesson.inputs.size());
      QVERIFY(lesson.beginsAnew);
      std::vector<Token> remembered;
      for (std::size_t t = 0; t < 200; ++t) {
        QCOMPARE(lesson.targets[t], kNoTarget);
        if (lesson.inputs[t] == 0) continue;
        remembered.push_back(lesson.inputs[t]);
        places.insert(t);
        data.insert(lesson.inputs[t]);
      }
      QCOMPARE(remembered.size(), std::size_t{16});
      QVERIFY(std::equal(remembered.begin(), remembered.end(), lesson.targets.begin() + 200));
      QVERIFY(std::all_of(lesson.inputs.begin() + 200, lesson.inputs.end(),
                          [](Token token) { return token == 15; }));
    }
    QCOMPARE(places.size(), std::size_t{200});
    QCOMPARE(data.size(), std::size_t{14});
    QVERIFY(*data.begin() == 1 && *data.rbegin() == 14);
  }

  void inductionHeadsAskForWhatFollowedTheTrigger() {
    const Recipe& recipe = findRecipe("induction-heads");
    const RecipeSource source(recipe, optionsOf(recipe, 40));
    std::set<std::ptrdiff_t> places;
    std::set<Token> asked;
    for (std::uint64_t i = 0; i < 1000; ++i) {
      const Lesson lesson = example(source, i);
      QCOMPARE(lesson.inputs.size(), std::size_t{40});
      QCOMPARE(std::ranges::count(lesson.inputs, 15), 2);
      QCOMPARE(lesson.inputs.back(), 15);
      QCOMPARE(std::ranges::count(lesson.targets, kNoTarget), 39);
      const auto trigger = std::ranges::find(lesson.inputs, 15);
      QCOMPARE(lesson.targets.back(), trigger[1]);
      QVERIFY(trigger[1] != 15);
      places.insert(trigger - lesson.inputs.begin());
      asked.insert(trigger[1]);
    }
    QCOMPARE(places.size(), std::size_t{38});
    QCOMPARE(asked.size(), std::size_t{15});
  }

  void anExampleDependsOnSeedAndNumberOnly() {
    for (const Recipe& recipe : recipes()) {
      const RecipeSource source(recipe, optionsOf(recipe, 64));
      const Lesson lesson = example(source, 5);
      example(source, 6);
      QVERIFY(example(source, 5).inputs == lesson.inputs);
      QVERIFY(example(source, 6).inputs != lesson.inputs);
      QVERIFY(example(RecipeSource(recipe, optionsOf(recipe, 64, 4)), 5).inputs != lesson.inputs);
    }
    QVERIFY(RecipeSource(recipes()[0], optionsOf(recipes()[0], 64)).hash() !=
            RecipeSource(recipes()[1], optionsOf(recipes()[1], 64)).hash());
  }

  void accuracyCountsTheAnswersThatAreRight() {
    const Recipe& recipe = findRecipe("selective-copying");
    const RecipeSource heldOut(recipe, optionsOf(recipe, 100, ~std::uint64_t{3}));
    std::uint64_t expected = 0;
    for (std::uint64_t i = 0; i < 40; ++i)
      expected += std::uint64_t(std::ranges::count(answers(example(heldOut, i)), 7));
    const Accuracy found = measureAccuracy(Stubborn(recipe.config, 7), recipe, 100, 40, 3, {}, {});
    QCOMPARE(found.asked, std::uint64_t{40 * 16});
    QCOMPARE(found.right, expected);
    QVERIFY(expected > 10);
    std::stop_source stop;
    stop.request_stop();
    QVERIFY_EXCEPTION_THROWN(
        measureAccuracy(Stubborn(recipe.config, 7), recipe, 100, 40, 3, {}, stop.get_token()),
        Stopped);
  }

  /// Short enough to be learned within seconds.
  void inductionHeadsAreLearned() {
    const Recipe& recipe = findRecipe("induction-heads");
    TrainingOptions options = optionsOf(recipe, 8, 1);
    options.steps = 400;
    options.streams = 32;
    options.learningRate = 0.01;
    ModelConfig config = recipe.config;
    config.dModel = 16;
    config.dInner = 32;
    config.dtRank = 1;
    const ParameterLayout layout(config);
    cpu::ThreadPool pool(2);
    Trainer trainer(layout, initialParameters(layout, 1),
                    std::make_unique<RecipeSource>(recipe, options), options, pool);
    const auto accuracy = [&] {
      const TemporaryFolder folder;
      trainer.save(folder.path());
      return measureAccuracy(*openModel(folder.path()), recipe, 8, 200, 1, {}, {}).share();
    };
    const double before = accuracy();
    QVERIFY2(before < 0.3, qPrintable(QString::number(before)));
    while (!trainer.isDone()) trainer.step({});
    const double after = accuracy();
    QVERIFY2(after > 0.9, qPrintable(QString::number(after)));
  }

  /// The weights are those of the README's commands, trained at 256 tokens at most. What a state
  /// forgets or gathers where it should not adds up over so many tokens.
  void inductionHeadsReachFarBeyondTheirTraining_data() {
    QTest::addColumn<std::size_t>("length");
    QTest::addColumn<std::size_t>("examples");
    const bool whole = qEnvironmentVariableIsSet("MB_FULL_ACCEPTANCE");
    for (const std::size_t length : findRecipe("induction-heads").testLengths)
      if (whole || length == 256 || length == 1 << 16)
        QTest::addRow("%zu tokens", length) << length << std::size_t(whole ? 100 : 8);
  }
  void inductionHeadsReachFarBeyondTheirTraining() {
    QFETCH(std::size_t, length);
    QFETCH(std::size_t, examples);
    const auto model = openModel(std::filesystem::path(MB_TEST_DATA) / "induction-heads");
    const Accuracy found =
        measureAccuracy(*model, findRecipe("induction-heads"), length, examples, 1, {}, {});
    QVERIFY2(found.share() >= 0.99, qPrintable(QString::number(found.share())));
  }

  void goesOnExactly() {
    const Recipe& recipe = findRecipe("selective-copying");
    TrainingOptions options = optionsOf(recipe, 32);
    options.streams = 2;
    options.steps = 6;
    options.learningRate = 0.01;
    const ParameterLayout layout(recipe.config);
    cpu::ThreadPool pool(2);
    const auto newTrainer = [&] {
      return Trainer(layout, initialParameters(layout, 1),
                     std::make_unique<RecipeSource>(recipe, options), options, pool);
    };
    const TemporaryFolder folder;
    Trainer whole = newTrainer();
    for (int i = 0; i < 3; ++i) whole.step({});
    whole.save(folder.path());
    Trainer second = newTrainer();
    second.resume(folder.path());
    for (int i = 0; i < 3; ++i) QCOMPARE(second.step({}).bits, whole.step({}).bits);
    QVERIFY(std::ranges::equal(second.parameters(), whole.parameters()));
    options.segment = 33;
    QVERIFY_EXCEPTION_THROWN(newTrainer().resume(folder.path()), FormatError);
  }

  void refusesWhatItCannotMake() {
    for (const Recipe& recipe : recipes()) {
      const auto error = thrown<RequestError>(
          [&] { RecipeSource(recipe, optionsOf(recipe, recipe.leastLength - 1)); });
      QVERIFY(error && mentions(error->what(), std::string(recipe.title), "expected at least",
                                "found " + std::to_string(recipe.leastLength - 1)));
      example(RecipeSource(recipe, optionsOf(recipe, recipe.leastLength)), 0);
    }
    const auto unknown = thrown<RequestError>([] { findRecipe("juggling"); });
    QVERIFY(unknown &&
            mentions(unknown->what(), "selective-copying or induction-heads", "found juggling"));
    ModelConfig config = recipes()[0].config;
    config.vocabSize = 256;
    const auto model = thrown<RequestError>(
        [&] { measureAccuracy(Stubborn(config, 1), recipes()[0], 64, 1, 1, {}, {}); });
    QVERIFY(model && mentions(model->what(), "vocabulary of 16, found 256"));
  }
};

QTEST_APPLESS_MAIN(RecipeTest)
#include "test_recipe.moc"
