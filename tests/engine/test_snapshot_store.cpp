// SnapshotStore: never beyond the position asked for, dense near the end, few in all.
#include <QtTest>
#include <cmath>

#include "engine/session/snapshot_store.h"
#include "tests/support/model_files.h"
#include "tests/support/random_values.h"

using namespace mb;
using namespace mb::test;

namespace {

constexpr std::uint64_t kSpacing = SnapshotStore::kSpacing;

Snapshot snapshotAt(std::uint64_t position) {
  ModelConfig config = smallConfig();
  config.layers = 1;
  config.dInner = 1;
  config.dState = 1;
  config.dConv = 1;
  Snapshot snapshot{State{StateShape(config)}, {static_cast<float>(position)}};
  snapshot.state.setPosition(position);
  return snapshot;
}

/// A store that was offered every position up to `end`, in steps as chunks make them.
SnapshotStore filled(std::uint64_t end, std::size_t stateBytes, std::uint64_t step = 64) {
  SnapshotStore store(stateBytes);
  for (std::uint64_t at = step; at <= end; at += step)
    if (store.wants(at)) store.add(snapshotAt(at));
  return store;
}

std::uint64_t nearest(const SnapshotStore& store, std::uint64_t position) {
  const Snapshot* snapshot = store.nearest(position);
  return snapshot ? snapshot->state.position() : 0;
}

/// Positions held, found by asking for every one from the end.
std::vector<std::uint64_t> positions(const SnapshotStore& store, std::uint64_t end) {
  std::vector<std::uint64_t> held;
  for (std::uint64_t at = nearest(store, end); at > 0; at = nearest(store, at - 1))
    held.insert(held.begin(), at);
  return held;
}

}  // namespace

class SnapshotStoreTest : public QObject {
  Q_OBJECT

 private slots:
  void anEmptyStoreHasNothing() {
    const SnapshotStore store(1000);
    QCOMPARE(store.count(), std::size_t{0});
    QVERIFY(store.nearest(0) == nullptr);
    QVERIFY(store.nearest(1u << 30) == nullptr);
    QVERIFY(!store.wants(0));
    QVERIFY(!store.wants(kSpacing - 1));
    QVERIFY(store.wants(kSpacing));
  }

  void theNearestIsNeverBeyondThePosition() {
    Random random(1);
    const SnapshotStore store = filled(100000, 1000, 37);
    for (int i = 0; i < 5000; ++i) {
      const std::uint64_t position = random.below(110000);
      const Snapshot* snapshot = store.nearest(position);
      if (!snapshot) continue;
      QVERIFY(snapshot->state.position() <= position);
      QCOMPARE(snapshot->logits[0], static_cast<float>(snapshot->state.position()));
    }
    QVERIFY(store.nearest(100000) != nullptr);
  }

  void spacingGrowsWithTheDistanceFromTheEnd_data() {
    QTest::addColumn<quint64>("step");
    for (const quint64 step : {1u, 16u, 64u, 100u})
      QTest::newRow(qPrintable(QString("steps of %1").arg(step))) << step;
  }
  void spacingGrowsWithTheDistanceFromTheEnd() {
    QFETCH(quint64, step);
    constexpr std::uint64_t kEnd = 100000;
    // As many as there may be of a small state let gaps be about D / 64 at distance D, or less.
    const auto held = positions(filled(kEnd, 1000, step), kEnd);
    double nearSum = 0, farSum = 0, nearCount = 0, farCount = 0;
    std::uint64_t previous = 0;
    for (const std::uint64_t at : held) {
      const double gap = static_cast<double>(at - previous);
      const double distance = static_cast<double>(kEnd - previous);
      QVERIFY2(gap <= 2 * std::max(static_cast<double>(kSpacing + step), distance / 64),
               qPrintable(QString("gap %1 at distance %2").arg(gap).arg(distance)));
      (distance < 4000 ? nearSum : farSum) += distance > 50000 || distance < 4000 ? gap : 0;
      (distance < 4000 ? nearCount : farCount) += distance > 50000 || distance < 4000 ? 1 : 0;
      previous = at;
    }
    QVERIFY(kEnd - held.back() < kSpacing + step);
    QVERIFY(nearSum / nearCount < 2 * static_cast<double>(kSpacing + step));
    QVERIFY(farSum / farCount > 4 * nearSum / nearCount);
  }

