#include <QtTest>
#include <cmath>

#include "tests/support/random_values.h"
#include "ui/model/trace_store.h"

using namespace mb;
using namespace mb::ui;

namespace {

TapBlock blockOf(std::size_t count, std::size_t layers, std::size_t bins) {
  TapBlock block;
  block.count = count;
  block.layers = layers;
  block.bins = bins;
  block.byLayer.assign(count * kTapKinds * layers, 0.5f);
  block.byChannel.assign(count * kTapKinds * bins, 0.5f);
  return block;
}

}  // namespace

class TraceStoreTest : public QObject {
  Q_OBJECT

 private slots:
  void meansOverAnyRangeAgreeWithTheRows() {
    constexpr std::size_t kWidth = 5;
    constexpr std::size_t kRows = 5000;
    test::Random random(4);
    TracePyramid pyramid;
    pyramid.reset(kWidth);
    std::vector<std::vector<float>> rows(kRows, std::vector<float>(kWidth));
    std::vector<bool> valid(kRows);
    for (std::size_t i = 0; i < kRows; ++i) {
      for (float& value : rows[i]) value = random.uniform(0, 2);
      valid[i] = random.below(10) != 0;
      if (valid[i]) pyramid.setRow(i, rows[i].data());
    }
    std::vector<float> mean;
    for (int trial = 0; trial < 300; ++trial) {
      // Ranges a plot asks for: whole multiples of a row of the level that is read.
      const std::size_t span = std::size_t{1} << (3 * random.below(4));
      const std::size_t first = random.below(kRows / span) * span;
      const std::size_t last = std::min(kRows, first + span * (1 + random.below(31)));
      std::vector<double> sum(kWidth);
      double count = 0;
      for (std::size_t i = first; i < last; ++i) {
        if (!valid[i]) continue;
        ++count;
        for (std::size_t c = 0; c < kWidth; ++c) sum[c] += static_cast<double>(rows[i][c]);
      }
      QCOMPARE(pyramid.mean(first, last, mean), count > 0);
      for (std::size_t c = 0; c < kWidth && count > 0; ++c)
        QVERIFY(std::abs(static_cast<double>(mean[c]) - sum[c] / count) < 3e-3);
    }
  }

  void changedRowsShowAtEveryResolution() {
    TracePyramid pyramid;
    pyramid.reset(1);
    const float one = 1;
    const float three = 3;
    for (std::size_t i = 0; i < 4096; ++i) pyramid.setRow(i, &one);
    std::vector<float> mean;
    QVERIFY(pyramid.mean(0, 4096, mean));
    QCOMPARE(mean[0], 1.0f);
    for (std::size_t i = 0; i < 4096; ++i) pyramid.setRow(i, &three);
    QVERIFY(pyramid.mean(0, 4096, mean));
    QCOMPARE(mean[0], 3.0f);
    pyramid.truncate(100);
    QVERIFY(!pyramid.mean(100, 4096, mean));
    QVERIFY(pyramid.mean(0, 4096, mean));
    QCOMPARE(mean[0], 3.0f);
    pyramid.reset(1);
    QVERIFY(!pyramid.mean(0, 4096, mean));
  }

  void ofALongTextTheRowsInUseAreKeptAndTheMeansOfAll() {
    constexpr std::size_t kRows = 4 * TracePyramid::kMostRows;
    TracePyramid pyramid;
    pyramid.reset(1);
    const auto valueOf = [](std::size_t i) { return static_cast<float>(i / 512 % 7); };
    std::vector<float> mean;
    for (std::size_t i = 0; i < kRows; ++i) {
      const float value = valueOf(i);
      pyramid.setRow(i, &value);
      if (i % 1024 == 0) QVERIFY(pyramid.mean(0, 20, mean));  // somebody looks at the beginning
    }
    QVERIFY(pyramid.hasRow(7));
    QVERIFY(pyramid.hasRow(kRows - 1));
    QVERIFY(!pyramid.hasRow(kRows / 2));
    for (std::size_t i = 0; i < kRows; i += 512) {
      QVERIFY(pyramid.mean(i, i + 512, mean));
      QCOMPARE(mean[0], valueOf(i));
      QCOMPARE(pyramid.nearest(i, 0), std::optional(valueOf(i)));
      QVERIFY(pyramid.isKnown(i, 512));
    }
    QVERIFY(!pyramid.isKnown(kRows / 2, 1));
    const float other = 9;
    pyramid.setRow(kRows / 2, &other);  // read again, for whoever looks there
    QVERIFY(pyramid.isKnown(kRows / 2, 1));
    QCOMPARE(pyramid.value(kRows / 2, 0), 9.0f);
    for (std::size_t i = 0; i < 4096; ++i) pyramid.setRow(i, &other);
    for (std::size_t i = 0; i < 4096; i += 500) QVERIFY(pyramid.hasRow(i));  // written is in use
    QVERIFY(pyramid.mean(kRows / 2 + 512, kRows / 2 + 1024, mean));
    QCOMPARE(mean[0], valueOf(kRows / 2 + 512));
  }

