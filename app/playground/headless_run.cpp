#include "app/playground/headless_run.h"

#include <QCoreApplication>
#include <QFileInfo>
#include <QPixmap>
#include <cstdio>
#include <utility>

#include "ui/panels/perplexity_panel.h"
#include "ui/panels/speculation_panel.h"
#include "ui/panels/train_form.h"
#include "ui/panels/train_panel.h"
#include "ui/window/model_chooser.h"

namespace mb::app {

namespace {

/// Looks at the engine without news after which everything has arrived and eased into place.
constexpr int kIdleTicks = 16;

}  // namespace

HeadlessRun::HeadlessRun(ui::MainWindow& window, QString screenshot, QString train, QObject* parent)
    : QObject(parent),
      m_window(window),
      m_screenshot(std::move(screenshot)),
      m_train(std::move(train)) {
  connect(&window.models(), &ui::ModelChooser::failed, this, &HeadlessRun::fail);
  connect(&window.runs(), &ui::RunController::failed, this, &HeadlessRun::fail);
  connect(&window.train().link(), &ui::TrainingLink::failed, this, &HeadlessRun::fail);
  connect(&window.models(), &ui::ModelChooser::deviceGivenUp, this, &HeadlessRun::say);
  connect(&window.link(), &ui::EngineLink::ready, this, [this] {
    print(0);
    m_window.runs().generate();
    m_ran = true;
  });
  connect(&window.document(), &ui::Document::textChanged, this, &HeadlessRun::print);
  connect(&window.link(), &ui::EngineLink::ticked, this, &HeadlessRun::waitUntilIdle);
}

void HeadlessRun::print(std::size_t) {
  const Bytes bytes = m_window.document().bytes(m_printed, m_window.document().size());
  if (bytes.empty()) return;
  m_printed += bytes.size();
  m_isInLine = bytes.back() != '\n';
  std::fwrite(bytes.data(), 1, bytes.size(), stdout);
  std::fflush(stdout);
}

void HeadlessRun::say(const QString& problem) {
  if (std::exchange(m_isInLine, false)) std::fputc('\n', stderr);
  std::fprintf(stderr, "mambabyte-playground: %s\n", qPrintable(problem));
}

bool HeadlessRun::isIdle() const {
  const ui::Document& document = m_window.document();
  return m_ran && m_window.runs().state() == ui::RunState::Idle && !m_window.link().activity() &&
         document.scoredTo() == document.size() && document.next().has_value();
}

bool HeadlessRun::isHalfTrained() const {
  const ui::TrainingLink& link = m_window.train().link();
  const ui::TrainingHistory& history = link.history();
  if (link.state() == ui::TrainingState::Ended) return true;  // the time was up
  return !history.steps.empty() && 2 * history.steps.back().step.step >= history.stepsInAll();
}

void HeadlessRun::waitUntilIdle() {
  if (m_trains) {
    if (isHalfTrained()) finish();
    return;
  }
  m_idleTicks = isIdle() ? m_idleTicks + 1 : 0;
  if (m_idleTicks != kIdleTicks) return;
  if (m_train.isEmpty()) return finish();
  m_trains = true;
  m_window.train().raise();
  m_window.train().form().setFiles({m_train});
  m_window.train().start();
}

void HeadlessRun::printSummary() const {
  const ui::RunFinished& run = m_window.runs().lastRun();
  const SpeculationTotals totals = m_window.speculation().totals();
  std::fprintf(stderr, "%zu bytes in %.3f s: %.0f bytes/s", run.bytes, run.seconds,
               m_window.runs().bytesPerSecond());
  if (m_window.runs().timesPlain() > 0)
    std::fprintf(stderr, ", %.2f times plain decoding", m_window.runs().timesPlain());
  std::fprintf(stderr, ", %.3f bits/byte\n", m_window.perplexity().bitsPerByte());
  if (totals.rounds == 0) return;
  std::fprintf(
      stderr,
      "%llu rounds: drafted %llu bytes, tested %llu, accepted %llu (%.1f %%), never tested "
      "%llu; %.2f bytes a round\n",
      static_cast<unsigned long long>(totals.rounds),
      static_cast<unsigned long long>(totals.drafted),
      static_cast<unsigned long long>(totals.tested),
      static_cast<unsigned long long>(totals.accepted), 100 * totals.acceptance(),
      static_cast<unsigned long long>(totals.ignored), totals.bytesPerRound());
}

void HeadlessRun::finish() {
  std::fputc('\n', stdout);
  std::fflush(stdout);
  m_isInLine = false;
  printSummary();
  m_window.refreshAll();
  QCoreApplication::processEvents();
  if (!m_window.grab().save(m_screenshot))
    return fail(tr("the screenshot %1 cannot be written").arg(m_screenshot));
  std::fprintf(stderr, "screenshot: %s\n", qPrintable(QFileInfo(m_screenshot).absoluteFilePath()));
  QCoreApplication::exit(0);
}

void HeadlessRun::fail(const QString& problem) {
  say(problem);
  QCoreApplication::exit(1);
}

}  // namespace mb::app
