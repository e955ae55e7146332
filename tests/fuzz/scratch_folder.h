// Where fuzz inputs become files: the loaders take paths.
#pragma once

#include <filesystem>
#include <string>

#include "engine/types.h"

namespace mb::fuzz {

/// A folder in memory (/dev/shm) where there is one, else among the temporary files. Deleted with
/// the object, but only by the process that made it: children share it.
class ScratchFolder {
 public:
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::filesystem::path& path() const { return m_path; }
  /// Writes (or overwrites) a file and returns its path.
  std::filesystem::path write(const std::string& name, ByteView content) const;

 private:
  std::filesystem::path m_path;
  long m_owner;
};

/// The whole of a file; throws std::runtime_error.
Bytes readWhole(const std::filesystem::path& file);
/// Throws std::runtime_error.
void writeWhole(const std::filesystem::path& file, ByteView content);

}  // namespace mb::fuzz
