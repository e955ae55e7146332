#include "ui/bridge/engine_link.h"

#include <QElapsedTimer>
#include <algorithm>

#include "ui/bridge/engine_worker.h"

namespace mb::ui {

namespace {

constexpr int kBusyMilliseconds = 25;
constexpr int kQuietMilliseconds = 100;
constexpr int kTicksUntilQuiet = 40;

}  // namespace

EngineLink::EngineLink(Document& document, TraceStore& traces, QObject* parent)
    : QObject(parent),
      m_document(document),
      m_traces(traces),
      m_worker(std::make_unique<EngineWorker>()) {
  connect(&document, &Document::edited, this, [this](const EditText& edit) { post(edit); });
  connect(&m_timer, &QTimer::timeout, this, &EngineLink::tick);
  m_timer.start(kBusyMilliseconds);
  m_worker->start();
}

EngineLink::~EngineLink() = default;

void EngineLink::post(Command command) {
  m_worker->post(std::move(command));
  m_quietTicks = 0;
  if (m_timer.interval() != kBusyMilliseconds) m_timer.start(kBusyMilliseconds);
}

void EngineLink::load(const std::filesystem::path& verifier, const std::filesystem::path& drafter,
                      const DeviceOptions& device) {
  post(LoadModels{verifier, drafter, device});
}

void EngineLink::generate(std::uint64_t run, std::size_t count,
                          const GenerationSettings& settings) {
  post(Generate{run, count, settings});
}

void EngineLink::stop() {
  m_worker->stop();
}
void EngineLink::setTaps(const TapRequest& request) {
  post(SetTaps{request});
}
void EngineLink::observe(std::size_t first, std::size_t last) {
  post(Observe{first, last});
}
void EngineLink::timePlain(const TimePlain& command) {
  post(command);
}

/// Repainting a long text costs more; looks then come further apart, so that the window's thread
/// has at least twice the time for everything else.
void EngineLink::tick() {
  QElapsedTimer clock;
  clock.start();
  const Batch batch = m_worker->take();
  m_activity = batch.activity;
  m_snapshots = batch.snapshots;
  m_deviceMemory = batch.deviceMemory;
  if (batch.revision == m_document.revision()) apply(batch);
  for (const Event& event : batch.events) announce(event);
  const bool quiet = batch.isEmpty() && !batch.activity;
  m_quietTicks = quiet ? m_quietTicks + 1 : 0;
  m_timer.setInterval(m_quietTicks > kTicksUntilQuiet
                          ? kQuietMilliseconds
                          : std::clamp(3 * m_cost, kBusyMilliseconds, kQuietMilliseconds));
  emit ticked();
  // Comes after the repaints that were asked for until now.
  QTimer::singleShot(0, this, [this, clock] { m_cost = static_cast<int>(clock.elapsed()); });
}

void EngineLink::apply(const Batch& batch) {
  for (const ScoredBytes& bytes : batch.bytes) m_document.addScores(bytes);
  m_document.addRounds(batch.rounds);
  for (const ReadTaps& taps : batch.taps) m_traces.add(taps);
  if (batch.next) m_document.setNext(*batch.next);
}

void EngineLink::announce(const Event& event) {
  if (const auto* loaded = std::get_if<ModelsLoaded>(&event)) {
    emit modelsLoaded(*loaded);
    m_document.invalidateScores();
    emit ready();
  } else if (const auto* lost = std::get_if<DeviceLost>(&event)) {
    emit deviceLost(*lost);
  } else if (const auto* failed = std::get_if<TaskFailed>(&event)) {
    emit taskFailed(failed->task, QString::fromStdString(failed->problem));
  } else if (const auto* run = std::get_if<RunFinished>(&event)) {
    m_document.closeRun();
    emit runFinished(*run);
  } else if (const auto* timed = std::get_if<PlainTimed>(&event)) {
    emit plainTimed(*timed);
  }
}

}  // namespace mb::ui
