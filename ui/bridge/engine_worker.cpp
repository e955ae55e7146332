#include "ui/bridge/engine_worker.h"

#include <algorithm>
#include <chrono>

#include "engine/checkpoint/checkpoint.h"
#include "engine/error.h"

namespace mb::ui {

namespace {

/// Records that may wait for a window which does not ask for them; then the engine waits too.
constexpr std::size_t kMostWaitingRecords = 1 << 18;
/// The same for bytes whose taps wait. The window's thread spends up to a microsecond on each, all
/// at once: without a limit, long reads on a GPU would take it tens of milliseconds.
constexpr std::size_t kMostWaitingTaps = 1 << 14;
/// Bytes scored between two looks at the progress.
constexpr std::size_t kScoreSlice = 512;
/// Bytes observed before an interruption can no longer lose them.
constexpr std::size_t kObserveSlice = 1024;
/// The memory of a CUDA device is asked for no more often.
constexpr std::chrono::seconds kMemoryAge(1);

bool interrupts(const Command& command) {
  return std::holds_alternative<LoadModels>(command) || std::holds_alternative<EditText>(command) ||
         std::holds_alternative<Generate>(command);
}

}  // namespace

/// Puts what the session reports into the batch.
class EngineWorker::Listener : public SessionListener {
 public:
  explicit Listener(EngineWorker& worker) : m_worker(worker) {}

  void bytesScored(std::size_t first, std::span<const ByteRecord> records) override {
    std::unique_lock lock(m_worker.m_mutex);
    auto& runs = m_worker.m_batch.bytes;
    m_worker.m_wake.wait(lock, [&] {
      return m_worker.m_ending || m_worker.m_stop.stop_requested() || runs.empty() ||
             runs.back().records.size() < kMostWaitingRecords;
    });
    if (runs.empty() || runs.back().first + runs.back().records.size() != first)
      runs.push_back({first, {}});
    auto& last = runs.back().records;
    last.insert(last.end(), records.begin(), records.end());
  }
  void roundFinished(const RoundRecord& round) override {
    const std::lock_guard lock(m_worker.m_mutex);
    m_worker.m_batch.rounds.push_back(round);
  }
  void tapsRead(std::size_t first, std::size_t count, const TapBlock& taps) override {
    ReadTaps read{first, count, taps};
    std::unique_lock lock(m_worker.m_mutex);
    m_worker.m_wake.wait(lock, [&] {
      return m_worker.m_ending || m_worker.m_stop.stop_requested() ||
             m_worker.m_waitingTaps < kMostWaitingTaps;
    });
    m_worker.m_waitingTaps += count;
    m_worker.m_batch.taps.push_back(std::move(read));
  }

