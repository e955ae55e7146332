// A training run as a whole: what it reports, that it goes on exactly, what it refuses, what it
// leaves behind when something fails.
#include <QtTest>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/error.h"
#include "engine/evaluation/evaluation.h"
#include "engine/training/training_session.h"
#include "tests/support/file_size_limit.h"
#include "tests/support/model_files.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"
#include "tests/support/tokenizer_files.h"

using namespace mb;
using namespace mb::test;

namespace {

/// Keeps every event.
class Heard {
 public:
  TrainingListener listener() {
    return [this](const TrainingEvent& event) {
      m_events.push_back(event);
      if (onEvent) onEvent(event);
    };
  }
  template <class Event>
  std::vector<Event> all() const {
    std::vector<Event> found;
    for (const TrainingEvent& event : m_events)
      if (const auto* wanted = std::get_if<Event>(&event)) found.push_back(*wanted);
    return found;
  }
  std::vector<double> losses() const {
    std::vector<double> bits;
    for (const auto& stepped : all<TrainingStepped>()) bits.push_back(stepped.step.bits);
    return bits;
  }
  std::function<void(const TrainingEvent&)> onEvent;

 private:
  std::vector<TrainingEvent> m_events;
};

/// A folder with a text, and plans to train a tiny model on it.
struct Place {
  Place() {
    const std::string words =
        readFile(std::filesystem::path(MB_TEST_DATA) / "books-test-excerpt.txt");
    writeFile(folder / "text", words.substr(0, 4000));
  }
  TrainingPlan plan(const std::string& run = "run") const {
    TrainingPlan plan;
    plan.files = {folder / "text"};
    plan.folder = folder / run;
    plan.shape = smallConfig();
    plan.heldOut = 0.1;
    plan.options = {.steps = 12, .segment = 40, .streams = 3, .learningRate = 0.01, .warmUp = 2};
    plan.validations = {.steps = 4};
    plan.threads = 2;
    return plan;
  }
  std::vector<nlohmann::json> log(const std::string& run = "run") const {
    std::vector<nlohmann::json> lines;
    std::istringstream file(readFile(folder / (run + "/log.jsonl")));
    for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  TemporaryFolder folder;
};

Heard trained(const TrainingPlan& plan) {
  Heard heard;
  TrainingSession(plan, heard.listener()).run({});
  return heard;
}

}  // namespace

class TrainingSessionTest : public QObject {
  Q_OBJECT

 private slots:
  void reportsWhatHappensInOrder() {
    const Place place;
    TrainingPlan plan = place.plan();
    plan.samples = {.steps = 6};
    plan.checkpoints = {.steps = 6};
    plan.reportAtStart = true;
    plan.sampleTokens = 20;
    const Heard heard = trained(plan);
    const auto started = heard.all<TrainingStarted>();
    QCOMPARE(started.size(), std::size_t{1});
    QCOMPARE(started[0].tokens, std::size_t{3600});
    QCOMPARE(started[0].validationTokens, std::size_t{400});
    QCOMPARE(started[0].steps, std::uint64_t{12});
    QCOMPARE(started[0].parameters, smallConfig().parameterCount());
    const auto steps = heard.all<TrainingStepped>();
    QCOMPARE(steps.size(), std::size_t{12});
    for (std::size_t i = 0; i < steps.size(); ++i) QCOMPARE(steps[i].step.step, i + 1);
    QCOMPARE(steps.back().secondsLeft, 0.0);
    QVERIFY(steps.front().secondsLeft > 0 && steps.front().bytesPerSecond > 0);
    QCOMPARE(steps[3].bitsPerByte, steps[3].step.bits);  // bytes are tokens here
    std::vector<std::uint64_t> validated;
    for (const auto& event : heard.all<TrainingValidated>()) validated.push_back(event.step);
    QVERIFY(validated == (std::vector<std::uint64_t>{0, 4, 8, 12}));
    std::vector<std::uint64_t> sampled;
    for (const auto& event : heard.all<TrainingSampled>()) sampled.push_back(event.step);
    QVERIFY(sampled == (std::vector<std::uint64_t>{0, 6, 12}));
    Heard past;  // what the folder holds of it
    for (const TrainingEvent& event : eventsOf(plan.folder, 8)) past.listener()(event);
    std::vector<double> firstLosses = heard.losses();
    firstLosses.resize(8);
    QVERIFY(past.losses() == firstLosses);
    QCOMPARE(past.all<TrainingValidated>().size(), std::size_t{3});
    QCOMPARE(past.all<TrainingSampled>().size(), std::size_t{2});
    QVERIFY(past.all<TrainingSampled>()[1].text == heard.all<TrainingSampled>()[1].text);
  }

