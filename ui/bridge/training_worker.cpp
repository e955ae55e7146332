#include "ui/bridge/training_worker.h"

#include <sys/resource.h>
#include <utility>

#include "engine/error.h"

namespace mb::ui {

namespace {

/// Generating and the window come first.
constexpr int kNiceness = 5;

}  // namespace

TrainingWorker::TrainingWorker() : m_thread([this] { work(); }) {}

TrainingWorker::~TrainingWorker() {
  {
    const std::lock_guard lock(m_mutex);
    m_ending = true;
    m_pausing = false;
    m_stop.request_stop();
  }
  m_wake.notify_all();
}

void TrainingWorker::post(Command command) {
  {
    const std::lock_guard lock(m_mutex);
    // Made here, so that a stop before the work begins is not lost.
    m_stop.request_stop();
    m_stop = std::stop_source();
    m_pausing = false;
    command.stop = m_stop.get_token();
    m_commands.push_back(std::move(command));
    m_batch.state = TrainingState::Preparing;
  }
  m_wake.notify_all();
}

void TrainingWorker::start(const TrainingPlan& plan) {
  post({.plan = plan, .stop = {}});
}
void TrainingWorker::startAgain(const std::filesystem::path& folder) {
  post({.plan = {}, .folder = folder, .stop = {}});
}
void TrainingWorker::goOn() {
  post({.plan = {}, .stop = {}});
}

void TrainingWorker::pause() {
  const std::lock_guard lock(m_mutex);
  if (m_batch.state != TrainingState::Training) return;
  m_pausing = true;
  m_stop.request_stop();
}

void TrainingWorker::stop() {
  const std::lock_guard lock(m_mutex);
  m_pausing = false;
  m_stop.request_stop();
  if (m_batch.state != TrainingState::Paused) return;
  m_batch.state = TrainingState::Ended;
  m_batch.canGoOn = true;
}

void TrainingWorker::keep(const std::filesystem::path& folder) {
  {
    const std::lock_guard lock(m_mutex);
    m_keeps.push_back(folder);
  }
  m_wake.notify_all();
}

TrainingBatch TrainingWorker::take() {
  const std::lock_guard lock(m_mutex);
  TrainingBatch batch{m_batch.state, m_batch.canGoOn, m_batch.hasModel, {}};
  batch.news.swap(m_batch.news);
  return batch;
}

void TrainingWorker::enter(TrainingState state, bool canGoOn) {
  const std::lock_guard lock(m_mutex);
  m_batch.canGoOn = canGoOn;
  m_batch.hasModel = m_session != nullptr;
  if (m_commands.empty()) m_batch.state = state;  // else the next one has spoken already
}

void TrainingWorker::publish(TrainingNews news) {
  const std::lock_guard lock(m_mutex);
  m_batch.news.push_back(std::move(news));
}

void TrainingWorker::work() {
  setpriority(PRIO_PROCESS, 0, kNiceness);  // on Linux this thread and those it starts
  for (;;) {
    std::optional<Command> command;
    {
      std::unique_lock lock(m_mutex);
      m_wake.wait(lock, [&] { return m_ending || !m_commands.empty() || !m_keeps.empty(); });
      if (m_ending) return;
      if (!m_commands.empty()) {
        command = std::move(m_commands.front());
        m_commands.pop_front();
      }
    }
    if (command) perform(*command);
    keepWhatIsWanted();
  }
}

void TrainingWorker::perform(const Command& command) {
  const bool starts = command.plan || command.folder;
  if (starts && !prepare(command)) return;
  if (m_session) train(command.stop);
}

/// Makes the session; false, with a message, when that is not possible.
bool TrainingWorker::prepare(const Command& command) {
  m_session.reset();
  enter(TrainingState::Preparing);
  const auto listener = [this](const TrainingEvent& event) {
    publish(event);
    if (std::holds_alternative<TrainingStepped>(event)) keepWhatIsWanted();
  };
  try {
    const TrainingPlan plan = command.plan ? *command.plan : planToResume(*command.folder);
    m_session = std::make_unique<TrainingSession>(plan, listener, command.stop);
    if (command.folder)
      for (const TrainingEvent& event : eventsOf(*command.folder, m_session->steps()))
        publish(event);
    return true;
  } catch (const Stopped&) {
  } catch (const std::exception& error) {  // also of too little memory
    publish(TrainingProblem{error.what()});
  }
  enter(TrainingState::Idle);
  return false;
}

void TrainingWorker::train(std::stop_token stop) {
  enter(TrainingState::Training);
  try {
    m_session->run(std::move(stop));
    enter(TrainingState::Ended);
  } catch (const Stopped&) {
    stopped();
  } catch (const DivergedError& error) {
    publish(TrainingProblem{error.what()});
    enter(TrainingState::Ended);
  } catch (const std::exception& error) {
    publish(TrainingProblem{error.what()});
    enter(TrainingState::Ended, true);
  }
}

/// Says so first: writing the checkpoint takes longer than stopping.
void TrainingWorker::stopped() {
  bool paused = false;
  {
    const std::lock_guard lock(m_mutex);
    paused = m_pausing;
  }
  enter(paused ? TrainingState::Paused : TrainingState::Ended, true);
  try {
    if (m_session->steps() > 0) m_session->save();
  } catch (const Error& error) {
    publish(TrainingProblem{error.what()});
  }
}

void TrainingWorker::keepWhatIsWanted() {
  std::deque<std::filesystem::path> folders;
  {
    const std::lock_guard lock(m_mutex);
    folders.swap(m_keeps);
  }
  for (const std::filesystem::path& folder : folders) {
    try {
      if (!m_session) throw RequestError("there is nothing to keep: no training was started");
      m_session->keep(folder);
      publish(TrainingKept{folder, m_session->isByteLevel()});
    } catch (const Error& error) {
      publish(TrainingProblem{error.what()});
    }
  }
}

}  // namespace mb::ui
