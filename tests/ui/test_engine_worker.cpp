// The engine's thread: what it is told, what it answers, and what a Session says of the same.
#include <QElapsedTimer>
#include <QtTest>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <unistd.h>

#include "tests/support/engine_talk.h"
#include "tests/support/random_values.h"
#include "tests/support/sanitizers.h"
#include "tests/support/thrown.h"

using namespace mb;
using namespace mb::test;
using mb::ui::ModelsLoaded;
using mb::ui::Observe;
using mb::ui::PlainTimed;
using mb::ui::RunFinished;
using mb::ui::SetTaps;
using mb::ui::Task;
using mb::ui::TaskFailed;
using mb::ui::TimePlain;

namespace {

/// More than any test lets a run write.
constexpr std::size_t kEndless = 100'000'000;

GenerationSettings settings(Speculation speculation = Speculation::Off) {
  GenerationSettings wanted;
  wanted.speculation = speculation;
  wanted.sampler = {.temperature = 0.8, .topK = 40, .seed = 11};
  return wanted;
}

/// A session that does the same without a thread.
struct Direct {
  explicit Direct(ByteView text, std::size_t count = 0, const TapRequest& taps = {})
      : session(openModel(goldenFolder("tiny-byte"), WeightPrecision::BFloat16), nullptr) {
    session.setTaps(taps);
    session.replace(0, 0, text);
    session.score(heard, {});
    if (count > 0) session.generate(count, settings(), heard, {});
    session.score(heard, {});
  }
  Session session;
  Recorder heard;
};

/// Chunks differ after an interruption, and with them the rounding.
bool sameRecords(const std::vector<ByteRecord>& a, const std::vector<ByteRecord>& b) {
  return std::ranges::equal(a, b, [](const ByteRecord& x, const ByteRecord& y) {
    return x.byte == y.byte && x.origin == y.origin && x.scored == y.scored && x.round == y.round &&
           std::abs(x.surprisal - y.surprisal) < 0.02f;
  });
}

/// Whether a thread of this process runs, or would if it got a processor.
bool anotherThreadRuns() {
  const std::string self = std::to_string(getpid());
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream file(task.path() / "stat");
    std::string stat;
    std::getline(file, stat);
    const auto state = stat.rfind(") ");
    if (task.path().filename() != self && state != std::string::npos && stat[state + 2] == 'R')
      return true;
  }
  return false;
}

/// Until all other threads wait for something, also on a machine that has no time for them.
void waitUntilIdle() {
  for (int idle = 0; idle < 20; idle = anotherThreadRuns() ? 0 : idle + 1) QTest::qWait(20);
}

/// Loads a tiny model and gives it a text.
void start(EngineTalk& talk, ByteView text) {
  talk.load(goldenFolder("tiny-byte"));
  TRY(talk, talk.last<ModelsLoaded>());
  talk.setText(text);
  TRY(talk, talk.isUpToDate());
}

}  // namespace

class EngineWorkerTest : public QObject {
  Q_OBJECT

 private slots:
  void loadsAndDescribesAModel() {
    EngineTalk talk;
    talk.load(goldenFolder("tiny-byte"));
    TRY(talk, talk.last<ModelsLoaded>());
    const ModelsLoaded loaded = *talk.last<ModelsLoaded>();
    QCOMPARE(QString::fromStdString(loaded.verifier.info.name), QString("tiny-byte"));
    QVERIFY(loaded.verifier.info.folder == goldenFolder("tiny-byte"));
    QCOMPARE(loaded.verifier.config.layers, std::size_t{3});
    QVERIFY(!loaded.verifier.hash.empty());
    QVERIFY(!loaded.drafter);
    QVERIFY(!loaded.deviceReason.empty());
    QCOMPARE(talk.events.size(), std::size_t{1});
  }

  void withoutAModelNothingIsWrittenAndNothingBreaks() {
    EngineTalk talk;
    talk.setText(toBytes("hello"));
    const auto run = talk.generate(10, settings());
    TRY(talk, talk.finished(run));
    QCOMPARE(talk.finished(run)->bytes, std::size_t{0});
    QVERIFY(talk.heard.records.empty());
  }

  void scoresATextByItself() {
    EngineTalk talk;
    Random random(1);
    const Bytes text = random.bytes(1500);
    start(talk, text);
    const Direct direct(text);
    QVERIFY(!talk.heard.gaps);
    QVERIFY(sameRecords(talk.heard.records, direct.heard.records));
    const Prediction expected = *direct.session.next();
    QCOMPARE(talk.next->prediction.candidates[0].byte, expected.candidates[0].byte);
    QVERIFY(talk.snapshots > 0);
  }

