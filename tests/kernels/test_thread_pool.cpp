#include <QtTest>
#include <atomic>
#include <numeric>
#include <vector>

#include "kernels/cpu/thread_pool.h"

using namespace mb::cpu;

class ThreadPoolTest : public QObject {
  Q_OBJECT

 private slots:
  void sharesCoverEveryItemOnce() {
    for (const std::size_t count : {0u, 1u, 7u, 16u, 100u}) {
      for (const std::size_t members : {1u, 2u, 3u, 16u}) {
        std::size_t next = 0;
        for (std::size_t member = 0; member < members; ++member) {
          const Range range = share(count, member, members);
          QCOMPARE(range.begin, next);
          QVERIFY(range.end - range.begin <= count / members + 1);
          next = range.end;
        }
        QCOMPARE(next, count);
      }
    }
  }

  void runsTheTaskOnEveryMember() {
    for (const std::size_t threads : {1u, 2u, 5u}) {
      ThreadPool pool(threads);
      QCOMPARE(pool.size(), threads);
      for (int run = 0; run < 200; ++run) {
        std::vector<std::atomic<int>> calls(threads);
        pool.run([&](std::size_t member) { ++calls[member]; });
        for (const auto& count : calls) QCOMPARE(count.load(), 1);
      }
    }
  }

  void barrierMakesWorkOfAStageVisibleInTheNext() {
    constexpr std::size_t kThreads = 4;
    constexpr int kStages = 500;
    ThreadPool pool(kThreads);
    Barrier barrier(kThreads);
    std::vector<int> values(kThreads, 0);
    std::atomic<int> wrong{0};
    pool.run([&](std::size_t member) {
      for (int stage = 1; stage <= kStages; ++stage) {
        values[member] = stage;
        barrier.wait();
        if (std::accumulate(values.begin(), values.end(), 0) != stage * static_cast<int>(kThreads))
          ++wrong;
        barrier.wait();
      }
    });
    QCOMPARE(wrong.load(), 0);
  }

  void wakesWorkersThatHaveGoneToSleep() {
    ThreadPool pool(3);
    std::atomic<int> calls{0};
    pool.run([&](std::size_t) { ++calls; });
    QTest::qWait(20);
    pool.run([&](std::size_t) { ++calls; });
    QCOMPARE(calls.load(), 6);
  }
};

QTEST_GUILESS_MAIN(ThreadPoolTest)
#include "test_thread_pool.moc"
