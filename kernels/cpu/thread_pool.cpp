#include "kernels/cpu/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <sched.h>

#include "kernels/memory.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace mb::cpu {

namespace {

constexpr int kSpinsBeforeYield = 2000;
constexpr int kSpinsBeforeSleep = 20000;  // some hundred microseconds

void pauseBriefly() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

std::size_t usableProcessors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0)
    return static_cast<std::size_t>(CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

Range share(std::size_t count, std::size_t index, std::size_t members) {
  return {count * index / members, count * (index + 1) / members};
}

void Barrier::wait() {
  if (m_members == 1) return;
  const std::size_t phase = m_phase.load(std::memory_order_relaxed);
  if (m_arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == m_members) {
    m_arrived.store(0, std::memory_order_relaxed);
    m_phase.store(phase + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; m_phase.load(std::memory_order_acquire) == phase; ++spins) {
    if (spins < kSpinsBeforeYield)
      pauseBriefly();
    else
      std::this_thread::yield();
  }
}

ThreadPool::ThreadPool(std::size_t threads) {
  if (threads == 0) threads = usableProcessors();
  for (std::size_t member = 1; member < threads; ++member)
    m_workers.emplace_back([this, member] { work(member); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(m_mutex);
    m_stopping.store(true, std::memory_order_release);
  }
  m_wake.notify_all();
}

void ThreadPool::run(const std::function<void(std::size_t)>& task) {
  if (m_workers.empty()) return task(0);
  m_running.store(m_workers.size(), std::memory_order_relaxed);
  {
    const std::lock_guard lock(m_mutex);
    m_task = &task;
    m_run.fetch_add(1, std::memory_order_release);
  }
  m_wake.notify_all();
  task(0);
  for (int spins = 0; m_running.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < kSpinsBeforeYield)
      pauseBriefly();
    else
      std::this_thread::yield();
  }
}

/// Spins first: the next run of a decode loop follows within microseconds.
bool ThreadPool::waitForRun(std::size_t lastRun) {
  const auto ready = [&] {
    return m_run.load(std::memory_order_acquire) != lastRun ||
           m_stopping.load(std::memory_order_acquire);
  };
  for (int spins = 0; spins < kSpinsBeforeSleep && !ready(); ++spins) pauseBriefly();
  if (!ready()) {
    std::unique_lock lock(m_mutex);
    m_wake.wait(lock, ready);
  }
  return !m_stopping.load(std::memory_order_acquire);
}

void ThreadPool::work(std::size_t member) {
  for (std::size_t lastRun = 0; waitForRun(lastRun); m_running.fetch_sub(1)) {
    lastRun = m_run.load(std::memory_order_acquire);
    (*m_task)(member);
  }
}

double measureReadBandwidth(ThreadPool& pool) {
  using Clock = std::chrono::steady_clock;
  constexpr std::size_t kBytes = 512u << 20;
  constexpr int kPasses = 5;
  AlignedArray<std::uint64_t> buffer(kBytes / sizeof(std::uint64_t));
  std::atomic<std::uint64_t> sink{0};
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = Clock::now();
    pool.run([&](std::size_t member) {
      const Range part = share(buffer.size(), member, pool.size());
      const std::uint64_t* values = buffer.data();
      std::uint64_t sums[8] = {};
      for (std::size_t i = part.begin; i + 8 <= part.end; i += 8)
        for (std::size_t lane = 0; lane < 8; ++lane) sums[lane] += values[i + lane];
      sink += std::accumulate(std::begin(sums), std::end(sums), std::uint64_t{0});
    });
    const std::chrono::duration<double> seconds = Clock::now() - start;
    best = std::max(best, static_cast<double>(kBytes) / seconds.count());
  }
  return best;
}

}  // namespace mb::cpu
