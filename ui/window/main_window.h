// The window: puts panels, menus and tool bar together and remembers how they were.
#pragma once

#include <QMainWindow>

#include "ui/model/workspace.h"
#include "ui/theme/theme.h"
#include "ui/window/run_controller.h"
#include "ui/window/run_settings.h"

class QLabel;
class QProgressBar;
class QSettings;
class QToolButton;

namespace mb::ui {

class ElidedLabel;
class FileJobs;
class ModelChooser;
class NextBytePanel;
class Panel;
class PerplexityPanel;
class StatePanel;
class TextPanel;
class ToolBar;
class TrainPanel;

class MainWindow : public QMainWindow {
  Q_OBJECT

 public:
  /// `settings` is where layout and choices are remembered. All three must outlive the window.
  MainWindow(Theme& theme, Workspace& workspace, QSettings& settings, QWidget* parent = nullptr);
  ~MainWindow() override;

  Document& document() { return m_document; }
  EngineLink& link() { return m_link; }
  RunController& runs() { return *m_runs; }
  RunSettingsEditor& settingsEditor() { return *m_editor; }
  ModelChooser& models() { return *m_models; }
  TextPanel& text() { return *m_text; }
  NextBytePanel& nextByte() { return *m_nextByte; }
  SpeculationPanel& speculation() { return *m_speculation; }
  StatePanel& state() { return *m_state; }
  PerplexityPanel& perplexity() { return *m_perplexity; }
  TrainPanel& train() { return *m_train; }

  /// Opens the remembered models, or the bundled pair.
  void openModels();
  /// Repaints every panel with what is known now, for a screenshot.
  void refreshAll();
  /// Places the panels as on first start.
  void resetLayout();
  bool isNarrow() const { return m_narrow; }

 protected:
  void resizeEvent(QResizeEvent* event) override;
  void closeEvent(QCloseEvent* event) override;

 private:
  void buildPanels();
  void buildToolBar();
  void buildStatusBar();
  void buildMenus();
  void buildFileMenu();
  void buildEditMenu();
  void buildRunMenu();
  void buildViewMenu();
  void buildHelpMenu();
  void connectParts();
  QAction* addAction(QMenu& menu, const QString& text, const QKeySequence& keys,
                     std::function<void()> action);

  /// Panels live in a window of their own inside this one, so that there is a margin around them.
  QMainWindow& area() { return *m_area; }
  void arrange(bool narrow);
  void restoreWindow();
  void saveWindow();
  void modelsOpened(const ModelsLoaded& models);
  void updateTaps();
  void updateRunActions();
  void updateFigures();
  void updateStatus();
  void tick();
  void showError(const QString& problem, const QString& action);

  void openText();
  void saveText();
  void exportRun();
  void saveScreenshot();

  Theme& m_theme;
  QSettings& m_settings;
  Document& m_document;
  LinkedPosition& m_linked;
  ByteAxis& m_axis;
  TraceStore& m_traces;
  EngineLink& m_link;
  RunSettingsEditor* m_editor;
  ModelChooser* m_models;
  FileJobs* m_files;
  RunController* m_runs = nullptr;

  QMainWindow* m_area = nullptr;
  TextPanel* m_text = nullptr;
  NextBytePanel* m_nextByte = nullptr;
  SpeculationPanel* m_speculation = nullptr;
  StatePanel* m_state = nullptr;
  PerplexityPanel* m_perplexity = nullptr;
  TrainPanel* m_train = nullptr;
  QList<Panel*> m_panels;
  ToolBar* m_toolBar = nullptr;

  QAction* m_generate = nullptr;
  QAction* m_pause = nullptr;
  QAction* m_step = nullptr;
  QAction* m_stop = nullptr;
  QAction* m_continueHere = nullptr;
  QLabel* m_statusText = nullptr;
  QLabel* m_statusState = nullptr;
  QLabel* m_statusSnapshots = nullptr;
  ElidedLabel* m_statusDevice = nullptr;
  QProgressBar* m_progress = nullptr;
  QToolButton* m_cancel = nullptr;
  QElapsedTimer m_activityClock;
  std::optional<Task> m_shownTask;
  TapRequest m_taps;
  bool m_narrow = false;
  bool m_raiseFirst = false;  ///< the tabs have just been made and none was raised by hand
  std::size_t m_channels = 0;
};

}  // namespace mb::ui
