#include "ui/window/main_window.h"

#include <QAction>
#include <QCloseEvent>
#include <QLabel>
#include <QLocale>
#include <QProgressBar>
#include <QSettings>
#include <QStatusBar>
#include <QTabBar>
#include <QTimer>
#include <QToolButton>
#include <QVBoxLayout>
#include <utility>

#include "engine/session/snapshot_store.h"
#include "ui/panels/next_byte_panel.h"
#include "ui/panels/perplexity_panel.h"
#include "ui/panels/state_panel.h"
#include "ui/panels/train_panel.h"
#include "ui/text/text_panel.h"
#include "ui/widgets/elided_label.h"
#include "ui/widgets/message_strip.h"
#include "ui/window/device_menu.h"
#include "ui/window/file_jobs.h"
#include "ui/window/model_chooser.h"
#include "ui/window/tool_bar.h"

namespace mb::ui {

namespace {

/// Below this width the right column becomes tabs and the settings fold into a drop-down.
constexpr int kNarrowWidth = 1400;
/// Layouts saved by another arrangement of panels are not restored.
constexpr int kLayoutVersion = 2;
/// Work shorter than this is not shown.
constexpr int kShowActivityAfter = 500;
constexpr std::size_t kChannelBins = 64;
constexpr int kMargin = 8;
constexpr int kChrome = 120;  ///< height of menu, tool bar, status bar and margins

QString deviceText(const ModelsLoaded& models, const std::optional<DeviceMemory>& memory) {
  const QString name = QString::fromStdString(models.verifier.info.device);
  if (memory) {
    const auto gigabytes = [](std::size_t bytes) { return static_cast<double>(bytes) * 1e-9; };
    return MainWindow::tr("%1: %2 of %3 GB in use")
        .arg(name)
        .arg(gigabytes(memory->used), 0, 'f', 1)
        .arg(gigabytes(memory->total), 0, 'f', 1);
  }
  return MainWindow::tr("%1: %2").arg(name, QString::fromStdString(models.deviceReason));
}

}  // namespace

MainWindow::MainWindow(Theme& theme, Workspace& workspace, QSettings& settings, QWidget* parent)
    : QMainWindow(parent),
      m_theme(theme),
      m_settings(settings),
      m_document(workspace.document),
      m_linked(workspace.linked),
      m_axis(workspace.axis),
      m_traces(workspace.traces),
      m_link(workspace.link),
      m_editor(new RunSettingsEditor(this)),
      m_models(new ModelChooser(m_link, this)),
      m_files(new FileJobs(this)) {
  setWindowTitle(tr("MambaByte Playground"));
  buildPanels();
  m_runs = new RunController(m_document, m_link, *m_editor, *m_speculation, this);
  buildMenus();
  buildToolBar();
  buildStatusBar();
  connectParts();
  m_editor->setSettings(RunSettings::load(settings));
  m_models->deviceMenu().restore(settings);
  restoreWindow();
  updateRunActions();
  updateFigures();
}

/// Panels that hide while the base class is destroyed have nobody left to tell.
MainWindow::~MainWindow() {
  for (const Panel* panel : m_panels) panel->disconnect(this);
}

void MainWindow::buildPanels() {
  auto* frame = new QWidget(this);
  auto* inside = new QVBoxLayout(frame);
  inside->setContentsMargins(kMargin, kMargin, kMargin, kMargin);
  m_area = new QMainWindow(frame);
  m_area->setWindowFlags(Qt::Widget);
  inside->addWidget(m_area);
  setCentralWidget(frame);
  m_text = new TextPanel(m_document, m_linked, m_theme, this);
  m_area->setCentralWidget(m_text);
  m_nextByte = new NextBytePanel(m_document, m_linked, m_theme, this);
  m_speculation = new SpeculationPanel(m_document, m_linked, m_theme, this);
  m_state = new StatePanel(m_document, m_traces, m_axis, m_linked, m_theme, this);
  m_perplexity = new PerplexityPanel(m_document, m_axis, m_linked, m_theme, this);
  m_train = new TrainPanel(m_theme, this);
  m_panels = {m_nextByte, m_speculation, m_state, m_perplexity, m_train};
  m_area->setDockNestingEnabled(true);
  m_area->setCorner(Qt::BottomRightCorner, Qt::RightDockWidgetArea);
  m_area->setTabPosition(Qt::RightDockWidgetArea, QTabWidget::North);
}

void MainWindow::buildToolBar() {
  m_toolBar = new ToolBar(this);
  addToolBar(m_toolBar);
  m_toolBar->addButton(m_generate, QStringLiteral("▶"), true);
  m_toolBar->addButton(m_pause, QStringLiteral("❚❚"));
  m_toolBar->addButton(m_step, QStringLiteral("▷|"));
  m_toolBar->addButton(m_stop, QStringLiteral("■"));
  m_toolBar->addChoice(tr("Verifier"), m_models->verifierButton());
  m_toolBar->addChoice(tr("Drafter"), m_models->drafterButton());
  m_toolBar->addSettings(*m_editor);
  m_toolBar->addFigures();
}

void MainWindow::buildStatusBar() {
  m_statusText = new QLabel(tr("Starting…"), this);
  m_statusState = new QLabel(this);
  m_statusState->setToolTip(tr("Memory of one state: all the model keeps of the text"));
  m_statusSnapshots = new QLabel(this);
  m_statusSnapshots->setToolTip(tr("States kept along the text; an edit resumes from the nearest"));
  m_statusDevice = new ElidedLabel(this);
  m_progress = new QProgressBar(this);
  m_progress->setFixedWidth(160);
  m_progress->setTextVisible(false);
  m_progress->setAccessibleName(tr("Progress"));
  m_cancel = new QToolButton(this);
  m_cancel->setText(tr("Cancel"));
  m_cancel->setToolTip(tr("Cancel (Esc)"));
  connect(m_cancel, &QToolButton::clicked, &m_link, &EngineLink::stop);
  for (QWidget* widget : std::initializer_list<QWidget*>{m_statusText, m_progress, m_cancel,
                                                         m_statusState, m_statusSnapshots})
    statusBar()->addWidget(widget);
  statusBar()->addPermanentWidget(m_statusDevice, 1);
  statusBar()->setSizeGripEnabled(false);
  m_progress->hide();
  m_cancel->hide();
}

void MainWindow::connectParts() {
  connect(m_models, &ModelChooser::opened, this, &MainWindow::modelsOpened);
  connect(m_files, &FileJobs::failed, this,
          [this](const QString& problem) { showError(problem, {}); });
  connect(m_models, &ModelChooser::failed, this,
          [this](const QString& problem) { showError(problem, tr("Open the bundled pair")); });
  connect(m_models, &ModelChooser::deviceGivenUp, this,
          [this](const QString& problem) { showError(problem, {}); });
  connect(&m_text->messages(), &MessageStrip::actionTriggered, m_models,
          &ModelChooser::openBundled);
  connect(m_runs, &RunController::failed, this,
          [this](const QString& problem) { showError(problem, {}); });
  connect(&m_link, &EngineLink::taskFailed, this, [this](Task task, const QString& problem) {
    if (task == Task::Score && !problem.isEmpty()) showError(problem, {});
  });
  connect(m_runs, &RunController::stateChanged, this, &MainWindow::updateRunActions);
  connect(m_nextByte, &NextBytePanel::candidateChosen, m_runs, &RunController::choose);
  connect(m_speculation, &SpeculationPanel::comparisonWanted, m_runs,
          [this] { m_runs->compareWithPlain(m_document.size()); });
  connect(m_state, &StatePanel::layerChanged, &m_traces, &TraceStore::setLayer);
  connect(m_state, &StatePanel::layerChanged, this, &MainWindow::updateTaps);
  connect(m_state, &QDockWidget::visibilityChanged, this, &MainWindow::updateTaps);
  connect(m_state, &StatePanel::tapsWanted, &m_link, &EngineLink::observe);
  connect(m_train, &TrainPanel::kept, this, [this](const QString& folder, bool isByteLevel) {
    isByteLevel ? m_models->openVerifier(folder) : m_models->openDrafter(folder);
  });
  connect(&m_document, &Document::textChanged, this, [this] { m_axis.setSize(m_document.size()); });
  connect(&m_link, &EngineLink::ticked, this, &MainWindow::tick);
}

void MainWindow::openModels() {
  m_models->restore(m_settings);
}

void MainWindow::modelsOpened(const ModelsLoaded& models) {
  const ModelConfig& config = models.verifier.config;
  m_text->messages().hide();
  m_train->setModels(models);
  m_channels = config.dInner;
  m_traces.reset(config.layers, tapBins(config.dInner, kChannelBins));
  m_state->setModel(config.layers, config.dInner);
  m_editor->setHasDrafter(models.drafter.has_value());
  m_statusState->setText(
      tr("state %1 MB, constant")
          .arg(static_cast<double>(StateShape(models.verifier.config).bytes()) * 1e-6, 0, 'f', 1));
  updateTaps();
  updateRunActions();
}

/// Nothing is computed for a panel that nobody sees.
void MainWindow::updateTaps() {
  const TapRequest wanted{m_state->isVisible(), m_traces.layer(), kChannelBins};
  if (wanted.enabled == m_taps.enabled && wanted.layer == m_taps.layer) return;
  m_taps = wanted;
  m_link.setTaps(wanted);
}

void MainWindow::tick() {
  for (Panel* panel : m_panels) panel->refreshIfNeeded();
  updateFigures();
  updateStatus();
}

void MainWindow::refreshAll() {
  for (Panel* panel : m_panels) {
    panel->markDirty();
    panel->refreshIfNeeded();
  }
  updateFigures();
  updateStatus();
}

void MainWindow::updateRunActions() {
  const RunState state = m_runs->state();
  m_generate->setEnabled(m_runs->canRun() && state != RunState::Running);
  m_generate->setIconText(state == RunState::Paused ? tr("Continue") : tr("Generate"));
  m_pause->setEnabled(state == RunState::Running);
  m_step->setEnabled(m_runs->canRun() && state != RunState::Running);
  m_stop->setEnabled(state != RunState::Idle || m_models->isLoading());
  m_continueHere->setEnabled(m_runs->canRun());
}

void MainWindow::updateFigures() {
  const double rate = m_runs->bytesPerSecond();
  const double plain = m_runs->timesPlain();
  const double bits = m_perplexity->bitsPerByte();
  m_toolBar->setFigures(rate > 0 ? QLocale().toString(rate, 'f', 0) : QString(),
                        plain > 0 ? tr("%1×").arg(plain, 0, 'f', plain < 10 ? 2 : 1) : QString(),
                        bits > 0 ? QString::number(bits, 'f', 2) : QString());
}

/// Work in progress with a bar once it has taken half a second; else what happened last.
void MainWindow::updateStatus() {
  const std::optional<Activity>& activity = m_link.activity();
  const std::optional<Task> task = activity ? std::optional(activity->task) : std::nullopt;
  if (task != m_shownTask) {
    m_shownTask = task;
    m_activityClock.restart();
  }
  const bool shown = activity && activity->task != Task::Generate &&
                     m_activityClock.hasExpired(kShowActivityAfter);
  m_progress->setVisible(shown);
  m_cancel->setVisible(shown && activity->task != Task::Score);
  if (shown) {
    m_progress->setRange(0, static_cast<int>(activity->total));
    m_progress->setValue(static_cast<int>(activity->done));
  }
  if (m_models->isLoading()) {
    m_statusText->setText(tr("Loading models…"));
  } else if (shown && activity->task == Task::Score) {
    const double done = static_cast<double>(std::max<std::size_t>(1, activity->done));
    const double left = static_cast<double>(m_activityClock.elapsed()) * 1e-3 *
                        (static_cast<double>(activity->total) - done) / done;
    m_statusText->setText(tr("Scoring %1 of %2 bytes, about %3 s left")
                              .arg(activity->done)
                              .arg(activity->total)
                              .arg(left, 0, 'f', 0));
  } else if (m_runs->state() == RunState::Running) {
    m_statusText->setText(tr("Generating"));
  } else {
    const RunFinished& run = m_runs->lastRun();
    const QString last =
        run.bytes > 0
            ? tr(" · generated %1 bytes in %2 s").arg(run.bytes).arg(run.seconds, 0, 'f', 2)
            : QString();
    const bool paused = m_runs->state() == RunState::Paused;
    m_statusText->setText(
        (paused ? tr("Paused, %1 bytes to go").arg(m_runs->remaining()) : tr("Ready")) + last);
  }
  if (const auto& models = m_models->models())
    m_statusDevice->setFullText(deviceText(*models, m_link.deviceMemory()));
  m_statusSnapshots->setText(m_link.snapshots() > 0
                                 ? tr("%1 checkpoints, every %2 bytes near the end")
                                       .arg(m_link.snapshots())
                                       .arg(SnapshotStore::kSpacing)
                                 : QString());
}

void MainWindow::showError(const QString& problem, const QString& action) {
  m_text->messages().showError(problem, action);
}

// ---- layout

/// Wide: a right column of three panels, training behind the last, and perplexity below the text.
/// Narrow: the column is tabs.
void MainWindow::arrange(bool narrow) {
  for (Panel* panel : m_panels) {
    panel->setFloating(false);
    m_area->removeDockWidget(panel);
  }
  m_area->addDockWidget(Qt::BottomDockWidgetArea, m_perplexity);
  m_area->addDockWidget(Qt::RightDockWidgetArea, m_nextByte);
  if (narrow) {
    m_area->tabifyDockWidget(m_nextByte, m_speculation);
    m_area->tabifyDockWidget(m_speculation, m_state);
    m_area->tabifyDockWidget(m_state, m_train);
  } else {
    m_area->splitDockWidget(m_nextByte, m_speculation, Qt::Vertical);
    m_area->splitDockWidget(m_speculation, m_state, Qt::Vertical);
    m_area->tabifyDockWidget(m_state, m_train);
  }
  for (Panel* panel : m_panels) panel->show();
  m_raiseFirst = true;
  // A tab can only be raised once the layout has made it.
  QTimer::singleShot(0, this, [this] {
    if (std::exchange(m_raiseFirst, false))
      (m_narrow ? static_cast<Panel*>(m_speculation) : m_state)->raise();
    for (QTabBar* tabs : m_area->findChildren<QTabBar*>()) tabs->setDrawBase(false);
  });
  m_area->resizeDocks({m_nextByte}, {width() * (narrow ? 38 : 39) / 100}, Qt::Horizontal);
  const int high = height() - kChrome;
  if (!narrow)
    m_area->resizeDocks({m_nextByte, m_speculation, m_state},
                        {high * 25 / 100, high * 30 / 100, high * 45 / 100}, Qt::Vertical);
  m_area->resizeDocks({m_perplexity}, {high * 24 / 100}, Qt::Vertical);
}

void MainWindow::resetLayout() {
  arrange(m_narrow);
  m_axis.fit();
}

void MainWindow::resizeEvent(QResizeEvent* event) {
  QMainWindow::resizeEvent(event);
  m_toolBar->fitInto(width());
  const bool narrow = width() < kNarrowWidth;
  if (narrow == m_narrow) return;
  m_narrow = narrow;
  arrange(narrow);
}

void MainWindow::restoreWindow() {
  resize(1600, 1000);
  restoreGeometry(m_settings.value("window/geometry").toByteArray());
  m_narrow = width() < kNarrowWidth;
  m_toolBar->fitInto(width());
  arrange(m_narrow);
  const bool sameKind = m_settings.value("window/narrow").toBool() == m_narrow;
  const QByteArray layout = m_settings.value("window/layout").toByteArray();
  if (sameKind && m_area->restoreState(layout, kLayoutVersion)) m_raiseFirst = false;
  ByteView& view = m_text->view();
  view.setZoom(m_settings.value("text/zoom", 1.0).toDouble());
  view.setHex(m_settings.value("text/hex", false).toBool());
  view.setShowRejected(m_settings.value("text/rejected", true).toBool());
  view.setColoring(static_cast<TextColoring>(m_settings.value("text/coloring", 0).toInt()));
  m_state->setKind(static_cast<TapKind>(m_settings.value("state/kind", 0).toInt()));
  m_state->setView(static_cast<StateView>(m_settings.value("state/view", 0).toInt()));
  m_state->setViridis(m_settings.value("state/viridis", false).toBool());
}

void MainWindow::saveWindow() {
  m_settings.setValue("window/geometry", saveGeometry());
  m_settings.setValue("window/layout", m_area->saveState(kLayoutVersion));
  m_settings.setValue("window/narrow", m_narrow);
  const ByteView& view = m_text->view();
  m_settings.setValue("text/zoom", view.zoom());
  m_settings.setValue("text/hex", view.showsHex());
  m_settings.setValue("text/rejected", view.showsRejected());
  m_settings.setValue("text/coloring", static_cast<int>(view.coloring()));
  m_settings.setValue("state/kind", static_cast<int>(m_state->kind()));
  m_settings.setValue("state/view", static_cast<int>(m_state->view()));
  m_editor->chosen().save(m_settings);
  m_models->save(m_settings);
}

void MainWindow::closeEvent(QCloseEvent* event) {
  saveWindow();
  QMainWindow::closeEvent(event);
}

}  // namespace mb::ui
