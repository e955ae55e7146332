// What streams read of a text when they change places after a run of segments.
#include <QTest>
#include <algorithm>
#include <numeric>

#include "engine/training/data_source.h"
#include "engine/training/trainer.h"

using namespace mb;

namespace {

/// A text whose tokens are their places.
std::vector<Token> placesOf(std::size_t size) {
  std::vector<Token> text(size);
  std::iota(text.begin(), text.end(), 0);
  return text;
}

TrainingOptions inRuns(std::size_t run) {
  TrainingOptions options;
  options.segment = 10;
  options.streams = 4;
  options.run = run;
  return options;
}

struct Read {
  std::size_t first = 0;
  bool beginsAnew = false;
  bool operator==(const Read&) const = default;
};

/// The lessons of `steps` steps, stream by stream.
std::vector<std::vector<Read>> readBy(const TextSource& source, const TrainingOptions& options,
                                      std::size_t steps) {
  std::vector<std::vector<Read>> read(options.streams);
  std::uint64_t index = 0;
  std::uint64_t place = 0;
  Lesson lesson;
  for (std::size_t step = 0; step < steps; ++step)
    for (auto& stream : read)
      for (std::size_t i = 0; i < options.accumulate; ++i) {
        source.next(place, index++, lesson);
        stream.push_back({static_cast<std::size_t>(lesson.inputs.front()), lesson.beginsAnew});
      }
  return read;
}

std::size_t startsIn(const std::vector<Read>& stream) {
  return static_cast<std::size_t>(std::ranges::count(stream, true, &Read::beginsAnew));
}

}  // namespace

class DataSourceTest : public QObject {
  Q_OBJECT
 private slots:
  void streamsReadOnWithinARun() {
    const std::vector<Token> text = placesOf(2000);
    TrainingOptions options = inRuns(5);
    const TextSource source(text, text.size(), options);
    for (const auto& stream : readBy(source, options, 40)) {
      QVERIFY(stream[0].beginsAnew);
      QVERIFY(startsIn(stream) >= 8 && startsIn(stream) <= 9);
      for (std::size_t i = 1; i < stream.size(); ++i)
        QCOMPARE(stream[i].first == stream[i - 1].first + 10, !stream[i].beginsAnew);
    }
  }

  void targetsFollowTheirInputs() {
    const std::vector<Token> text = placesOf(203);  // a run leaves little to spare
    const TrainingOptions options = inRuns(5);
    const TextSource source(text, text.size(), options);
    Lesson lesson;
    std::uint64_t place = 0;
    for (std::uint64_t index = 0; index < 400; ++index) {
      source.next(place, index, lesson);
      QCOMPARE(lesson.inputs.size(), std::size_t{10});
      for (std::size_t i = 0; i < 10; ++i) QCOMPARE(lesson.targets[i], lesson.inputs[i] + 1);
    }
  }

  void aPassReadsEveryRunOnce() {
    constexpr std::size_t kRuns = 21;
    const std::vector<Token> text = placesOf(kRuns * 50 + 1);  // nothing to spare
    TrainingOptions options = inRuns(5);
    options.streams = 1;
    const TextSource source(text, text.size(), options);
    std::vector<std::vector<std::size_t>> orders;
    for (std::size_t pass = 0; pass < 2; ++pass) {
      std::vector<std::size_t> starts;
      const auto read = readBy(source, options, 2 * kRuns * 5)[0];
      for (std::size_t i = pass * kRuns * 5; i < (pass + 1) * kRuns * 5; i += 5)
        starts.push_back(read[i].first / 50);
      orders.push_back(starts);
      std::ranges::sort(starts);
      for (std::size_t i = 0; i < kRuns; ++i) QCOMPARE(starts[i], i);
    }
    QVERIFY(orders[0] != orders[1]);
    for (std::size_t i = 1; i < kRuns; ++i) {  // neighbours are not read one after the other
      const std::size_t apart = orders[0][i] > orders[0][i - 1] ? orders[0][i] - orders[0][i - 1]
                                                                : orders[0][i - 1] - orders[0][i];
      QVERIFY(apart > 5 && apart < kRuns - 5);
    }
  }

  void passesBeginAtOtherTokens() {
    const std::vector<Token> text = placesOf(4 * 50 + 40);
    TrainingOptions options = inRuns(5);
    options.streams = 1;
    const TextSource source(text, text.size(), options);
    const auto read = readBy(source, options, 10 * 20)[0];
    std::vector<std::size_t> shifts;
    for (std::size_t pass = 0; pass < 10; ++pass) {
      shifts.push_back(read[pass * 20].first % 50);
      for (std::size_t i = 0; i < 20; i += 5)
        QCOMPARE(read[pass * 20 + i].first % 50, shifts.back());
    }
    std::ranges::sort(shifts);
    QVERIFY(std::ranges::unique(shifts).size() < 7);
  }

  void streamsChangePlacesOneAfterTheOther() {
    const std::vector<Token> text = placesOf(5000);
    const TrainingOptions options = inRuns(8);
    const TextSource source(text, text.size(), options);
    const auto read = readBy(source, options, 40);
    for (std::size_t step = 1; step < 40; ++step)
      QVERIFY(std::ranges::count_if(read, [&](const auto& r) { return r[step].beginsAnew; }) <= 1);
  }

  void segmentsOfAStepFollowEachOther() {
    const std::vector<Token> text = placesOf(5000);
    TrainingOptions options = inRuns(6);
    const auto oneByOne = readBy(TextSource(text, text.size(), options), options, 24);
    options.accumulate = 2;
    QVERIFY(readBy(TextSource(text, text.size(), options), options, 12) == oneByOne);
  }

  void theSeedDecidesWhereRunsLie() {
    const std::vector<Token> text = placesOf(5000);
    TrainingOptions options = inRuns(6);
    const auto read = readBy(TextSource(text, text.size(), options), options, 24);
    QVERIFY(readBy(TextSource(text, text.size(), options), options, 24) == read);
    options.seed = 1;
    QVERIFY(readBy(TextSource(text, text.size(), options), options, 24) != read);
  }

  void aRunMayBeLongerThanTheText() {
    const std::vector<Token> text = placesOf(36);  // three segments, their targets, and 5 more
    const TrainingOptions options = inRuns(1000);
    for (const auto& stream : readBy(TextSource(text, text.size(), options), options, 12)) {
      QVERIFY(startsIn(stream) >= 4);
      for (const Read& read : stream) QVERIFY(read.first <= 25);
    }
  }
};

QTEST_GUILESS_MAIN(DataSourceTest)
#include "test_data_source.moc"
