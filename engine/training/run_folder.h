// The folder of a training run: how it was started (run.json), a line for every step (log.jsonl),
// what the weights wrote (samples/) and the newest checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engine/training/trainer.h"
#include "engine/training/training_events.h"
#include "engine/types.h"

namespace mb {

/// What a log says of the run up to now.
struct LogEnd {
  double seconds = 0;                           ///< spent so far
  std::uint64_t validated = ~std::uint64_t{0};  ///< step of the newest validation
  double validationBits = 0;                    ///< and what came of it, in bits a token
};

/// Every method throws FileError when the disk does not take or give what is asked for.
class RunFolder {
 public:
  /// Makes the folder. Throws RequestError when it holds a run that is not to be gone on with, and
  /// FileError when there is none to go on with. `tokenizer` is kept with the checkpoints, unless
  /// it is empty.
  RunFolder(std::filesystem::path folder, bool resume, std::filesystem::path tokenizer);

  std::filesystem::path checkpoint() const { return m_folder / "checkpoint"; }

  /// Goes on with the log behind the lines of the first `steps` steps. Later lines, and half of
  /// one, are dropped: those steps were lost, and the run takes them again.
  LogEnd openLog(std::uint64_t steps);
  /// Adds a line. One that the disk did not take is written with the next.
  void log(const nlohmann::json& line);
  void describe(const nlohmann::json& run) const;
  void keepSample(std::uint64_t step, ByteView text) const;
  void save(const Trainer& trainer) const;

 private:
  std::filesystem::path logFile() const { return m_folder / "log.jsonl"; }
  void reopenLog();

  std::filesystem::path m_folder;
  std::filesystem::path m_tokenizer;
  std::ofstream m_log;
  std::uintmax_t m_length = 0;  ///< of the log, in bytes that are surely written
  std::string m_waiting;        ///< lines that the disk did not take
};

/// Steps, validations and samples of a run's first `steps` steps, as its folder holds them. What a
/// run knew only while it went on is zero. Throws FileError.
std::vector<TrainingEvent> eventsOf(const std::filesystem::path& folder, std::uint64_t steps);

}  // namespace mb
