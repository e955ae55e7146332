#include "tests/fuzz/scratch_folder.h"

#include <atomic>
#include <fstream>
#include <stdexcept>
#include <unistd.h>

namespace mb::fuzz {

namespace {

std::filesystem::path baseFolder() {
  const std::filesystem::path memory = "/dev/shm";
  std::error_code error;
  const bool usable =
      std::filesystem::is_directory(memory, error) && ::access(memory.c_str(), W_OK) == 0;
  return usable ? memory : std::filesystem::temp_directory_path();
}

}  // namespace

ScratchFolder::ScratchFolder() : m_owner(::getpid()) {
  static std::atomic<int> count{0};
  m_path =
      baseFolder() / ("mambabyte-fuzz-" + std::to_string(m_owner) + "-" + std::to_string(count++));
  std::filesystem::create_directories(m_path);
}

ScratchFolder::~ScratchFolder() {
  if (::getpid() != m_owner) return;
  std::error_code ignored;
  std::filesystem::remove_all(m_path, ignored);
}

std::filesystem::path ScratchFolder::write(const std::string& name, ByteView content) const {
  const std::filesystem::path file = m_path / name;
  writeWhole(file, content);
  return file;
}

Bytes readWhole(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw std::runtime_error(file.string() + " cannot be opened");
  return {std::istreambuf_iterator<char>(stream), {}};
}

void writeWhole(const std::filesystem::path& file, ByteView content) {
  std::ofstream stream(file, std::ios::binary | std::ios::trunc);
  stream.write(reinterpret_cast<const char*>(content.data()),
               static_cast<std::streamsize>(content.size()));
  if (!stream.flush()) throw std::runtime_error(file.string() + " cannot be written");
}

}  // namespace mb::fuzz
