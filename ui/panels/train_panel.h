// Trains a model on the user's texts while they watch.
#pragma once

#include "ui/bridge/training_link.h"
#include "ui/bridge/training_runs.h"
#include "ui/panels/panel.h"
#include "ui/theme/theme.h"
#include "ui/widgets/figure.h"

class QLabel;
class QProgressBar;
class QPushButton;

namespace mb::ui {

class ElidedLabel;
class Legend;
class MessageStrip;
class TrainForm;
class TrainPlot;
class TrainSamples;
struct ModelsLoaded;

class TrainPanel : public Panel {
  Q_OBJECT

 public:
  TrainPanel(const Theme& theme, QWidget* parent);

  /// Models that are open now.
  void setModels(const ModelsLoaded& models);
  /// Where runs are kept; looks for one to go on with.
  void setRuns(const TrainingRuns& runs);
  TrainingLink& link() { return m_link; }
  TrainForm& form() { return *m_form; }
  /// Trains as the form says.
  void start();
  MessageStrip& messages() { return *m_messages; }

 signals:
  /// The model that was kept shall be opened.
  void kept(const QString& folder, bool isByteLevel);

 protected:
  void refresh() override;

 private:
  struct Buttons {
    QPushButton* start = nullptr;
    QPushButton* pause = nullptr;  ///< or go on
    QPushButton* stop = nullptr;
    QPushButton* keep = nullptr;
  };

  QWidget* makeContent();
  QLayout* makeButtons();
  QPushButton* makeButton(const QString& text, const QString& name, const QString& meaning);
  QWidget* makeProgress();
  QLayout* makeFigures(QWidget* parent);
  void followLink();
  void startOrAsk();
  void pauseOrGoOn();
  void keep();
  void showError(const QString& problem);
  void updateButtons();
  void updateFigures();
  QString statusText() const;
  QString estimateText() const;
  QString hintText() const;

  const Theme& m_theme;
  TrainingLink m_link;
  TrainingRuns m_runs;
  std::optional<UnfinishedRun> m_unfinished;
  bool m_another = false;  ///< the form is wanted, though a training's course is there
  MessageStrip* m_messages = nullptr;
  TrainForm* m_form = nullptr;
  Buttons m_buttons;
  QLabel* m_hint = nullptr;
  QWidget* m_progress = nullptr;  ///< course of the training
  ElidedLabel* m_status = nullptr;
  QProgressBar* m_bar = nullptr;
  Figure m_loss;
  Figure m_validation;
  Figure m_speed;
  Figure m_rate;
  Figure m_left;
  TrainPlot* m_plot = nullptr;
  TrainSamples* m_samples = nullptr;
  Legend* m_legend = nullptr;
};

}  // namespace mb::ui
