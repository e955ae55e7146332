#include "engine/checkpoint/mapped_file.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "engine/error.h"

namespace mb {

namespace {

/// Closes a file descriptor at the end of a scope.
struct Descriptor {
  explicit Descriptor(int opened) : value(opened) {}
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int value;
};

std::string problem(const char* what) {
  return std::string(what) + " (" + strerror(errno) + ")";
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.value < 0) throw FileError(path, problem("cannot be opened"));
  struct stat info {};
  if (::fstat(file.value, &info) != 0) throw FileError(path, problem("cannot be examined"));
  if (!S_ISREG(info.st_mode)) throw FileError(path, "is not a regular file");
  const std::size_t size = static_cast<std::size_t>(info.st_size);
  if (size == 0) return;
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.value, 0);
  if (address == MAP_FAILED) throw FileError(path, problem("cannot be mapped"));
  m_bytes = {static_cast<const std::byte*>(address), size};
}

MappedFile::~MappedFile() {
  if (!m_bytes.empty()) ::munmap(const_cast<std::byte*>(m_bytes.data()), m_bytes.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : m_bytes(std::exchange(other.m_bytes, std::span<const std::byte>{})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(m_bytes, other.m_bytes);
  return *this;
}

std::string readTextFile(const std::filesystem::path& path, std::size_t limit) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  if (bytes.size() > limit) {
    throw FormatError(path, "size", "at most " + std::to_string(limit) + " bytes",
                      std::to_string(bytes.size()));
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace mb
