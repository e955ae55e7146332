#include "ui/bridge/training_link.h"

namespace mb::ui {

namespace {

constexpr int kLookMilliseconds = 50;

}  // namespace

TrainingLink::TrainingLink(QObject* parent) : QObject(parent) {
  connect(&m_timer, &QTimer::timeout, this, &TrainingLink::look);
  m_timer.start(kLookMilliseconds);
}

void TrainingLink::start(const TrainingPlan& plan) {
  m_history = {};
  m_worker.start(plan);
  look();
}

void TrainingLink::startAgain(const std::filesystem::path& folder) {
  m_history = {};
  m_worker.startAgain(folder);
  look();
}

void TrainingLink::goOn() {
  m_worker.goOn();
  look();
}

void TrainingLink::look() {
  const TrainingBatch batch = m_worker.take();
  const bool same = batch.state == m_state && batch.canGoOn == m_canGoOn &&
                    batch.hasModel == m_hasModel && batch.news.empty();
  m_state = batch.state;
  m_canGoOn = batch.canGoOn;
  m_hasModel = batch.hasModel;
  for (const TrainingNews& news : batch.news) announce(news);
  if (!same) emit changed();
}

void TrainingLink::announce(const TrainingNews& news) {
  if (const auto* event = std::get_if<TrainingEvent>(&news))
    m_history.add(*event);
  else if (const auto* model = std::get_if<TrainingKept>(&news))
    emit kept(QString::fromStdString(model->folder.string()), model->isByteLevel);
  else if (const auto* problem = std::get_if<TrainingProblem>(&news))
    emit failed(QString::fromStdString(problem->text));
}

}  // namespace mb::ui
