// The folders that the window's trainings are kept in.
#pragma once

#include <QString>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

namespace mb::ui {

/// A run that ended before its last step, in whatever way.
struct UnfinishedRun {
  std::filesystem::path folder;
  QString text;  ///< name of what it is trained on
  std::uint64_t step = 0;
  std::uint64_t steps = 0;
};

class TrainingRuns {
 public:
  /// `base` holds one folder a run; it is made when it is needed.
  explicit TrainingRuns(std::filesystem::path base) : m_base(std::move(base)) {}
  /// Below the user's application data.
  static std::filesystem::path standardFolder();

  /// A name for a new run that sorts behind all others. Deletes all but the newest few of them.
  std::filesystem::path newFolder() const;
  /// The newest run, when it has a checkpoint to go on from and steps left.
  std::optional<UnfinishedRun> unfinished() const;

 private:
  std::vector<std::filesystem::path> folders() const;

  std::filesystem::path m_base;
};

}  // namespace mb::ui