  void samplesBeginWithTheHeldOutText() {
    const Place place;
    TrainingPlan plan = place.plan();
    plan.samples = {.steps = 12};
    plan.sampleTokens = 25;
    const auto samples = trained(plan).all<TrainingSampled>();
    QCOMPARE(samples.size(), std::size_t{1});
    const std::string text = readFile(place.folder / "text").substr(3600);
    const std::string written(toText(samples[0].text));
    QCOMPARE(written.size(), samples[0].promptBytes + 25);
    const std::size_t at = text.find(written.substr(0, samples[0].promptBytes));
    QVERIFY(samples[0].promptBytes > 20 && at > 0 && at < 256 && text[at - 1] == '\n');
    QCOMPARE(readFile(place.folder / "run/samples/12.txt"), written);
  }

  void theLogHoldsEveryStepAndValidation() {
    const Place place;
    const Heard heard = trained(place.plan());
    const auto log = place.log();
    QCOMPARE(log.size(), std::size_t{15});
    QCOMPARE(log[0].at("bits_per_token").get<double>(), heard.losses()[0]);
    QCOMPARE(log[4].at("validation_bits_per_token").get<double>(),
             heard.all<TrainingValidated>()[0].bits);
    double before = 0;
    for (const auto& line : log) {
      QVERIFY(line.value("seconds", before) >= before);
      before = line.value("seconds", before);
    }
  }

  void whatIsHeldOutIsNotTrainedOn() {
    const Place place;
    TrainingPlan plan = place.plan();
    const TrainingMaterial material = readMaterial(plan, {});
    const std::string text = readFile(place.folder / "text");
    QVERIFY(material.bytesOf(material.text) == toBytes(text.substr(0, 3600)));
    QVERIFY(material.bytesOf(material.validation) == toBytes(text.substr(3600)));
    plan.validationTokens = 50;
    QCOMPARE(readMaterial(plan, {}).validation.size(), std::size_t{50});
    writeFile(place.folder / "other", "quite another text");
    plan.validation = place.folder / "other";
    const TrainingMaterial other = readMaterial(plan, {});
    QVERIFY(other.bytesOf(other.validation) == toBytes("quite another text"));
    QCOMPARE(other.text.size(), std::size_t{4000});
  }

  void aStoppedRunGoesOnExactly() {
    const Place place;
    const Heard whole = trained(place.plan("whole"));
    Heard heard;
    std::stop_source source;
    heard.onEvent = [&](const TrainingEvent& event) {
      const auto* stepped = std::get_if<TrainingStepped>(&event);
      if (stepped && stepped->step.step == 5) source.request_stop();
    };
    TrainingSession session(place.plan(), heard.listener());
    QVERIFY_EXCEPTION_THROWN(session.run(source.get_token()), Stopped);
    QCOMPARE(session.steps(), std::uint64_t{5});
    session.run({});
    QVERIFY(heard.losses() == whole.losses());
    QVERIFY(readFile(place.folder / "run/checkpoint/trainer.bin") ==
            readFile(place.folder / "whole/checkpoint/trainer.bin"));
  }

  void anotherProcessGoesOnFromTheFolderAlone() {
    const Place place;
    TrainingPlan plan = place.plan();
    plan.samplePrompt = {0xff, 'a'};
    plan.model = place.folder / "model";
    mb::test::writeModel(plan.model, smallConfig(), randomTensors(smallConfig(), 3));
    TrainingPlan wholePlan = plan;
    wholePlan.folder = place.folder / "whole";
    const Heard whole = trained(wholePlan);
    Heard heard;
    std::stop_source source;
    heard.onEvent = [&](const TrainingEvent& event) {
      if (std::get_if<TrainingStepped>(&event)) source.request_stop();
    };
    {
      TrainingSession session(plan, heard.listener());
      QVERIFY_EXCEPTION_THROWN(session.run(source.get_token()), Stopped);
      session.save();
    }
    std::filesystem::remove_all(plan.model);
    heard.onEvent = {};
    const TrainingPlan again = planToResume(plan.folder);
    QVERIFY(again.samplePrompt == plan.samplePrompt);
    QVERIFY(again.options == plan.options);
    TrainingSession(again, heard.listener()).run({});
    QVERIFY(heard.losses() == whole.losses());
    QCOMPARE(place.log().size(), std::size_t{15});
  }

