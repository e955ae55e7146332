#include "tests/fuzz/campaign.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fstream>
#include <new>
#include <stdexcept>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "tests/fuzz/mutator.h"

#if defined(__SANITIZE_ADDRESS__)
#define MB_FUZZ_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MB_FUZZ_ADDRESS_SANITIZER 1
#endif
#endif

namespace mb::fuzz {

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPollInterval = std::chrono::milliseconds(5);

/// Of this process: what an input costs, however busy the machine is.
double processorSeconds() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double secondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// What parent and child both see.
struct Shared {
  std::atomic<std::uint64_t> current{0};  ///< input the child works on
  std::atomic<std::uint64_t> accepted{0};
  std::atomic<std::uint64_t> refused{0};
  std::atomic<double> slowestSeconds{0};
  std::atomic<std::uint64_t> slowest{0};
  char problem[2000] = {};  ///< written before the child gives up
};

class SharedMemory {
 public:
  SharedMemory() {
    void* memory =
        ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("no shared memory");
    m_shared = new (memory) Shared;
  }
  ~SharedMemory() { ::munmap(m_shared, sizeof(Shared)); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  Shared* operator->() const { return m_shared; }
  Shared& operator*() const { return *m_shared; }

 private:
  Shared* m_shared;
};

void forbidCoreDumps() {
  const rlimit none{0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
}

std::size_t pageSize() {
  return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

/// Address space and resident memory of a process, from /proc; zeros when it is gone.
struct MemoryInUse {
  std::size_t address = 0;
  std::size_t resident = 0;
};
MemoryInUse memoryOf(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/statm");
  MemoryInUse memory;
  file >> memory.address >> memory.resident;
  memory.address *= pageSize();
  memory.resident *= pageSize();
  return memory;
}

#ifdef MB_FUZZ_ADDRESS_SANITIZER
constexpr std::size_t kMemoryFactor = 3;
/// AddressSanitizer reserves terabytes of address space; the parent watches what is in use.
void limitAddressSpace(std::size_t) {}
#else
constexpr std::size_t kMemoryFactor = 1;
void limitAddressSpace(std::size_t bytes) {
  const rlim_t limit = memoryOf(::getpid()).address + bytes;
  const rlimit limits{limit, limit};
  ::setrlimit(RLIMIT_AS, &limits);
}
#endif

constexpr int kPromiseBroken = 77;

/// Runs the inputs from `begin` on until one breaks a promise.
int runInputs(const Target& target, const Inputs& inputs, std::uint64_t begin, std::uint64_t end,
              const ScratchFolder& scratch, Shared& shared) {
  for (std::uint64_t index = begin; index < end; ++index) {
    shared.current = index;
    const Sample sample = inputs.at(index);
    const double start = processorSeconds();
    Outcome outcome = tryInput(target, sample.input, scratch);
    const double seconds = processorSeconds() - start;
    if (seconds > shared.slowestSeconds) {
      shared.slowestSeconds = seconds;
      shared.slowest = index;
    }
    if (outcome.problem.empty() && inputs.isSeed(index) && !outcome.accepted)
      outcome.problem = "a valid input is refused: " + outcome.message;
    if (!outcome.problem.empty()) {
      std::snprintf(shared.problem, sizeof shared.problem, "%s", outcome.problem.c_str());
      return kPromiseBroken;
    }
    ++(outcome.accepted ? shared.accepted : shared.refused);
  }
  return 0;
}

pid_t startChild(const Target& target, const Inputs& inputs, std::uint64_t begin, std::uint64_t end,
                 const ScratchFolder& scratch, Shared& shared, const CampaignOptions& options) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child > 0) return child;
  forbidCoreDumps();
  limitAddressSpace(options.memoryBytes);
  std::exit(runInputs(target, inputs, begin, end, scratch, shared));
}

/// Watches a child until it ends.
class Watch {
 public:
  Watch(pid_t child, const Shared& shared, const CampaignOptions& options)
      : m_child(child),
        m_shared(shared),
        m_hangSeconds(options.hangSeconds),
        m_mostBytes(memoryOf(::getpid()).resident + kMemoryFactor * options.memoryBytes) {}