  void cuttingWhereRowsWereDroppedKeepsTheMeansBefore() {
    constexpr std::size_t kRows = 2 * TracePyramid::kMostRows;
    TracePyramid pyramid;
    pyramid.reset(1);
    const float two = 2;
    const float four = 4;
    for (std::size_t i = 0; i < kRows; ++i) pyramid.setRow(i, &two);
    pyramid.truncate(5000);
    QCOMPARE(pyramid.size(), std::size_t{5000});
    std::vector<float> mean;
    QVERIFY(pyramid.mean(0, 5000, mean));
    QCOMPARE(mean[0], 2.0f);
    QVERIFY(!pyramid.mean(5000, kRows, mean));
    for (std::size_t i = 5000; i < 10'000; ++i) pyramid.setRow(i, &four);
    QVERIFY(pyramid.mean(0, 10'000, mean));
    QVERIFY(std::abs(mean[0] - 3.0f) < 0.2f);
    QVERIFY(pyramid.mean(4992 - 512, 4992, mean));
    QCOMPARE(mean[0], 2.0f);
    QVERIFY(pyramid.mean(5056, 5056 + 512, mean));
    QCOMPARE(mean[0], 4.0f);
  }

  void aMeanThatIsCutThroughIsMadeAnew() {
    TracePyramid pyramid;
    pyramid.reset(1);
    const float one = 1;
    const float ten = 10;
    for (std::size_t i = 0; i < 200; ++i) pyramid.setRow(i, i < 96 ? &one : &ten);
    std::vector<float> mean;
    QVERIFY(pyramid.mean(64, 104, mean));
    pyramid.truncate(100);
    QVERIFY(pyramid.mean(64, 100, mean));
    QVERIFY(std::abs(mean[0] - 2.0f) < 1e-3f);
  }

  void choosingAnotherLayerForgetsItsChannelsOnly() {
    TraceStore store;
    store.reset(2, 3);
    TapBlock block = blockOf(1, 2, 3);
    block.byLayer = {1, 2, 3, 4, 5, 6};
    block.byChannel = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    store.add({0, 1, block});
    QVERIFY(store.byChannel(TapKind::Decay).hasRow(0));
    QCOMPARE(store.byChannel(TapKind::Decay).value(0, 2), 9.0f);
    QCOMPARE(store.byLayer(TapKind::StateNorm).value(0, 1), 4.0f);
    store.setLayer(1);
    QVERIFY(!store.byChannel(TapKind::Decay).hasRow(0));
    QVERIFY(store.byLayer(TapKind::StateNorm).hasRow(0));
    store.add({0, 1, block});  // of layer 0: its channels are not ours
    QVERIFY(!store.byChannel(TapKind::Decay).hasRow(0));
    block.layer = 1;
    store.add({0, 1, block});
    QVERIFY(store.byChannel(TapKind::Decay).hasRow(0));
  }

  void blocksOfAnotherModelAreIgnored() {
    TraceStore store;
    store.reset(2, 3);
    store.add({0, 1, blockOf(1, 1, 1)});
    QCOMPARE(store.byLayer(TapKind::Delta).size(), std::size_t{0});
  }

  void aLongTextTakesLittleMoreThanAShortOne() {
    TraceStore store;
    store.reset(8, 64);
    const TapBlock block = blockOf(1000, 8, 64);
    std::vector<float> mean;
    const auto growTo = [&](std::size_t size) {
      for (std::size_t first = store.byLayer(TapKind::Delta).size(); first < size; first += 1000)
        store.add({first, 1000, block});
      for (const auto kind : {TapKind::Delta, TapKind::StateNorm, TapKind::Decay})
        if (!store.byChannel(kind).mean(0, size, mean)) return std::size_t{0};
      return store.bytesUsed();
    };
    const std::size_t atTenth = growTo(100'000);
    const std::size_t atEnd = growTo(1'000'000);
    QVERIFY(atTenth > 0);
    QVERIFY2(atEnd < atTenth + 120 * 900'000, qPrintable(QString::number(atEnd - atTenth)));
  }
};

QTEST_GUILESS_MAIN(TraceStoreTest)
#include "test_trace_store.moc"