  void aRunFileOfAnotherKindIsRefused() {
    const Place place;
    trained(place.plan());
    nlohmann::json run = nlohmann::json::parse(readFile(place.folder / "run/run.json"));
    const auto refused = [&](const nlohmann::json& json, const char* what) {
      writeFile(place.folder / "run/run.json", json.dump());
      const auto error = thrown<FormatError>([&] { planToResume(place.folder / "run"); });
      return error && mentions(error->what(), "run.json", what);
    };
    nlohmann::json broken = run;
    broken["files"] = 7;
    QVERIFY(refused(broken, "files"));
    broken = run;
    broken["options"]["segment"] = "many";
    QVERIFY(refused(broken, "segment"));
    broken = run;
    broken.erase("validations");
    QVERIFY(refused(broken, "validations"));
    broken = run;
    broken["train_on"] = "abacus";
    QVERIFY(refused(broken, "cpu, cuda or auto"));
    run["train_on"] = "cuda";
    run["cuda_device"] = 3;
    writeFile(place.folder / "run/run.json", run.dump());
    const TrainingPlan again = planToResume(place.folder / "run");
    QVERIFY(again.device.kind == DeviceKind::Cuda);
    QCOMPARE(again.device.cudaDevice, 3);
    QVERIFY(refused(nlohmann::json::array(), "run"));
    QVERIFY(thrown<FileError>([&] { planToResume(place.folder / "none"); }));
  }

  void stepsAreFittedIntoTheTime() {
    const Place place;
    TrainingPlan plan = place.plan();
    plan.fitSteps = true;
    plan.minutes = 0.05;
    plan.options.steps = 1;
    plan.options.warmUp = 1'000'000;
    Heard heard;
    TrainingSession session(plan, heard.listener());
    session.run({});
    const auto fitted = heard.all<TrainingFitted>();
    QCOMPARE(fitted.size(), std::size_t{1});
    QVERIFY(fitted[0].steps > 1);
    QCOMPARE(session.plan().options.steps, fitted[0].steps);
    QVERIFY(session.plan().options.warmUp <= fitted[0].steps / 10);
    const double tokens = static_cast<double>(fitted[0].steps * 40 * 3);
    QCOMPARE(fitted[0].passes, tokens / 3600);
    QVERIFY(session.isDone());
    QVERIFY(planToResume(plan.folder).options == session.plan().options);
    const auto first = heard.all<TrainingStepped>().front();
    QCOMPARE(first.step.step, std::uint64_t{1});  // what was timed does not count
  }

  void whatIsKeptIsTheModel() {
    const Place place;
    Heard heard;
    TrainingSession session(place.plan(), heard.listener());
    session.run({});
    session.keep(place.folder / "kept");
    const auto model = openModel(place.folder / "kept");
    QVERIFY(model->config() == smallConfig());
    const std::string text = readFile(place.folder / "text").substr(3600);
    const double bits = evaluate(*model, nullptr, toBytes(text), {}, {}).bitsPerByte;
    QVERIFY(std::abs(bits - heard.all<TrainingValidated>().back().bitsPerByte) < 1e-3);
    const auto error = thrown<RequestError>([&] { session.keep(place.folder / "kept"); });
    QVERIFY(error && mentions(error->what(), "kept", "expected", "found"));
    const FileSizeLimit limit(1000);
    QVERIFY(thrown<FileError>([&] { session.keep(place.folder / "no-room"); }));
    QVERIFY(!std::filesystem::exists(place.folder / "no-room"));
  }