 private:
  EngineWorker& m_worker;
};

OpenedModels openModels(const LoadModels& command, std::stop_token stop) {
  DeviceOptions device = command.device;
  device.orCpu = true;
  ModelLoader loader(device);
  OpenedModels opened;
  opened.verifier = loader.open(command.verifier, stop);
  if (!command.drafter.empty()) opened.drafter = openDrafter(loader, command.drafter, stop);
  opened.device = loader.kind();
  opened.cudaDevice = loader.cudaDevice();
  opened.reason = loader.reason();
  opened.gaveUp = loader.gaveUp();
  return opened;
}

EngineWorker::EngineWorker(OpenModels open, QObject* parent)
    : QThread(parent), m_open(std::move(open)) {
  setObjectName(QStringLiteral("engine"));
}

EngineWorker::~EngineWorker() {
  {
    const std::lock_guard lock(m_mutex);
    m_ending = true;
    m_stop.request_stop();
  }
  m_wake.notify_all();
  wait();
  // Orders what the thread did before what follows, also for race detectors that cannot see wait().
  const std::lock_guard lock(m_mutex);
}

void EngineWorker::post(Command command) {
  {
    const std::lock_guard lock(m_mutex);
    if (interrupts(command)) takeBack(std::holds_alternative<LoadModels>(command));
    // Typing must not cancel a load, which may take seconds.
    const bool spares = m_loading && std::holds_alternative<EditText>(command);
    if (m_inBackground || (interrupts(command) && !spares)) m_stop.request_stop();
    m_commands.push_back(std::move(command));
  }
  m_wake.notify_all();
}

void EngineWorker::stop() {
  {
    const std::lock_guard lock(m_mutex);
    takeBack(true);
    if (!m_inBackground) m_stop.request_stop();
  }
  m_wake.notify_all();
}

/// Ends queued work that has not begun, each with its event.
void EngineWorker::takeBack(bool loadsToo) {
  std::erase_if(m_commands, [&](const Command& command) {
    if (const auto* generate = std::get_if<Generate>(&command))
      m_batch.events.emplace_back(RunFinished{generate->run, 0, 0, true});
    else if (std::holds_alternative<TimePlain>(command))
      m_batch.events.emplace_back(TaskFailed{Task::TimePlain, {}});
    else if (loadsToo && std::holds_alternative<LoadModels>(command))
      m_batch.events.emplace_back(TaskFailed{Task::Load, {}});
    else
      return false;
    return true;
  });
}

Batch EngineWorker::take() {
  Batch batch;
  {
    const std::lock_guard lock(m_mutex);
    std::swap(batch, m_batch);
    m_waitingTaps = 0;
    m_batch.revision = batch.revision;
    m_batch.activity = batch.activity;
    m_batch.snapshots = batch.snapshots;
    m_batch.deviceMemory = batch.deviceMemory;
  }
  m_wake.notify_all();
  return batch;
}

bool EngineWorker::hasBackgroundWork() const {
  return m_session && (!m_upToDate || m_observe);
}

/// The next command, or nothing when there is background work or the end has come.
std::optional<Command> EngineWorker::waitForWork() {
  std::unique_lock lock(m_mutex);
  m_wake.wait(lock, [&] { return m_ending || !m_commands.empty() || hasBackgroundWork(); });
  m_stop = std::stop_source();
  m_inBackground = m_commands.empty();
  m_loading = false;
  if (m_ending || m_commands.empty()) return std::nullopt;
  Command command = std::move(m_commands.front());
  m_loading = std::holds_alternative<LoadModels>(command);
  m_commands.pop_front();
  return command;
}

void EngineWorker::run() {
  while (true) {
    const std::optional<Command> command = waitForWork();
    std::stop_token stop;
    {
      const std::lock_guard lock(m_mutex);
      if (m_ending) return;
      stop = m_stop.get_token();
    }
    if (command)
      std::visit([&](const auto& c) { perform(c, stop); }, *command);
    else
      workInBackground(stop);
    setActivity(std::nullopt);
  }
}

void EngineWorker::publish(Event event) {
  const std::lock_guard lock(m_mutex);
  m_batch.events.push_back(std::move(event));
}

void EngineWorker::setActivity(std::optional<Activity> activity) {
  std::optional<DeviceMemory> memory;
  const auto now = std::chrono::steady_clock::now();
  const bool askForMemory = m_models.device == DeviceKind::Cuda && now > m_memoryRead + kMemoryAge;
  if (askForMemory) {
    m_memoryRead = now;
    memory = memoryOfCudaDevice(m_models.cudaDevice);
  }
  const std::lock_guard lock(m_mutex);
  m_batch.activity = activity;
  m_batch.snapshots = m_session ? m_session->snapshotCount() : 0;
  if (askForMemory || m_models.device != DeviceKind::Cuda) m_batch.deviceMemory = memory;
}

ModelsLoaded EngineWorker::describe(const OpenedModels& models) const {
  ModelsLoaded loaded;
  loaded.verifier = described(*models.verifier);
  if (models.drafter) loaded.drafter = described(models.drafter->model());
  loaded.device = models.device;
  loaded.cudaDevice = models.cudaDevice;
  loaded.deviceReason = models.reason;
  loaded.gaveUp = models.gaveUp;
  loaded.devices = chooseDevice().devices;
  return loaded;
}

/// The new session starts with an empty text; the window sends its own when it hears of the models.
void EngineWorker::perform(const LoadModels& command, std::stop_token stop) {
  setActivity(Activity{Task::Load, 0, 0});
  try {
    OpenedModels models = m_open(command, stop);
    auto session = std::make_unique<Session>(models.verifier, models.drafter);
    session->setTaps(m_taps);
    ModelsLoaded loaded = describe(models);
    m_session = std::move(session);
    m_models = std::move(models);
    m_loaded = command;
    m_memoryRead = {};
    m_hasText = false;
    m_upToDate = true;
    publish(std::move(loaded));
  } catch (const Stopped&) {
    publish(TaskFailed{Task::Load, {}});
  } catch (const std::exception& error) {
    publish(TaskFailed{Task::Load, error.what()});
  }
}

/// The same models and text on the CPU. Throws `error` when it was the CPU that failed.
void EngineWorker::moveToCpu(const DeviceError& error, std::stop_token stop) {
  if (m_models.device == DeviceKind::Cpu) throw error;
  LoadModels command = m_loaded;
  command.device.kind = DeviceKind::Cpu;
  OpenedModels models = m_open(command, stop);
  models.reason = error.what();
  auto session = std::make_unique<Session>(models.verifier, models.drafter);
  session->takeOver(*m_session);
  DeviceLost lost{error.what(), describe(models)};
  m_session = std::move(session);
  m_models = std::move(models);
  m_loaded = command;
  m_upToDate = m_session->text().empty();
  publish(std::move(lost));
}

template <class Work>
void EngineWorker::onWorkingDevice(std::stop_token stop, const Work& work) {
  try {
    work();
  } catch (const DeviceError& error) {
    moveToCpu(error, stop);
    work();
  }
}

void EngineWorker::perform(const EditText& command, std::stop_token) {
  // Edits from before the window heard of new models do not fit the empty text of their session.
  const bool whole = command.at == 0 && command.removed >= command.size;
  if (m_session && (m_hasText || whole)) {
    m_hasText = true;
    Session& session = *m_session;
    session.replace(command.size, session.text().size(), {});
    session.replace(command.at, command.removed, command.inserted, command.origins);
    session.forgetScores(command.known);
    m_upToDate = session.text().empty();
  }
  m_observe.reset();
  const std::lock_guard lock(m_mutex);
  m_batch.revision = command.revision;
  m_batch.bytes.clear();
  m_batch.rounds.clear();
  m_batch.taps.clear();
  m_waitingTaps = 0;
  m_batch.next.reset();
}

void EngineWorker::perform(const Generate& command, std::stop_token stop) {
  RunFinished finished{command.run, 0, 0, false};
  if (!m_session || !m_hasText) return publish(finished);
  setActivity(Activity{Task::Generate, 0, command.count});
  Listener listener(*this);
  const std::size_t before = m_session->text().size();
  auto start = std::chrono::steady_clock::now();
  try {
    onWorkingDevice(stop, [&] {
      m_session->prepare(command.settings, listener, stop);
      start = std::chrono::steady_clock::now();
      const std::size_t written = m_session->text().size() - before;
      m_session->generate(command.count - written, command.settings, listener, stop);
    });
  } catch (const Stopped&) {
    finished.stopped = true;
  } catch (const std::exception& error) {
    publish(TaskFailed{Task::Generate, error.what()});
  }
  finished.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  finished.bytes = m_session->text().size() - before;
  m_upToDate = m_session->text().empty();
  publish(finished);
}

void EngineWorker::perform(const SetTaps& command, std::stop_token) {
  m_taps = command.request;
  if (m_session) m_session->setTaps(m_taps);
}

void EngineWorker::perform(const Observe& command, std::stop_token) {
  m_observe = command;
}

void EngineWorker::perform(const TimePlain& command, std::stop_token stop) {
  if (!m_session) return;
  setActivity(Activity{Task::TimePlain, 0, 0});
  PlainTimed timed{command.last - command.first, 0, 0};
  GenerationSettings plain = command.generation;
  plain.speculation = Speculation::Off;
  const auto secondsWith = [&](const GenerationSettings& settings) {
    return m_session->timeDecoding(command.first, command.last, settings, stop);
  };
  try {
    onWorkingDevice(stop, [&] {
      timed.speculativeSeconds = secondsWith(command.generation);
      timed.plainSeconds = secondsWith(plain);
    });
    publish(timed);
  } catch (const Stopped&) {
    publish(TaskFailed{Task::TimePlain, {}});
  } catch (const std::exception& error) {
    publish(TaskFailed{Task::TimePlain, error.what()});
  }
}

void EngineWorker::workInBackground(std::stop_token stop) {
  try {
    onWorkingDevice(stop, [&] { m_upToDate ? observe(stop) : score(stop); });
  } catch (const Stopped&) {
    // a command came in; the work goes on after it
  } catch (const std::exception& error) {
    m_upToDate = true;
    m_observe.reset();
    publish(TaskFailed{Task::Score, error.what()});
  }
}

void EngineWorker::observe(std::stop_token stop) {
  Listener listener(*this);
  while (m_observe && m_observe->first < m_observe->last) {
    const std::size_t last = std::min(m_observe->last, m_observe->first + kObserveSlice);
    m_session->observe(m_observe->first, last, m_taps, listener, stop);
    m_observe->first = last;
  }
  m_observe.reset();
}

void EngineWorker::score(std::stop_token stop) {
  Listener listener(*this);
  const std::size_t total = m_session->text().size();
  const std::size_t start = m_session->scored();
  bool done = false;
  while (!done) {
    setActivity(Activity{Task::Score, m_session->scored() - start, total - start});
    done = m_session->scoreSome(kScoreSlice, listener, stop);
  }
  m_upToDate = true;
  const std::optional<Prediction> next = m_session->next();
  const std::lock_guard lock(m_mutex);
  if (next) m_batch.next = NextExpected{total, *next};
}

}  // namespace mb::ui
