// A training run from its plan to its last checkpoint, for the command line and for the window.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>

#include "engine/training/run_folder.h"
#include "engine/training/training_events.h"
#include "engine/training/training_plan.h"

namespace mb {

/// Called in order, on the thread that runs the session.
using TrainingListener = std::function<void(const TrainingEvent&)>;

/// Not thread-safe. Trains on the CPU.
class TrainingSession {
 public:
  /// Reads all that the plan names, and makes its folder. Throws FileError, FormatError,
  /// RequestError or Stopped.
  TrainingSession(TrainingPlan plan, TrainingListener listener, std::stop_token stop = {});
  ~TrainingSession();

  const TrainingPlan& plan() const { return m_plan; }
  std::uint64_t steps() const { return m_trainer->steps(); }
  /// All steps are done or the time is up.
  bool isDone() const;
  std::filesystem::path checkpoint() const { return m_folder->checkpoint(); }
  bool isByteLevel() const { return !m_material.tokenizer; }

  /// Trains until isDone(), with a checkpoint at the end. Throws Stopped within a layer, and
  /// FileError when the disk takes no more: nothing is saved then, but nothing is lost either, and
  /// run() goes on from there. Throws DivergedError when the loss is not a number any more; the
  /// session is then back at the last checkpoint, or at the beginning.
  void run(std::stop_token stop);
  /// Writes a checkpoint. Throws FileError, or DivergedError when the weights are not numbers; the
  /// checkpoint before is then still there.
  void save();
  /// Writes the weights as a model into a new or empty folder, all of it or nothing. Throws
  /// FileError, or RequestError when there is something in the folder.
  void keep(const std::filesystem::path& folder) const;

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::uint64_t kNever = ~std::uint64_t{0};

  void renewTrainer();
  LogEnd goOnFromCheckpoint();
  void expectNumbers() const;
  void describeRun() const;
  double spent() const;
  bool isDue(const Rhythm& rhythm, double last) const;
  void train(std::stop_token stop);
  void begin(std::stop_token stop);
  void fitSteps(std::stop_token stop);
  void step(std::stop_token stop);
  void report(const TrainingStep& step);
  double secondsLeft() const;
  void validate(std::stop_token stop);
  void examine(std::stop_token stop);
  void sample(std::stop_token stop);

  TrainingPlan m_plan;
  TrainingListener m_listener;
  TrainingMaterial m_material;
  std::unique_ptr<const ParameterLayout> m_layout;
  std::shared_ptr<cpu::ThreadPool> m_pool;
  std::unique_ptr<RunFolder> m_folder;
  std::unique_ptr<Trainer> m_trainer;
  std::string m_device;  ///< that trains, and why that one
  bool m_begun = false;
  double m_logged = 0;  ///< seconds that the run had taken before this session
  double m_spent = 0;   ///< seconds of earlier calls of run()
  std::optional<Clock::time_point> m_running;  ///< since when
  double m_secondsPerStep = 0;
  double m_reportSeconds = 0;  ///< that a validation and a sample take
  double m_savedAt = 0;        ///< as spent() says, like the next two
  double m_validatedAt = 0;
  double m_sampledAt = 0;
  std::uint64_t m_validated = kNever;  ///< steps behind which that was last
  std::uint64_t m_sampled = kNever;
};

}  // namespace mb