  void writesWhatASessionWritesCompleteAndInOrder() {
    EngineTalk talk;
    start(talk, toBytes("The rain"));
    const auto run = talk.generate(300, settings());
    TRY(talk, talk.finished(run) && talk.isUpToDate());
    QCOMPARE(talk.finished(run)->bytes, std::size_t{300});
    QVERIFY(!talk.finished(run)->stopped);
    QVERIFY(talk.finished(run)->seconds > 0);
    const Direct direct(toBytes("The rain"), 300);
    QVERIFY(talk.text == direct.session.text());
    QVERIFY(!talk.heard.gaps);
    QVERIFY(sameRecords(talk.heard.records, direct.heard.records));
    QCOMPARE(talk.heard.records[8].origin, Origin::Plain);
  }

  void speculationReportsEveryRoundAndByte() {
    EngineTalk talk;
    talk.load(bundledFolder("books"), bundledFolder("books-draft"));
    TRY(talk, talk.last<ModelsLoaded>());
    QVERIFY(talk.last<ModelsLoaded>()->drafter);
    talk.setText(toBytes("It was a dark and stormy night"));
    const auto run = talk.generate(80, settings(Speculation::TopBeta));
    TRY(talk, talk.finished(run) && talk.isUpToDate());
    QCOMPARE(talk.text.size(), std::size_t{30 + 80});
    QVERIFY(!talk.heard.rounds.empty());
    const std::string problem = problemOf(talk.heard, 30);
    QVERIFY2(problem.empty(), problem.c_str());
  }

  void stepsWriteWhatOneRunWrites() {
    EngineTalk steps;
    start(steps, toBytes("The rain"));
    for (int i = 0; i < 12; ++i) {
      const auto run = steps.generate(1, settings());
      TRY(steps, steps.finished(run));
      QCOMPARE(steps.finished(run)->bytes, std::size_t{1});
    }
    TRY(steps, steps.isUpToDate());
    QVERIFY(steps.text == Direct(toBytes("The rain"), 12).session.text());
  }

