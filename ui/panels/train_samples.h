// What the weights write, now and earlier, side by side.
#pragma once

#include <QWidget>

#include "ui/model/training_history.h"

class QLabel;
class QPlainTextEdit;

namespace mb::ui {

class Choice;

/// All samples begin with the same words and the same seed: what differs is what was learned.
class TrainSamples : public QWidget {
  Q_OBJECT

 public:
  TrainSamples(const TrainingHistory& history, QWidget* parent);

  /// Takes what is new in the history. An earlier sample stays chosen until another is.
  void refresh();

 private:
  QPlainTextEdit* makeText(const QString& name);
  void showEarlier();

  const TrainingHistory& m_history;
  Choice* m_earlier;
  QLabel* m_newest;
  QPlainTextEdit* m_earlierText;
  QPlainTextEdit* m_newestText;
  std::size_t m_shown = 0;  ///< samples taken from the history
};

}  // namespace mb::ui