  void theirNumberIsBounded() {
    const std::size_t at10k = filled(10'000, 1000).count();
    QVERIFY2(at10k >= 10'000 / kSpacing - 1, qPrintable(QString::number(at10k)));
    for (const std::uint64_t end : {100'000u, 1'000'000u, 3'000'000u}) {
      const std::size_t count = filled(end, 1000).count();
      QVERIFY2(count <= SnapshotStore::kMost, qPrintable(QString::number(count)));
      QVERIFY2(count > SnapshotStore::kMost / 2, qPrintable(QString::number(count)));
    }
  }

  void largeStatesStayWithinTheBudget() {
    for (const std::size_t megabytes : {1u, 4u}) {
      const std::size_t bytes = megabytes << 20;
      const std::size_t count = filled(100'000, bytes).count();
      QVERIFY2(count * bytes <= SnapshotStore::kBudgetBytes, qPrintable(QString::number(count)));
      QVERIFY2(count * bytes > SnapshotStore::kBudgetBytes / 2, qPrintable(QString::number(count)));
    }
    const std::size_t huge = filled(100'000, 12u << 20).count();  // a 972M model's state
    QVERIFY2(huge <= SnapshotStore::kLeast && huge > SnapshotStore::kLeast / 2,
             qPrintable(QString::number(huge)));
    QVERIFY(filled(3'000'000, 1u << 30).count() <= SnapshotStore::kLeast);
  }

  void truncatingForgetsWhatLiesBehind() {
    SnapshotStore store = filled(20000, 1000);
    const auto before = positions(store, 20000);
    store.truncate(12345);
    const auto after = positions(store, 20000);
    QVERIFY(!after.empty() && after.back() <= 12345);
    QVERIFY(std::equal(after.begin(), after.end(), before.begin()));
    QVERIFY(before[after.size()] > 12345);
    QVERIFY(store.wants(12345 + kSpacing));
    store.truncate(after.back());  // keeps a snapshot at the position itself
    QCOMPARE(nearest(store, 20000), after.back());
    store.truncate(0);
    QCOMPARE(store.count(), std::size_t{0});
  }

  void theAnchorIsOneMoreSnapshot() {
    SnapshotStore store = filled(1000, 1000);
    const std::size_t count = store.count();
    store.setAnchor(snapshotAt(777));
    QCOMPARE(store.count(), count + 1);
    QCOMPARE(nearest(store, 800), std::uint64_t{777});
    QCOMPARE(nearest(store, 776), std::uint64_t{768});
    QCOMPARE(nearest(store, 1000), positions(filled(1000, 1000), 1000).back());
    store.setAnchor(snapshotAt(90));
    QCOMPARE(store.count(), count + 1);
    QCOMPARE(nearest(store, 800), std::uint64_t{768});
    QCOMPARE(nearest(store, 100), std::uint64_t{90});
    store.truncate(90);
    QCOMPARE(nearest(store, 100), std::uint64_t{90});
    store.truncate(89);
    QCOMPARE(nearest(store, 100), std::uint64_t{64});
  }

  void goingBackAndForthKeepsTheOrder() {
    Random random(2);
    SnapshotStore store(1000);
    std::uint64_t end = 0;
    for (int i = 0; i < 300; ++i) {
      if (random.below(4) == 0) {
        end = random.below(end + 1);
        store.truncate(end);
        end = nearest(store, end);  // where reading resumes
      }
      for (std::size_t j = random.below(60); j-- > 0;) {
        end += 1 + random.below(64);
        if (store.wants(end)) store.add(snapshotAt(end));
        if (random.below(50) == 0) store.setAnchor(snapshotAt(end));
      }
      QVERIFY(nearest(store, end) <= end);
      QVERIFY(end < 2 * kSpacing || end - nearest(store, end) < 2 * kSpacing);
      QVERIFY(store.count() <= SnapshotStore::kMost + 1);
    }
  }
};

QTEST_GUILESS_MAIN(SnapshotStoreTest)
#include "test_snapshot_store.moc"
