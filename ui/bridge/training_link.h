// The GUI's end of the thread that trains.
#pragma once

#include <QObject>
#include <QTimer>

#include "ui/bridge/training_worker.h"
#include "ui/model/training_history.h"

namespace mb::ui {

class TrainingLink : public QObject {
  Q_OBJECT

 public:
  explicit TrainingLink(QObject* parent = nullptr);

  TrainingState state() const { return m_state; }
  /// Work is under way.
  bool isBusy() const {
    return m_state == TrainingState::Preparing || m_state == TrainingState::Training;
  }
  bool canGoOn() const { return m_canGoOn || m_state == TrainingState::Paused; }
  bool hasModel() const { return m_hasModel; }
  const TrainingHistory& history() const { return m_history; }

  void start(const TrainingPlan& plan);
  void startAgain(const std::filesystem::path& folder);
  void pause() { m_worker.pause(); }
  void goOn();
  void stop() { m_worker.stop(); }
  void keep(const std::filesystem::path& folder) { m_worker.keep(folder); }

 signals:
  /// There is news in the history, or the state is another.
  void changed();
  void kept(const QString& folder, bool isByteLevel);
  void failed(const QString& problem);

 private:
  void look();
  void announce(const TrainingNews& news);

  TrainingWorker m_worker;
  TrainingHistory m_history;
  TrainingState m_state = TrainingState::Idle;
  bool m_canGoOn = false;
  bool m_hasModel = false;
  QTimer m_timer;
};

}  // namespace mb::ui
