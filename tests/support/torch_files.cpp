#include "tests/support/torch_files.h"

#include <stdexcept>
#include <zip.h>

namespace mb::test {

namespace {

void addEntry(zip_t* archive, const std::string& name, const std::string& content,
              bool compressed) {
  zip_source_t* source = zip_source_buffer(archive, content.data(), content.size(), 0);
  const zip_int64_t index = zip_file_add(archive, name.c_str(), source, ZIP_FL_ENC_UTF_8);
  if (index < 0) throw std::runtime_error("zip entry");
  zip_set_file_compression(archive, static_cast<zip_uint64_t>(index),
                           compressed ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0);
}

}  // namespace

std::vector<std::int32_t> stridesOf(const std::vector<std::int32_t>& shape) {
  std::vector<std::int32_t> strides(shape.size(), 1);
  for (std::size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  return strides;
}

void writeTorchFile(const std::filesystem::path& file, const std::string& program,
                    const std::map<std::string, std::string>& storages, bool compressed) {
  int error = 0;
  zip_t* archive = zip_open(file.c_str(), ZIP_CREATE | ZIP_TRUNCATE, &error);
  if (!archive) throw std::runtime_error("zip archive");
  addEntry(archive, "archive/data.pkl", program, compressed);
  for (const auto& [key, content] : storages)
    addEntry(archive, "archive/data/" + key, content, compressed);
  const std::string version = "3\n";  // read when the archive is closed
  addEntry(archive, "archive/version", version, compressed);
  if (zip_close(archive) != 0) throw std::runtime_error("zip archive");
}

}  // namespace mb::test
