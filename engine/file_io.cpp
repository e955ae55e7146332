#include "engine/file_io.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <unistd.h>
#include <utility>

#include "engine/error.h"

namespace mb {

namespace {

[[noreturn]] void fail(const std::filesystem::path& file) {
  throw FileError(file, std::string("cannot be written (") + strerror(errno) + ")");
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

/// Beside `path`, told apart by the process.
std::filesystem::path temporaryFor(const std::filesystem::path& path) {
  return path.string() + ".part" + std::to_string(static_cast<long>(::getpid()));
}

/// A file open for writing. Errors name the file that is wanted, wherever the bytes go for now.
class OutputFile {
 public:
  OutputFile(std::filesystem::path wanted, const std::filesystem::path& opened, int flags)
      : m_wanted(std::move(wanted)),
        m_descriptor(::open(opened.c_str(), O_WRONLY | O_CLOEXEC | flags, 0666)) {
    if (m_descriptor < 0) fail(m_wanted);
  }
  ~OutputFile() {
    if (m_descriptor >= 0) ::close(m_descriptor);
  }
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  ByteSink sink() const {
    return [this](std::span<const std::byte> bytes) {
      if (!writeAll(m_descriptor, bytes)) fail(m_wanted);
    };
  }
  void flush() const {
    if (::fsync(m_descriptor) != 0) fail(m_wanted);
  }
  void close() {
    if (::close(std::exchange(m_descriptor, -1)) != 0) fail(m_wanted);
  }

 private:
  std::filesystem::path m_wanted;
  int m_descriptor;
};

/// Removes what has a temporary name, unless it has been renamed by then.
struct Leftover {
  explicit Leftover(std::filesystem::path name) : path(std::move(name)) {}
  ~Leftover() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  Leftover(const Leftover&) = delete;
  Leftover& operator=(const Leftover&) = delete;
  const std::filesystem::path path;
};

/// Without links and a slash at the end, so that there is a name to put something beside.
std::filesystem::path resolved(const std::filesystem::path& folder) {
  std::error_code error;
  const auto path = std::filesystem::weakly_canonical(folder, error);
  if (error) throw FileError(folder, "cannot be made: " + error.message());
  return path.has_filename() ? path : path.parent_path();
}

}  // namespace

void writeFileAtomically(const std::filesystem::path& wanted,
                         const std::function<void(const ByteSink&)>& produce) {
  if (isSpecial(wanted)) return produce(OutputFile(wanted, wanted, 0).sink());
  std::error_code error;
  const auto resolved = std::filesystem::canonical(wanted, error);
  const std::filesystem::path& file = error ? wanted : resolved;  // a link stays a link
  const Leftover temporary(temporaryFor(file));
  OutputFile output(file, temporary.path, O_CREAT | O_TRUNC);
  produce(output.sink());
  output.flush();
  output.close();
  if (::rename(temporary.path.c_str(), file.c_str()) != 0) fail(file);
}

void writeFileAtomically(const std::filesystem::path& file,
                         std::span<const std::span<const std::byte>> parts) {
  writeFileAtomically(file, [parts](const ByteSink& write) {
    for (const auto part : parts) write(part);
  });
}

void expectWritable(const std::filesystem::path& file) {
  std::error_code error;
  if (std::filesystem::is_directory(file, error))
    throw FileError(file, "cannot be written (it is a folder)");
  if (isSpecial(file)) return;
  const std::filesystem::path folder = file.has_parent_path() ? file.parent_path() : ".";
  if (::access(folder.c_str(), W_OK) != 0) fail(file);
}

void writeFileAtomically(const std::filesystem::path& file, std::string_view text) {
  const std::span<const std::byte> part = std::as_bytes(std::span(text));
  writeFileAtomically(file, std::span(&part, 1));
}

void makeFolder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw FileError(folder, "cannot be made: " + error.message());
}

void expectNewOrEmptyFolder(const std::filesystem::path& folder) {
  std::error_code error;
  const auto status = std::filesystem::status(folder, error);
  if (!std::filesystem::exists(status)) return;
  const auto refuse = [&](const std::string& found) {
    throw RequestError(folder.string() + ": expected a new or empty folder, found " + found);
  };
  if (!std::filesystem::is_directory(status)) refuse("a file");
  const std::filesystem::directory_iterator entries(folder, error);
  if (error) throw FileError(folder, "cannot be read: " + error.message());
  if (entries != std::filesystem::directory_iterator())
    refuse(entries->path().filename().string() + " in it");
}

void writeFolderAtomically(const std::filesystem::path& wanted,
                           const std::function<void(const std::filesystem::path&)>& fill) {
  expectNewOrEmptyFolder(wanted);
  const std::filesystem::path folder = resolved(wanted);
  const Leftover fresh(temporaryFor(folder));
  std::error_code error;
  std::filesystem::remove_all(fresh.path, error);  // of a process that was killed
  makeFolder(fresh.path);
  fill(fresh.path);
  std::filesystem::rename(fresh.path, folder, error);
  if (error) throw FileError(folder, "cannot be put in place: " + error.message());
}

}  // namespace mb
