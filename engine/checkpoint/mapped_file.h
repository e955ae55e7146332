// A file mapped into memory for reading.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace mb {

/// Move-only; unmaps when destroyed. An empty file has an empty view.
class MappedFile {
 public:
  /// Throws FileError when the file cannot be opened or is not a regular file.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return m_bytes; }

 private:
  std::span<const std::byte> m_bytes;
};

/// The whole of a small text file such as a config. Throws FileError when it cannot be read, and
/// FormatError when it is larger than `limit` bytes.
std::string readTextFile(const std::filesystem::path& path, std::size_t limit);

}  // namespace mb
