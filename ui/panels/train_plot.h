// The loss of a training, step by step.
#pragma once

#include <qcustomplot.h>

#include "ui/model/training_history.h"
#include "ui/theme/theme.h"

namespace mb::ui {

/// Bits a byte by step: of the text trained on, and of the text held out. Moving the pointer reads
/// the values of a step. Include only from .cpp files: QCustomPlot's header is slow to compile.
class TrainPlot : public QCustomPlot {
  Q_OBJECT

 public:
  TrainPlot(const TrainingHistory& history, const Theme& theme, QWidget* parent);

  /// Takes what is new in the history and replots.
  void refresh();

  QSize sizeHint() const override { return {380, 150}; }
  QSize minimumSizeHint() const override { return {160, 76}; }

 protected:
  void mouseMoveEvent(QMouseEvent* event) override;

 private:
  void fitAxes();
  QString readout(double step) const;

  const TrainingHistory& m_history;
  const Theme& m_theme;
  QCPGraph* m_training;
  QCPGraph* m_validation;
};

}  // namespace mb::ui
