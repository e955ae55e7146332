// The thread that trains. Generating goes on beside it, in the engine's own thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "engine/training/training_session.h"

namespace mb::ui {

enum class TrainingState : std::uint8_t {
  Idle,       ///< nothing was started
  Preparing,  ///< texts and model are being read
  Training,
  Paused,
  Ended  ///< done, stopped or failed; the weights are still there
};

/// The weights were written as a model.
struct TrainingKept {
  std::filesystem::path folder;
  bool isByteLevel = true;
};

/// Something did not work, said in a sentence.
struct TrainingProblem {
  std::string text;
};

using TrainingNews = std::variant<TrainingEvent, TrainingKept, TrainingProblem>;

/// What there is to say since the window last asked, and how things stand.
struct TrainingBatch {
  TrainingState state = TrainingState::Idle;
  bool canGoOn = false;   ///< ended before its last step
  bool hasModel = false;  ///< there are weights to keep
  std::vector<TrainingNews> news;
};

/// Commands return at once. Pausing and stopping take effect within a layer of the model.
class TrainingWorker {
 public:
  TrainingWorker();
  /// Stops, writes a checkpoint, and waits for the thread.
  ~TrainingWorker();

  /// Trains by a plan; what was trained before is let go of.
  void start(const TrainingPlan& plan);
  /// Goes on with the run in a folder, which another process may have left.
  void startAgain(const std::filesystem::path& folder);
  void pause();
  /// After a pause, a stop, or a failure that was put right.
  void goOn();
  void stop();
  /// Writes the weights as they are after the step in progress.
  void keep(const std::filesystem::path& folder);
  TrainingBatch take();

 private:
  struct Command {
    std::optional<TrainingPlan> plan;                  ///< to start with
    std::optional<std::filesystem::path> folder = {};  ///< or to go on in
    std::stop_token stop;
  };

  void post(Command command);
  void work();
  void perform(const Command& command);
  bool prepare(const Command& command);
  void train(std::stop_token stop);
  void stopped();
  void keepWhatIsWanted();
  void enter(TrainingState state, bool canGoOn = false);
  void publish(TrainingNews news);

  // Guarded by m_mutex.
  std::mutex m_mutex;
  std::condition_variable m_wake;
  std::deque<Command> m_commands;
  std::deque<std::filesystem::path> m_keeps;
  TrainingBatch m_batch;
  std::stop_source m_stop;  ///< of the newest command
  bool m_pausing = false;   ///< the stop is a pause
  bool m_ending = false;

  std::unique_ptr<TrainingSession> m_session;  ///< of the thread alone
  std::jthread m_thread;                       ///< last: it uses all the others
};

}  // namespace mb::ui
