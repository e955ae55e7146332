#include "engine/file_io.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <unistd.h>

#include "engine/error.h"

namespace mb {

namespace {

[[noreturn]] void failWith(const std::filesystem::path& file, int descriptor,
                           const std::filesystem::path& temporary) {
  const std::string reason = strerror(errno);
  if (descriptor >= 0) ::close(descriptor);
  ::unlink(temporary.c_str());
  throw FileError(file, "cannot be written (" + reason + ")");
}

bool writeAll(int descriptor, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return true;
}

/// A pipe or device, such as /dev/stdout, which must not be replaced by a file.
bool isSpecial(const std::filesystem::path& file) {
  std::error_code error;
  const auto status = std::filesystem::status(file, error);
  return std::filesystem::exists(status) && !std::filesystem::is_regular_file(status) &&
         !std::filesystem::is_directory(status);
}

void writeInPlace(const std::filesystem::path& file,
                  std::span<const std::span<const std::byte>> parts) {
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_CLOEXEC);
  bool good = descriptor >= 0;
  for (const auto part : parts) good = good && writeAll(descriptor, part);
  const std::string reason = strerror(errno);
  if (descriptor >= 0) ::close(descriptor);
  if (!good) throw FileError(file, "cannot be written (" + reason + ")");
}

}  // namespace

void writeFileAtomically(const std::filesystem::path& wanted,
                         std::span<const std::span<const std::byte>> parts) {
  std::error_code error;
  if (isSpecial(wanted)) return writeInPlace(wanted, parts);
  const auto resolved = std::filesystem::canonical(wanted, error);
  const std::filesystem::path& file = error ? wanted : resolved;  // a link stays a link
  const std::filesystem::path temporary =
      file.string() + ".part" + std::to_string(static_cast<long>(::getpid()));
  const int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) failWith(file, descriptor, temporary);
  for (const auto part : parts)
    if (!writeAll(descriptor, part)) failWith(file, descriptor, temporary);
  if (::fsync(descriptor) != 0) failWith(file, descriptor, temporary);
  if (::close(descriptor) != 0) failWith(file, -1, temporary);
  if (::rename(temporary.c_str(), file.c_str()) != 0) failWith(file, -1, temporary);
}

void expectWritable(const std::filesystem::path& file) {
  std::error_code error;
  if (std::filesystem::is_directory(file, error))
    throw FileError(file, "cannot be written (it is a folder)");
  if (isSpecial(file)) return;
  const std::filesystem::path folder = file.has_parent_path() ? file.parent_path() : ".";
  if (::access(folder.c_str(), W_OK) != 0)
    throw FileError(file, std::string("cannot be written (") + strerror(errno) + ")");
}

void writeFileAtomically(const std::filesystem::path& file, std::string_view text) {
  const std::span<const std::byte> part = std::as_bytes(std::span(text));
  writeFileAtomically(file, std::span(&part, 1));
}

}  // namespace mb