  /// How the child ended: nothing when it did all inputs.
  std::string wait() {
    int status = 0;
    rusage usage{};
    while (::wait4(m_child, &status, WNOHANG, &usage) == 0) {
      std::this_thread::sleep_for(kPollInterval);
      if (const std::string excess = look(); !excess.empty()) {
        ::kill(m_child, SIGKILL);
        ::wait4(m_child, &status, 0, &usage);
        keepPeak(usage);
        return excess;
      }
    }
    keepPeak(usage);
    return describe(status);
  }
  std::size_t peakBytes() const { return m_peak; }

 private:
  /// What the child takes too much of, or nothing.
  std::string look() {
    if (m_watched != m_shared.current) {
      m_watched = m_shared.current;
      m_since = Clock::now();
    }
    if (secondsSince(m_since) > m_hangSeconds) return "hangs";
    if (memoryOf(m_child).resident <= m_mostBytes) return {};
    return "takes more than " + std::to_string(m_mostBytes >> 20) + " MiB";
  }

  std::string describe(int status) const {
    if (WIFSIGNALED(status)) return std::string("signal ") + strsignal(WTERMSIG(status));
    if (WEXITSTATUS(status) == 0) return {};
    if (WEXITSTATUS(status) == kPromiseBroken) return m_shared.problem;
    return "the process ends with status " + std::to_string(WEXITSTATUS(status)) +
           " (see the sanitizer's report above)";
  }

  void keepPeak(const rusage& usage) { m_peak = static_cast<std::size_t>(usage.ru_maxrss) * 1024; }

  pid_t m_child;
  const Shared& m_shared;
  double m_hangSeconds;
  std::size_t m_mostBytes;
  std::uint64_t m_watched = 0;
  Clock::time_point m_since = Clock::now();
  std::size_t m_peak = 0;
};

Failure keep(const Target& target, const Inputs& inputs, std::uint64_t index, std::string what,
             const CampaignOptions& options) {
  std::filesystem::create_directories(options.failureFolder);
  Failure failure;
  failure.index = index;
  failure.what = std::move(what);
  failure.file =
      options.failureFolder /
      (std::string(target.name) + "-" + std::to_string(options.seed) + "-" + std::to_string(index));
  writeWhole(failure.file, inputs.at(index).input);
  return failure;
}

}  // namespace

Inputs::Inputs(const Target& target, std::uint64_t seed)
    : m_target(target), m_seed(seed), m_seeds(target.seeds()) {
  if (target.hostile) m_hostile = target.hostile();
}

Sample Inputs::at(std::uint64_t index) const {
  if (index < m_seeds.size()) return m_seeds[index];
  if (index < fixed()) return m_hostile[index - m_seeds.size()];
  return {"mutated", mutated(m_target, m_seeds, m_seed, index - fixed())};
}

CampaignResult runCampaign(const Target& target, const CampaignOptions& options) {
  const Inputs inputs(target, options.seed);
  const ScratchFolder scratch;
  const SharedMemory shared;
  CampaignResult result;
  const auto start = Clock::now();
  const std::uint64_t end = inputs.fixed() + options.runs;
  std::uint64_t next = 0;
  while (next < end && result.failures.size() < options.mostFailures) {
    shared->current = next;
    const pid_t child = startChild(target, inputs, next, end, scratch, *shared, options);
    Watch watch(child, *shared, options);
    std::string what = watch.wait();
    result.peakBytes = std::max(result.peakBytes, watch.peakBytes());
    if (what.empty()) break;
    next = shared->current + 1;
    result.failures.push_back(keep(target, inputs, shared->current, std::move(what), options));
  }
  result.seconds = secondsSince(start);
  result.accepted = shared->accepted;
  result.refused = shared->refused;
  result.slowestSeconds = shared->slowestSeconds;
  result.slowest = shared->slowest;
  return result;
}

}  // namespace mb::fuzz

#ifdef MB_FUZZ_ADDRESS_SANITIZER
/// A hostile input may not ask for more than this at once.
extern "C" const char* __asan_default_options();
extern "C" const char* __asan_default_options() {
  return "max_allocation_size_mb=1024";
}
#endif
