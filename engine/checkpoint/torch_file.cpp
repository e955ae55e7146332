#include "engine/checkpoint/torch_file.h"

#include <cstring>
#include <memory>
#include <vector>
#include <zip.h>

#include "engine/checkpoint/json_reader.h"
#include "engine/checkpoint/pickle.h"
#include "engine/error.h"

namespace mb {

namespace {

using EntryBytes = std::vector<std::byte>;

struct DiscardArchive {
  void operator()(zip_t* archive) const { zip_discard(archive); }
};
struct CloseEntry {
  void operator()(zip_file_t* entry) const { zip_fclose(entry); }
};

/// The zip of a torch checkpoint. Entries are stored, so none can be larger than the file.
class Archive {
 public:
  explicit Archive(const std::filesystem::path& path) : m_path(path), m_unread(sizeOfFile(path)) {
    int code = 0;
    m_archive.reset(zip_open(path.c_str(), ZIP_RDONLY, &code));
    if (!m_archive) {
      zip_error_t error;
      zip_error_init_with_code(&error, code);
      const std::string problem = zip_error_strerror(&error);
      zip_error_fini(&error);
      throw FormatError(path, "file", "a torch zip archive", problem);
    }
    m_prefix = findPrefix();
  }

  /// Reads "<prefix>/<name>" whole.
  EntryBytes read(const std::string& name) {
    const std::string full = m_prefix + name;
    zip_stat_t info;
    if (zip_stat(m_archive.get(), full.c_str(), 0, &info) != 0)
      throw FormatError(m_path, "archive", "an entry " + inQuotes(full), "none");
    constexpr zip_uint64_t kNeeded = ZIP_STAT_SIZE | ZIP_STAT_COMP_METHOD;
    if ((info.valid & kNeeded) != kNeeded || info.comp_method != ZIP_CM_STORE ||
        info.size > m_unread) {
      throw FormatError(
          m_path, "entry " + inQuotes(full),
          "stored data within the " + std::to_string(m_unread) + " bytes not read yet",
          std::to_string(info.size) + " bytes, method " + std::to_string(info.comp_method));
    }
    m_unread -= info.size;
    EntryBytes bytes(info.size);
    const std::unique_ptr<zip_file_t, CloseEntry> entry(
        zip_fopen_index(m_archive.get(), info.index, 0));
    if (!entry || !readAll(entry.get(), bytes)) {
      throw FormatError(m_path, "entry " + inQuotes(full), "readable data",
                        entry ? "a damaged entry" : zip_strerror(m_archive.get()));
    }
    return bytes;
  }

 private:
  static std::size_t sizeOfFile(const std::filesystem::path& path) {
    std::error_code error;
    const auto size = std::filesystem::file_size(path, error);
    if (error) throw FileError(path, "cannot be opened (" + error.message() + ")");
    return size;
  }

  static bool readAll(zip_file_t* entry, EntryBytes& bytes) {
    std::size_t done = 0;
    while (done < bytes.size()) {
      const zip_int64_t count = zip_fread(entry, bytes.data() + done, bytes.size() - done);
      if (count <= 0) return false;
      done += static_cast<std::size_t>(count);
    }
    std::byte more;
    return zip_fread(entry, &more, 1) == 0;  // also lets libzip compare the checksum
  }

  /// torch.save names a folder after the archive: "archive/data.pkl", "archive/data/0", …
  std::string findPrefix() const {
    static constexpr std::string_view kPickle = "data.pkl";
    const zip_int64_t entries = zip_get_num_entries(m_archive.get(), 0);
    for (zip_int64_t i = 0; i < entries; ++i) {
      const char* name =
          zip_get_name(m_archive.get(), static_cast<zip_uint64_t>(i), ZIP_FL_ENC_RAW);
      const std::string_view text = name ? name : "";
      if (text == kPickle || text.ends_with("/data.pkl"))
        return std::string(text.substr(0, text.size() - kPickle.size()));
    }
    throw FormatError(m_path, "archive", "an entry \"data.pkl\"",
                      "none among " + std::to_string(entries));
  }

  std::filesystem::path m_path;
  std::size_t m_unread;  ///< entries do not overlap: together they fit in the file
  std::unique_ptr<zip_t, DiscardArchive> m_archive;
  std::string m_prefix;
};

bool isContiguous(const PickledTensor& tensor) {
  std::size_t stride = 1;
  for (std::size_t i = tensor.shape.size(); i-- > 0;) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != stride) return false;
    stride *= tensor.shape[i];
  }
  return true;
}

/// Checks that the tensor lies within its storage of `available` bytes.
void check(const PickledTensor& tensor, const std::string& name, std::size_t available,
           const std::filesystem::path& file) {
  const std::string subject = "tensor " + inQuotes(name);
  const std::string described = toString(tensor.shape) + " of " + nameOf(tensor.type);
  std::size_t end = 0;
  try {
    end = elementCount(tensor.shape);
  } catch (const std::overflow_error&) {
    throw FormatError(file, subject, "a shape that fits in memory", toString(tensor.shape));
  }
  if (__builtin_add_overflow(end, tensor.offset, &end) ||
      __builtin_mul_overflow(end, sizeOf(tensor.type), &end) || end > available) {
    throw FormatError(file, subject, described + " at element " + std::to_string(tensor.offset),
                      "a storage of " + std::to_string(available) + " bytes");
  }
  if (tensor.strides.size() != tensor.shape.size() || !isContiguous(tensor))
    throw FormatError(file, subject, "a contiguous tensor", "strides " + toString(tensor.strides));
}

}  // namespace

std::map<std::string, Tensor> readTorchFile(const std::filesystem::path& file) {
  Archive archive(file);
  const EntryBytes program = archive.read("data.pkl");
  std::map<std::string, std::shared_ptr<const EntryBytes>> storages;
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, pickled] : readPickledTensors(program, file)) {
    auto& storage = storages[pickled.storage];
    if (!storage)
      storage = std::make_shared<const EntryBytes>(archive.read("data/" + pickled.storage));
    check(pickled, name, storage->size(), file);
    Tensor tensor{file, name, pickled.type, pickled.shape, {}, storage};
    tensor.data = std::span(*storage).subspan(pickled.offset * sizeOf(pickled.type),
                                              elementCount(pickled.shape) * sizeOf(pickled.type));
    tensors.emplace(name, std::move(tensor));
  }
  return tensors;
}

}  // namespace mb
