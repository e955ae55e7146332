// A fixed team of threads that runs one function at a time, and the barrier its members meet at.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace mb::cpu {

/// Half-open range of work items.
struct Range {
  std::size_t begin = 0;
  std::size_t end = 0;
};

/// The share of `count` items that member `index` of `members` takes; shares differ by at most one.
Range share(std::size_t count, std::size_t index, std::size_t members);

/// Where the members of a team wait for each other. Spins for some microseconds, then yields, so
/// that a stage of tens of microseconds is not lost to the scheduler.
class Barrier {
 public:
  explicit Barrier(std::size_t members) : m_members(members) {}
  void wait();

 private:
  const std::size_t m_members;
  std::atomic<std::size_t> m_arrived{0};
  std::atomic<std::size_t> m_phase{0};
};

/// The calling thread is member 0; the others sleep between runs. One run at a time.
class ThreadPool {
 public:
  /// threads == 0 takes one per processor this process may use.
  explicit ThreadPool(std::size_t threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  std::size_t size() const { return m_workers.size() + 1; }

  /// Calls task(member) on every member and returns when all have. The task must not throw.
  void run(const std::function<void(std::size_t)>& task);

 private:
  void work(std::size_t member);
  bool waitForRun(std::size_t lastRun);

  std::vector<std::jthread> m_workers;
  std::mutex m_mutex;
  std::condition_variable m_wake;
  const std::function<void(std::size_t)>* m_task = nullptr;
  std::atomic<std::size_t> m_run{0};
  std::atomic<std::size_t> m_running{0};
  std::atomic<bool> m_stopping{false};
};

/// Bytes a second that the team reads from memory, the best of some passes over 512 MiB.
double measureReadBandwidth(ThreadPool& pool);

}  // namespace mb::cpu
