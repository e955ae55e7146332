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

}  // namespace

void writeFileAtomically(const std::filesystem::path& file,
                         std::span<const std::span<const std::byte>> parts) {
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

void writeFileAtomically(const std::filesystem::path& file, std::string_view text) {
  const std::span<const std::byte> part = std::as_bytes(std::span(text));
  writeFileAtomically(file, std::span(&part, 1));
}

}  // namespace mb
