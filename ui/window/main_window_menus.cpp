// Menus of the window, and the file actions behind them.
#include <QAction>
#include <QActionGroup>
#include <QApplication>
#include <QFile>
#include <QFileDialog>
#include <QMenuBar>
#include <QMessageBox>
#include <QSettings>
#include <nlohmann/json.hpp>

#include "engine/export/run_export.h"
#include "ui/panels/next_byte_panel.h"
#include "ui/panels/perplexity_panel.h"
#include "ui/panels/state_panel.h"
#include "ui/text/find_bar.h"
#include "ui/text/text_panel.h"
#include "ui/window/dialogs.h"
#include "ui/window/file_jobs.h"
#include "ui/window/main_window.h"
#include "ui/window/model_chooser.h"

namespace mb::ui {

namespace {

/// What is remembered of each byte of a longer text would be felt.
constexpr qint64 kLongestText = 2 << 20;

}  // namespace

QAction* MainWindow::addAction(QMenu& menu, const QString& text, const QKeySequence& keys,
                               std::function<void()> action) {
  auto* made = new QAction(text, this);
  made->setShortcut(keys);
  made->setShortcutContext(Qt::WindowShortcut);
  connect(made, &QAction::triggered, this, [action = std::move(action)] { action(); });
  menu.addAction(made);
  QMainWindow::addAction(made);
  return made;
}

void MainWindow::buildMenus() {
  buildFileMenu();
  buildEditMenu();
  buildRunMenu();
  m_models->populate(*menuBar()->addMenu(tr("&Model")));
  buildViewMenu();
  buildHelpMenu();
  connect(m_models, &ModelChooser::detailsWanted, this, [this] {
    if (m_models->models()) DetailsDialog(*m_models->models(), this).exec();
  });
  connect(m_models, &ModelChooser::loadingChanged, this, &MainWindow::updateRunActions);
}

void MainWindow::buildFileMenu() {
  QMenu& menu = *menuBar()->addMenu(tr("&File"));
  addAction(menu, tr("New text"), QKeySequence::New, [this] {
    m_runs->stop();
    m_document.setText({});
    m_axis.fit();
    m_text->view().setFocus();
  });
  addAction(menu, tr("Open text…"), tr("Ctrl+T"), [this] { openText(); });
  addAction(menu, tr("Save text…"), QKeySequence::Save, [this] { saveText(); });
  menu.addSeparator();
  addAction(menu, tr("Export run as JSON…"), tr("Ctrl+E"), [this] { exportRun(); });
  addAction(menu, tr("Save screenshot…"), tr("Ctrl+Shift+S"), [this] { saveScreenshot(); });
  menu.addSeparator();
  addAction(menu, tr("Quit"), tr("Ctrl+Q"), [this] { close(); });
}

void MainWindow::buildEditMenu() {
  QMenu& menu = *menuBar()->addMenu(tr("&Edit"));
  QUndoStack& steps = m_document.undoStack();
  QAction* undo = steps.createUndoAction(this, tr("Undo"));
  QAction* redo = steps.createRedoAction(this, tr("Redo"));
  for (QAction* action : {undo, redo}) action->disconnect(&steps);
  connect(undo, &QAction::triggered, &m_document, &Document::undo);
  connect(redo, &QAction::triggered, &m_document, &Document::redo);
  undo->setShortcut(QKeySequence::Undo);
  redo->setShortcut(QKeySequence::Redo);
  for (QAction* action : {undo, redo}) {
    menu.addAction(action);
    QMainWindow::addAction(action);
  }
  menu.addSeparator();
  ByteView& view = m_text->view();
  addAction(menu, tr("Cut"), QKeySequence::Cut, [&view] { view.cut(); });
  addAction(menu, tr("Copy"), QKeySequence::Copy, [&view] { view.copy(); });
  addAction(menu, tr("Copy as hex"), tr("Ctrl+Shift+C"), [&view] { view.copyAsHex(); });
  addAction(menu, tr("Paste"), QKeySequence::Paste, [&view] { view.paste(); });
  addAction(menu, tr("Select all"), QKeySequence::SelectAll, [&view] { view.selectAll(); });
  menu.addSeparator();
  FindBar& find = m_text->findBar();
  addAction(menu, tr("Find…"), QKeySequence::Find, [&find] { find.open(); });
  addAction(menu, tr("Find next"), tr("F3"), [&find] { find.findNext(); });
  addAction(menu, tr("Find previous"), tr("Shift+F3"), [&find] { find.findPrevious(); });
  menu.addSeparator();
  addAction(menu, tr("Dismiss old curve"), tr("Ctrl+D"), [this] { m_document.dismissGhost(); });
}

void MainWindow::buildRunMenu() {
  QMenu& menu = *menuBar()->addMenu(tr("&Run"));
  m_generate = addAction(menu, tr("Generate"), tr("Ctrl+Return"), [this] { m_runs->generate(); });
  m_generate->setToolTip(tr("Write on from the end of the text (Ctrl+Enter)"));
  m_pause = addAction(menu, tr("Pause"), tr("Ctrl+P"), [this] { m_runs->pause(); });
  m_pause->setToolTip(tr("Halt and keep what is left to write (Ctrl+P)"));
  m_step = addAction(menu, tr("Step"), tr("Ctrl+."), [this] { m_runs->step(); });
  m_step->setToolTip(tr("Write one byte (Ctrl+.)"));
  m_stop = addAction(menu, tr("Stop"), tr("Esc"), [this] { m_runs->stop(); });
  m_stop->setToolTip(tr("Stop whatever runs (Esc)"));
  m_continueHere = addAction(menu, tr("Continue from the caret"), tr("Ctrl+Shift+Return"),
                             [this] { m_runs->continueFrom(m_text->view().caret()); });
  menu.addSeparator();
  addAction(menu, tr("Compare with plain decoding"), tr("Ctrl+M"),
            [this] { m_runs->compareWithPlain(m_document.size()); });
}

void MainWindow::buildViewMenu() {
  QMenu& menu = *menuBar()->addMenu(tr("&View"));
  int number = 1;
  for (Panel* panel : m_panels) {
    QAction* toggle = panel->toggleViewAction();
    toggle->setShortcut(QKeySequence(tr("Ctrl+%1").arg(number++)));
    connect(toggle, &QAction::triggered, panel, [panel](bool shown) {
      if (shown) panel->raise();  // from behind another tab
    });
    menu.addAction(toggle);
    QMainWindow::addAction(toggle);
  }
  addAction(menu, tr("Reset layout"), tr("Ctrl+0"), [this] { resetLayout(); });
  menu.addSeparator();
  ByteView& view = m_text->view();
  addAction(menu, tr("Hex"), tr("Ctrl+H"), [&view] { view.setHex(!view.showsHex()); });
  addAction(menu, tr("Rejected drafts"), tr("Ctrl+R"),
            [&view] { view.setShowRejected(!view.showsRejected()); });
  addAction(menu, tr("Colour by origin or surprisal"), tr("Ctrl+L"), [&view] {
    view.setColoring(view.coloring() == TextColoring::Origin ? TextColoring::Surprisal
                                                             : TextColoring::Origin);
  });
  addAction(menu, tr("Larger text"), QKeySequence::ZoomIn,
            [&view] { view.setZoom(view.zoom() * 1.1); });
  addAction(menu, tr("Smaller text"), QKeySequence::ZoomOut,
            [&view] { view.setZoom(view.zoom() / 1.1); });
  addAction(menu, tr("Fit the plots"), tr("Ctrl+J"), [this] { m_axis.fit(); });
  menu.addSeparator();
  QMenu& maps = *menu.addMenu(tr("Heatmap colours"));
  auto* mapGroup = new QActionGroup(this);
  for (const bool viridis : {false, true}) {
    QAction* action =
        maps.addAction(viridis ? tr("Viridis") : tr("Cividis"), this, [this, viridis] {
          m_state->setViridis(viridis);
          m_settings.setValue("state/viridis", viridis);
        });
    action->setShortcut(viridis ? tr("Ctrl+Alt+V") : tr("Ctrl+Alt+C"));
    action->setCheckable(true);
    action->setChecked(m_settings.value("state/viridis", false).toBool() == viridis);
    mapGroup->addAction(action);
  }
  QMenu& themes = *menu.addMenu(tr("Theme"));
  auto* themeGroup = new QActionGroup(this);
  const std::tuple<ThemeMode, QString, QString> modes[] = {
      {ThemeMode::System, tr("As the system"), tr("Ctrl+Alt+1")},
      {ThemeMode::Light, tr("Light"), tr("Ctrl+Alt+2")},
      {ThemeMode::Dark, tr("Dark"), tr("Ctrl+Alt+3")}};
  for (const auto& [mode, name, keys] : modes) {
    QAction* action = themes.addAction(name, this, [this, mode = mode] {
      m_theme.apply(mode);
      m_settings.setValue("window/theme", static_cast<int>(mode));
    });
    action->setShortcut(keys);
    action->setCheckable(true);
    action->setChecked(m_theme.mode() == mode);
    themeGroup->addAction(action);
  }
}

void MainWindow::buildHelpMenu() {
  QMenu& menu = *menuBar()->addMenu(tr("&Help"));
  addAction(menu, tr("Keyboard shortcuts"), tr("F1"), [this] {
    QList<QAction*> all;
    for (const QAction* top : menuBar()->actions())
      for (QAction* action : top->menu()->actions()) all.append(action);
    ShortcutsDialog(all, this).exec();
  });
  addAction(menu, tr("About"), tr("Shift+F1"), [this] {
    QMessageBox::about(
        this, tr("MambaByte Playground"),
        tr("<b>MambaByte Playground %1</b><br>Watch a byte-level state-space model write, from the "
           "inside.<br><br>After MambaByte (Wang, Gangavarapu, Yan, Rush, 2024) and Mamba (Gu, "
           "Dao, "
           "2024). GPL-3.0-or-later.")
            .arg(QString::fromStdString(programVersion())));
  });
}

// ---- files

void MainWindow::openText() {
  const QString name = QFileDialog::getOpenFileName(this, tr("Open text"));
  if (name.isEmpty()) return;
  QFile file(name);
  if (!file.open(QIODevice::ReadOnly))
    return showError(tr("%1 cannot be read: %2").arg(name, file.errorString()), {});
  if (file.size() > kLongestText) {
    return showError(tr("%1 has %2 bytes; the window takes texts of up to %3. For a longer one use "
                        "mambabyte eval.")
                         .arg(name)
                         .arg(file.size())
                         .arg(kLongestText),
                     {});
  }
  const QByteArray content = file.readAll();
  m_runs->stop();
  m_document.setText({reinterpret_cast<const Byte*>(content.constData()),
                      static_cast<std::size_t>(content.size())});
  m_axis.fit();
}

void MainWindow::saveText() {
  const QString name =
      QFileDialog::getSaveFileName(this, tr("Save text"), QStringLiteral("text.txt"));
  if (name.isEmpty()) return;
  m_files->write(name, [bytes = m_document.bytes()] {
    return QByteArray(reinterpret_cast<const char*>(bytes.data()),
                      static_cast<qsizetype>(bytes.size()));
  });
}

void MainWindow::exportRun() {
  const QString name =
      QFileDialog::getSaveFileName(this, tr("Export run"), QStringLiteral("run.json"));
  if (name.isEmpty()) return;
  const RunFinished& run = m_runs->lastRun();
  RunReport report;
  report.promptBytes = m_document.size() - std::min(m_document.size(), run.bytes);
  report.totals = m_speculation->totals();
  report.written = run.bytes;
  report.seconds = run.seconds;
  report.settings = m_editor->settings().generation;
  if (const auto& models = m_models->models()) {
    report.verifier = models->verifier;
    report.drafter = models->drafter;
  }
  const auto records = m_document.records();
  m_files->write(name, [report, rounds = m_document.rounds(),
                        bytes = std::vector(records.begin(), records.end())]() mutable {
    report.bytes = bytes;
    report.rounds = rounds;
    return QByteArray::fromStdString(toJsonText(describeRun(report)));
  });
}

void MainWindow::saveScreenshot() {
  const QString name =
      QFileDialog::getSaveFileName(this, tr("Save screenshot"), QStringLiteral("mambabyte.png"));
  if (name.isEmpty()) return;
  if (!grab().save(name)) showError(tr("%1 cannot be written").arg(name), {});
}

}  // namespace mb::ui