  void aDiskWithoutRoomLosesNothing() {
    const Place place;
    const Heard whole = trained(place.plan("whole"));
    TrainingPlan plan = place.plan();
    plan.checkpoints.steps = 4;
    Heard heard;
    TrainingSession session(plan, heard.listener());
    {
      const FileSizeLimit limit(3000);  // for a dozen lines, not for a checkpoint
      const auto error = thrown<FileError>([&] { session.run({}); });
      QVERIFY(error && mentions(error->what(), "checkpoint"));
      QCOMPARE(session.steps(), std::uint64_t{4});
    }
    {
      const FileSizeLimit limit(std::filesystem::file_size(plan.folder / "log.jsonl") + 50);
      const auto error = thrown<FileError>([&] { session.run({}); });
      QVERIFY(error && mentions(error->what(), "log.jsonl", "disk"));
    }
    session.run({});
    QCOMPARE(place.log().size(), std::size_t{15});
    std::uint64_t expected = 0;
    for (const auto& line : place.log())
      if (line.contains("bits_per_token"))
        QCOMPARE(line.at("step").get<std::uint64_t>(), ++expected);
    QVERIFY(readFile(place.folder / "run/checkpoint/trainer.bin") ==
            readFile(place.folder / "whole/checkpoint/trainer.bin"));
  }

  void aLossThatIsNoNumberStopsWithTheLastGoodWeights() {
    const Place place;
    TrainingPlan plan = place.plan();
    plan.options.learningRate = 1;  // with next to no epsilon and decay: soon there are no numbers
    plan.options.weightDecay = 10;
    plan.options.clip = 0;
    plan.options.steps = 2000;
    plan.checkpoints.steps = 1;
    Heard heard;
    TrainingSession session(plan, heard.listener());
    const auto error = thrown<DivergedError>([&] { session.run({}); });
    QVERIFY(error && mentions(error->what(), "step", "not", "number"));
    const auto ruined = heard.all<TrainingStepped>().back().step.step;
    QVERIFY(session.steps() > 0 && session.steps() <= ruined);
    QVERIFY2(mentions(error->what(), "checkpoint of step " + std::to_string(session.steps())),
             error->what());
    session.keep(place.folder / "kept");
    openModel(place.folder / "kept");  // refuses what is not a number
    QCOMPARE(place.log().back().at("step").get<std::uint64_t>(), session.steps());
    const TrainingPlan again = planToResume(plan.folder);
    Heard ignored;
    QCOMPARE(TrainingSession(again, ignored.listener()).steps(), session.steps());
  }

  void refusesWhatDoesNotFit() {
    const Place place;
    const auto refused = [](const TrainingPlan& plan, auto... what) {
      Heard heard;
      const auto error = thrown<Error>([&] { TrainingSession(plan, heard.listener()); });
      return error && mentions(error->what(), what...) && !std::filesystem::exists(plan.folder);
    };
    TrainingPlan plan = place.plan();
    plan.files = {place.folder / "none"};
    QVERIFY(refused(plan, "none"));
    writeFile(place.folder / "empty", "");
    plan.files = {place.folder / "text", place.folder / "empty"};
    QVERIFY(refused(plan, "empty", "expected at least one byte", "found none"));
    plan = place.plan();
    plan.shape.vocabSize = 300;
    QVERIFY(refused(plan, "tokenizer"));
    writeFile(place.folder / "tokenizer.json", tokenizerJson({{"a", "b"}, {"c", "d"}}).dump());
    plan.tokenizer = place.folder / "tokenizer.json";
    plan.shape.vocabSize = 257;
    QVERIFY(refused(plan, "expected at most 257 tokens", "found 258"));
    plan = place.plan();
    plan.validation = place.folder / "one";
    writeFile(place.folder / "one", "a");
    QVERIFY(refused(plan, "one", "2 tokens"));
  }

  void aSubwordModelIsMeasuredInBytes() {
    const Place place;
    TrainingPlan plan = place.plan();
    writeFile(place.folder / "tokenizer.json",
              tokenizerJson({{"t", "h"}, {"th", "e"}, {"a", "n"}}).dump());
    plan.tokenizer = place.folder / "tokenizer.json";
    plan.shape.vocabSize = 0;
    Heard heard;
    TrainingSession session(plan, heard.listener());
    session.run({});
    const auto step = heard.all<TrainingStepped>().front();
    const double perToken = heard.all<TrainingStarted>()[0].bytesPerToken;
    QVERIFY(perToken > 1.01);
    QVERIFY(std::abs(step.bitsPerByte * perToken - step.step.bits) < 1e-9);
    QVERIFY(heard.all<TrainingStarted>()[0].tokens < 3600);
    session.keep(place.folder / "kept");
    QVERIFY(std::filesystem::exists(place.folder / "kept/tokenizer.json"));
  }
};

QTEST_APPLESS_MAIN(TrainingSessionTest)
#include "test_training_session.moc"
