// The playground without a display: the same window, drawn off screen, generates to the terminal.
#pragma once

#include <QObject>
#include <QString>

#include "ui/window/main_window.h"

namespace mb::app {

/// Generates once the models are open, streams the text to standard output, prints the acceptance
/// summary to standard error, waits until everything is scored and drawn, writes a screenshot and
/// quits the application: status 0, or 1 with a message. With a text to train on, the picture shows
/// the training half-way.
class HeadlessRun : public QObject {
  Q_OBJECT

 public:
  /// `train` is a text to train on, or empty.
  HeadlessRun(ui::MainWindow& window, QString screenshot, QString train, QObject* parent = nullptr);

 private:
  void print(std::size_t first);
  void waitUntilIdle();
  void printSummary() const;
  void finish();
  [[nodiscard]] bool isIdle() const;
  [[nodiscard]] bool isHalfTrained() const;
  /// On a line of its own, whatever text has been printed.
  void say(const QString& problem);
  void fail(const QString& problem);

  ui::MainWindow& m_window;
  QString m_screenshot;
  QString m_train;
  std::size_t m_printed = 0;
  bool m_isInLine = false;  ///< what was printed last does not end one
  int m_idleTicks = 0;
  bool m_ran = false;
  bool m_trains = false;
};

}  // namespace mb::app
