#include "engine/checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/checkpoint/json_reader.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/error.h"

namespace mb {

namespace {

constexpr std::size_t kLengthBytes = 8;
constexpr std::size_t kHeaderLimit = 100'000'000;  // the format's own limit

using Json = nlohmann::json;

DataType dataTypeOf(const std::filesystem::path& file, const std::string& name,
                    const std::string& text) {
  for (const DataType type : {DataType::Float32, DataType::Float16, DataType::BFloat16})
    if (text == nameOf(type)) return type;
  throw FormatError(file, "tensor " + inQuotes(name), "type F32, F16 or BF16", inQuotes(text));
}

std::string_view headerOf(const std::filesystem::path& file, std::span<const std::byte> bytes) {
  if (bytes.size() < kLengthBytes) {
    throw FormatError(file, "header", "at least 8 bytes", std::to_string(bytes.size()) + " bytes");
  }
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > bytes.size() - kLengthBytes || length > kHeaderLimit) {
    throw FormatError(file, "header length",
                      "at most " + std::to_string(bytes.size() - kLengthBytes),
                      std::to_string(length));
  }
  return {reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length};
}

Tensor tensorFrom(const std::filesystem::path& file, const std::string& name, const Json& entry,
                  std::span<const std::byte> data) {
  const std::string subject = "tensor " + inQuotes(name);
  const JsonReader reader(entry, file, subject);
  Tensor tensor;
  tensor.file = file;
  tensor.name = name;
  tensor.type = dataTypeOf(file, name, reader.text("dtype"));
  tensor.shape = reader.sizes("shape");
  const std::vector<std::size_t> offsets = reader.sizes("data_offsets");
  if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data.size()) {
    throw FormatError(file, subject,
                      "data offsets within the " + std::to_string(data.size()) + " data bytes",
                      toString(offsets));
  }
  std::size_t size = 0;
  if (__builtin_mul_overflow(reader.product(tensor.shape), sizeOf(tensor.type), &size) ||
      size != offsets[1] - offsets[0]) {
    throw FormatError(file, subject,
                      "data for shape " + toString(tensor.shape) + " of " + nameOf(tensor.type),
                      std::to_string(offsets[1] - offsets[0]) + " bytes");
  }
  tensor.data = data.subspan(offsets[0], size);
  return tensor;
}

void expectNoOverlap(const std::filesystem::path& file,
                     const std::map<std::string, Tensor>& tensors) {
  std::vector<const Tensor*> byPlace;
  for (const auto& [name, tensor] : tensors)
    if (!tensor.data.empty()) byPlace.push_back(&tensor);
  std::ranges::sort(byPlace, {}, [](const Tensor* t) { return t->data.data(); });
  for (std::size_t i = 1; i < byPlace.size(); ++i)
    if (byPlace[i]->data.data() < byPlace[i - 1]->data.data() + byPlace[i - 1]->data.size())
      throw FormatError(file, "tensor " + byPlace[i]->name, "data of its own",
                        "bytes shared with tensor " + byPlace[i - 1]->name);
}

}  // namespace

std::map<std::string, Tensor> readSafetensors(const std::filesystem::path& file) {
  const auto mapped = std::make_shared<const MappedFile>(file);
  const std::string_view header = headerOf(file, mapped->bytes());
  const auto data = mapped->bytes().subspan(kLengthBytes + header.size());
  const Json json = parseJson(header, file, "header");
  if (!json.is_object()) throw FormatError(file, "header", "a JSON object", json.type_name());
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;
    Tensor tensor = tensorFrom(file, name, entry, data);
    tensor.owner = mapped;
    tensors.emplace(name, std::move(tensor));
  }
  expectNoOverlap(file, tensors);
  return tensors;
}

}  // namespace mb
