#include <QtTest>
#include <cmath>

#include "tests/support/random_values.h"
#include "ui/model/trace_store.h"

using namespace mb;
using namespace mb::ui;

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
      const std::size_t span = std::size_t{1} << (2 * random.below(5));
      const std::size_t first = random.below(kRows / span) * span;
      const std::size_t last = std::min(kRows, first + span * (1 + random.below(40)));
      std::vector<double> sum(kWidth);
      double count = 0;
      for (std::size_t i = first; i < last; ++i) {
        if (!valid[i]) continue;
        ++count;
        for (std::size_t c = 0; c < kWidth; ++c) sum[c] += static_cast<double>(rows[i][c]);
      }
      QCOMPARE(pyramid.mean(first, last, mean), count > 0);
      // A coarse level may add bytes at the ends: less than a tenth of the range.
      const double tolerance = last - first < 40 ? 2e-3 : 0.2;
      for (std::size_t c = 0; c < kWidth && count > 0; ++c)
        QVERIFY(std::abs(static_cast<double>(mean[c]) - sum[c] / count) < tolerance);
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
    pyramid.invalidate();
    QVERIFY(!pyramid.mean(0, 4096, mean));
  }

  void choosingAnotherLayerForgetsItsChannelsOnly() {
    TraceStore store;
    store.reset(2, 3);
    TapBlock block;
    block.count = 1;
    block.layers = 2;
    block.bins = 3;
    block.byLayer = {1, 2, 3, 4, 5, 6};
    block.byChannel = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    store.add({0, 1, block});
    QVERIFY(store.byChannel(TapKind::Decay).isValid(0));
    QCOMPARE(store.byChannel(TapKind::Decay).value(0, 2), 9.0f);
    QCOMPARE(store.byLayer(TapKind::StateNorm).value(0, 1), 4.0f);
    store.setLayer(1);
    QVERIFY(!store.byChannel(TapKind::Decay).isValid(0));
    QVERIFY(store.byLayer(TapKind::StateNorm).isValid(0));
    store.add({0, 1, block});  // of layer 0: its channels are not ours
    QVERIFY(!store.byChannel(TapKind::Decay).isValid(0));
    block.layer = 1;
    store.add({0, 1, block});
    QVERIFY(store.byChannel(TapKind::Decay).isValid(0));
  }

  void blocksOfAnotherModelAreIgnored() {
    TraceStore store;
    store.reset(2, 3);
    TapBlock block;
    block.count = 1;
    block.layers = 1;
    block.bins = 1;
    block.byLayer = {1, 1, 1};
    block.byChannel = {1, 1, 1};
    store.add({0, 1, block});
    QCOMPARE(store.byLayer(TapKind::Delta).size(), std::size_t{0});
  }

  void aHundredThousandBytesTakeLessThanAHundredMegabytes() {
    TraceStore store;
    store.reset(8, 64);
    TapBlock block;
    block.count = 1000;
    block.layers = 8;
    block.bins = 64;
    block.byLayer.assign(1000 * 3 * 8, 0.5f);
    block.byChannel.assign(1000 * 3 * 64, 0.5f);
    for (std::size_t first = 0; first < 100'000; first += 1000) store.add({first, 1000, block});
    std::vector<float> mean;
    for (const auto kind : {TapKind::Delta, TapKind::StateNorm, TapKind::Decay})
      QVERIFY(store.byChannel(kind).mean(0, 100'000, mean));
    QVERIFY2(store.bytesUsed() < 100'000'000, qPrintable(QString::number(store.bytesUsed())));
  }
};

QTEST_GUILESS_MAIN(TraceStoreTest)
#include "test_trace_store.moc"
