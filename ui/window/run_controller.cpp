#include "ui/window/run_controller.h"

#include <algorithm>

namespace mb::ui {

namespace {

/// After a run, decoding is timed on this many of its bytes, so that the comparison is always in
/// sight; the button takes the whole run.
constexpr std::size_t kQuickComparisonBytes = 192;
constexpr std::size_t kLeastComparedBytes = 16;

}  // namespace

RunController::RunController(Document& document, EngineLink& link, RunSettingsEditor& settings,
                             SpeculationPanel& speculation, QObject* parent)
    : QObject(parent),
      m_document(document),
      m_link(link),
      m_settings(settings),
      m_speculation(speculation) {
  connect(&link, &EngineLink::runFinished, this, &RunController::finish);
  connect(&link, &EngineLink::ready, this, &RunController::setReady);
  connect(&link, &EngineLink::plainTimed, this, [this](const PlainTimed& timed) {
    m_comparison = {timed.plainSeconds, timed.speculativeSeconds, timed.bytes};
    m_speculation.setComparison(m_comparison);
    m_speculation.setComparing(false);
    emit figuresChanged();
  });
  connect(&link, &EngineLink::taskFailed, this, [this](Task task, const QString& problem) {
    if (task == Task::TimePlain) m_speculation.setComparing(false);
    if (task == Task::Generate) emit failed(problem);
  });
  connect(&document, &Document::edited, this, [this] {
    m_remaining = 0;
    if (m_state == RunState::Paused) setState(RunState::Idle);
  });
  connect(&document, &Document::textChanged, this, &RunController::stateChanged);
}

void RunController::setReady() {
  m_ready = true;
  emit stateChanged();
}

void RunController::setState(RunState state) {
  m_state = state;
  emit stateChanged();
}

void RunController::generate() {
  if (m_state == RunState::Paused && m_remaining > 0) return start(m_remaining, false);
  generateBytes(m_settings.settings().bytes);
}

void RunController::generateBytes(std::size_t count) {
  start(count, true);
}

void RunController::start(std::size_t count, bool fresh) {
  if (!canRun() || m_state == RunState::Running || count == 0) return;
  m_pausing = false;
  m_remaining = count;
  m_startSize = m_document.size();
  if (fresh) {
    const auto& rounds = m_document.rounds();
    m_speculation.setRunStart(rounds.empty() ? 0 : rounds.back().index + 1);
    m_comparison = {};
  }
  m_clock.start();
  setState(RunState::Running);
  m_generation = m_settings.settings().generation;
  m_link.generate(++m_run, count, m_generation);
}

void RunController::pause() {
  if (m_state != RunState::Running) return;
  m_pausing = true;
  m_link.stop();
}

void RunController::step() {
  if (m_state == RunState::Running) return;
  const std::size_t left = m_state == RunState::Paused ? m_remaining : 0;
  start(1, m_state == RunState::Idle);
  if (m_state != RunState::Running) return;
  m_pausing = true;
  m_remaining = std::max<std::size_t>(left, 1);
}

void RunController::stop() {
  m_pausing = false;
  m_remaining = 0;
  m_link.stop();
  if (m_state == RunState::Paused) setState(RunState::Idle);
}

void RunController::continueFrom(std::size_t position) {
  m_document.remove(position, m_document.size());
  generate();
}

void RunController::choose(std::size_t position, Byte byte) {
  m_document.replace(position, m_document.size(), {&byte, 1}, Origin::Chosen);
  m_state = RunState::Idle;  // a run in progress ends with the edit
  generate();
}

void RunController::finish(const RunFinished& run) {
  if (run.run != m_run) return;
  if (run.bytes > 0) m_last = run;
  m_remaining -= std::min(m_remaining, run.bytes);
  setState(m_pausing && m_remaining > 0 ? RunState::Paused : RunState::Idle);
  m_pausing = false;
  if (!run.stopped && run.bytes >= kLeastComparedBytes) compareWithPlain(kQuickComparisonBytes);
  emit figuresChanged();
}

void RunController::compareWithPlain(std::size_t mostBytes) {
  TimePlain command;
  command.generation = m_generation;
  const auto& rounds = m_document.rounds();
  for (auto round = rounds.rbegin(); round != rounds.rend(); ++round) {
    if (round->index < m_speculation.runStart()) break;
    if (command.last == 0) command.last = round->position + round->emitted();
    command.first = round->position;
    if (command.last - command.first >= mostBytes) break;
  }
  if (command.last - command.first < kLeastComparedBytes) return;
  m_speculation.setComparing(true);
  m_link.timePlain(command);
}

double RunController::bytesPerSecond() const {
  if (m_state == RunState::Running && m_document.size() > m_startSize) {
    const double seconds = static_cast<double>(m_clock.nsecsElapsed()) * 1e-9;
    return static_cast<double>(m_document.size() - m_startSize) / seconds;
  }
  return m_last.seconds > 0 ? static_cast<double>(m_last.bytes) / m_last.seconds : 0;
}

}  // namespace mb::ui