  void stopsInTimeAndGoesOnWhereItWas() {
    EngineTalk talk;
    talk.load(bundledFolder("books"), bundledFolder("books-draft"));
    TRY(talk, talk.last<ModelsLoaded>());
    talk.setText(toBytes("It was a dark"));
    std::vector<qint64> latencies;
    for (int i = 0; i < 5; ++i) {
      const std::size_t before = talk.text.size();
      const auto run = talk.generate(kEndless, settings(Speculation::TopBeta));
      TRY(talk, talk.text.size() > before);
      QElapsedTimer clock;
      clock.start();
      talk.worker().stop();
      while (!(talk.listen() && talk.finished(run)) && !clock.hasExpired(30'000)) QTest::qWait(1);
      latencies.push_back(clock.elapsed());
      QVERIFY(talk.finished(run));
      QVERIFY(talk.finished(run)->stopped);
      QCOMPARE(talk.finished(run)->bytes, talk.text.size() - before);
    }
    QVERIFY(!talk.heard.gaps);
    // Of five, one at least that other programs did not disturb; test_stop has the distribution.
    const qint64 least = *std::ranges::min_element(latencies);
    QVERIFY2(kSanitized || least < 100, qPrintable(QString::number(least)));
  }

  void aStoppedRunGoesOnAsIfItHadNotStopped() {
    EngineTalk talk;
    start(talk, toBytes("The rain"));
    auto run = talk.generate(kEndless, settings());
    TRY(talk, talk.text.size() > 20);
    talk.worker().stop();
    TRY(talk, talk.finished(run));
    const std::size_t written = talk.text.size() - 8;
    run = talk.generate(50, settings());
    TRY(talk, talk.finished(run) && talk.isUpToDate());
    QVERIFY(talk.text == Direct(toBytes("The rain"), written + 50).session.text());
  }

  void anEditWhileWritingEndsTheRunAndScoresTheNewText() {
    EngineTalk talk;
    start(talk, toBytes("The rain in the old harbour"));
    const auto run = talk.generate(kEndless, settings());
    TRY(talk, talk.text.size() > 200);
    talk.edit(4, 4, toBytes("storm"));
    TRY(talk, talk.finished(run) && talk.isUpToDate());
    QVERIFY(talk.finished(run)->stopped);
    const Bytes start(talk.text.begin(), talk.text.begin() + 28);
    QVERIFY(start == toBytes("The storm in the old harbour"));
    const Direct direct(talk.text);
    QCOMPARE(talk.heard.records.size(), direct.heard.records.size());
    for (std::size_t i = 0; i < talk.text.size(); ++i)
      QVERIFY(std::abs(talk.heard.records[i].surprisal - direct.heard.records[i].surprisal) <
              0.02f);
  }

  void ofManyEditsTheNewestWins() {
    EngineTalk talk;
    Random random(2);
    start(talk, random.bytes(8000));
    const std::size_t before = talk.reported;
    for (std::size_t i = 0; i < 50; ++i) {
      const Byte byte = static_cast<Byte>('a' + i % 26);
      talk.edit(i, 1, {&byte, 1});
    }
    TRY(talk, talk.isUpToDate());
    QCOMPARE(talk.text.size(), std::size_t{8000});
    QVERIFY(!talk.heard.gaps);
    QVERIFY(sameRecords(talk.heard.records, Direct(talk.text).heard.records));
    QVERIFY2(talk.reported - before < 25 * 8000, "older edits were scored to the end");
  }

  void scoresThatTheWindowDidNotTakeBeforeAnEditAreSentAgain() {
    EngineTalk talk;
    Random random(3);
    start(talk, random.bytes(900));
    const Byte a = 'a';
    talk.edit(100, 1, {&a, 1});
    waitUntilIdle();  // all is scored, and lies there
    talk.edit(600, 1, {&a, 1});
    TRY(talk, talk.isUpToDate());
    QVERIFY(!talk.heard.gaps);
    QVERIFY(sameRecords(talk.heard.records, Direct(talk.text).heard.records));
  }

  void anEmptyTextCannotGoOn() {
    EngineTalk talk;
    start(talk, toBytes("x"));
    talk.setText({});
    const auto run = talk.generate(5, settings());
    TRY(talk, talk.finished(run));
    QCOMPARE(talk.finished(run)->bytes, std::size_t{0});
    QVERIFY(talk.last<TaskFailed>());
    QCOMPARE(talk.last<TaskFailed>()->task, Task::Generate);
    QVERIFY(mentions(talk.last<TaskFailed>()->problem, "empty"));
  }

  void whatIsQueuedIsTakenBackEachWithItsEvent() {
    EngineTalk talk;
    start(talk, toBytes("The rain"));
    const auto first = talk.generate(kEndless, settings());
    TRY(talk, talk.text.size() > 8);
    talk.worker().post(TimePlain{1, 8, {}});
    talk.worker().stop();
    TRY(talk, talk.finished(first) && talk.last<TaskFailed>());
    QCOMPARE(talk.last<TaskFailed>()->task, Task::TimePlain);
    QVERIFY(talk.last<TaskFailed>()->problem.empty());
  }

  void anEditTakesQueuedRunsBack() {
    EngineTalk talk;
    start(talk, toBytes("The rain"));
    const auto first = talk.generate(kEndless, settings());
    const auto second = talk.generate(kEndless, settings());
    talk.setText(toBytes("Anew"));
    const auto third = talk.generate(kEndless, settings());
    talk.setText(toBytes("At last"));
    TRY(talk, talk.isUpToDate());
    QVERIFY(talk.text == toBytes("At last"));
    for (const auto run : {first, second, third}) {
      QVERIFY(talk.finished(run));
      QVERIFY(talk.finished(run)->stopped);
    }
  }

  void typingDoesNotCancelALoad() {
    EngineTalk talk;
    talk.load(bundledFolder("books"));
    while (talk.listen() && !talk.activity && talk.events.empty()) QThread::yieldCurrentThread();
    for (const char c : std::string("typing")) {
      const Byte byte = static_cast<Byte>(c);
      talk.edit(talk.text.size(), 0, {&byte, 1});
    }
    TRY(talk, !talk.events.empty());
    QVERIFY(talk.last<ModelsLoaded>());
    talk.setText(talk.text);
    TRY(talk, talk.isUpToDate());
    QVERIFY(talk.heard.bytes() == toBytes("typing"));
  }

  void editsOfTheOldTextDoNotReachNewModels() {
    EngineTalk talk;
    start(talk, toBytes("hello world"));
    talk.load(goldenFolder("no-conv-bias"));
    TRY(talk, talk.all<ModelsLoaded>().size() == 2);
    const Byte byte = 'J';
    talk.edit(0, 1, {&byte, 1});
    const auto run = talk.generate(5, settings());
    TRY(talk, talk.finished(run));
    QCOMPARE(talk.finished(run)->bytes, std::size_t{0});
    QVERIFY(talk.heard.records.empty());
    talk.setText(talk.text);
    TRY(talk, talk.isUpToDate());
    QVERIFY(talk.heard.bytes() == toBytes("Jello world"));
  }

  void everyLoadEndsWithOneEventAndTheLastOneHolds() {
    EngineTalk talk;
    for (int i = 0; i < 3; ++i) talk.load(bundledFolder("books"));
    talk.worker().stop();
    talk.load(goldenFolder("tiny-byte"));
    TRY(talk, talk.events.size() == 4);
    for (const auto& failed : talk.all<TaskFailed>()) QVERIFY(failed.problem.empty());
    QCOMPARE(QString::fromStdString(talk.last<ModelsLoaded>()->verifier.info.name),
             QString("tiny-byte"));
  }

  void tapsArriveForTheLayerChosenAndForAllBytes() {
    EngineTalk talk;
    const TapRequest wanted{true, 1, 4};
    talk.worker().post(SetTaps{wanted});
    const Bytes text = toBytes("The rain in the harbour");
    start(talk, text);
    TRY(talk, talk.heard.taps.size() == text.size());
    QVERIFY(talk.heard.taps == Direct(text, 0, wanted).heard.taps);
    const TapRequest other{true, 2, 4};
    talk.heard.taps.clear();
    talk.worker().post(SetTaps{other});
    talk.worker().post(Observe{5, 20});
    TRY(talk, talk.heard.taps.size() == 15);
    const auto expected = Direct(text, 0, other).heard.taps;
    for (const auto& [byte, values] : talk.heard.taps) {
      QVERIFY(byte >= 5 && byte < 20);
      for (std::size_t i = 0; i < values.size(); ++i)
        QVERIFY(std::abs(values[i] - expected.at(byte)[i]) <= 1e-3f * std::abs(values[i]));
    }
  }

  void nothingIsObservedWhenNobodyLooks() {
    EngineTalk talk;
    start(talk, toBytes("The rain"));
    const auto run = talk.generate(50, settings());
    TRY(talk, talk.finished(run) && talk.isUpToDate());
    QVERIFY(talk.heard.taps.empty());
  }

  void timesPlainDecodingWithoutChangingTheText() {
    EngineTalk talk;
    start(talk, toBytes("The rain in the harbour"));
    const Bytes before = talk.text;
    talk.worker().post(TimePlain{5, 15, settings()});
    TRY(talk, talk.last<PlainTimed>());
    QCOMPARE(talk.last<PlainTimed>()->bytes, std::size_t{10});
    QVERIFY(talk.last<PlainTimed>()->speculativeSeconds > 0);
    QVERIFY(talk.last<PlainTimed>()->plainSeconds > 0);
    const auto run = talk.generate(20, settings());
    TRY(talk, talk.finished(run));
    QVERIFY(talk.text == Direct(before, 20).session.text());
  }

  void aSlowWindowLosesNothing() {
    EngineTalk talk;
    talk.load(goldenFolder("tiny-byte"));
    TRY(talk, talk.last<ModelsLoaded>());
    Random random(3);
    // More than may wait: the engine has to wait for the window, and then go on.
    constexpr std::size_t kMostWaiting = 1 << 18;
    const Bytes text = random.bytes(kSanitized ? 20'000 : kMostWaiting + 30'000);
    talk.setText(text);
    waitUntilIdle();
    talk.listen();
    QVERIFY(kSanitized || (talk.reported >= kMostWaiting && talk.reported < text.size()));
    TRY(talk, talk.isUpToDate());
    QVERIFY(talk.isUpToDate());
    QVERIFY(!talk.heard.gaps);
    QCOMPARE(talk.reported, text.size());
    QVERIFY(talk.heard.bytes() == text);
    for (std::size_t i = 1; i < text.size(); ++i) QVERIFY(talk.heard.records[i].scored);
  }

  void aSlowWindowIsNotSwampedWithTaps() {
    EngineTalk talk;
    talk.load(goldenFolder("tiny-byte"));
    TRY(talk, talk.last<ModelsLoaded>());
    talk.worker().post(SetTaps{{true, 1, 4}});
    Random random(4);
    constexpr std::size_t kMostWaiting = 1 << 14;
    const Bytes text = random.bytes(kMostWaiting + 3'000);
    talk.setText(text);
    waitUntilIdle();
    talk.listen();
    QVERIFY(talk.heard.taps.size() >= kMostWaiting);
    QVERIFY(talk.heard.taps.size() < text.size());
    TRY(talk, talk.isUpToDate());
    QCOMPARE(talk.heard.taps.size(), text.size());
    QVERIFY(!talk.heard.gaps);
  }

  void endsWhileItWorksAndWhileItWaits() {
    for (const bool listening : {true, false}) {
      EngineTalk talk;
      start(talk, toBytes("The rain"));
      talk.generate(kEndless, settings());
      if (listening) TRY(talk, talk.text.size() > 100);
    }
  }
};

QTEST_GUILESS_MAIN(EngineWorkerTest)
#include "test_engine_worker.moc"
