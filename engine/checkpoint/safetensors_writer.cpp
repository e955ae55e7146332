#include "engine/checkpoint/safetensors_writer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/error.h"
#include "engine/file_io.h"
#include "kernels/bfloat16.h"

namespace mb {

namespace {

constexpr std::size_t kHeaderMultiple = 8;      // bytes, so that the first tensor is aligned
constexpr std::size_t kBufferValues = 1 << 16;  // on their way from the source to the file

/// A tensor of the file to be written.
struct Entry {
  std::string name;
  Shape shape;
  DataType type;

  std::uint64_t bytes() const { return elementCount(shape) * sizeOf(type); }
};

/// Wider types come first, so that each tensor is aligned to its own.
std::vector<Entry> entriesOf(const ModelConfig& config, const TypeOfTensor& typeOf) {
  std::vector<Entry> entries;
  for (auto& [name, shape] : expectedTensors(config))
    entries.push_back({name, shape, typeOf(name)});
  std::ranges::stable_sort(entries, std::ranges::greater(),
                           [](const Entry& entry) { return sizeOf(entry.type); });
  return entries;
}

/// Offsets count from the end of the header, where the first tensor begins.
std::string headerOf(const std::vector<Entry>& entries) {
  nlohmann::ordered_json header = {{"__metadata__", {{"format", "pt"}}}};
  std::uint64_t begin = 0;
  for (const Entry& entry : entries) {
    const std::uint64_t end = begin + entry.bytes();
    header[entry.name] = {
        {"dtype", nameOf(entry.type)}, {"shape", entry.shape}, {"data_offsets", {begin, end}}};
    begin = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + kHeaderMultiple - 1) / kHeaderMultiple * kHeaderMultiple, ' ');
  return text;
}

/// Passes tensors on to a file, counting their bytes.
class TensorWriter {
 public:
  TensorWriter(const ByteSink& write, std::uint64_t total, const TensorProgress& progress,
               std::stop_token stop)
      : m_write(write), m_total(total), m_progress(progress), m_stop(std::move(stop)) {}

  void write(const Tensor& tensor, DataType type) {
    const std::size_t count = elementCount(tensor.shape);
    for (std::size_t first = 0; first < count; first += kBufferValues) {
      if (m_stop.stop_requested()) throw Stopped();
      const auto values = std::span(m_values).first(std::min(kBufferValues, count - first));
      tensor.read(first, values);
      const std::span<const std::byte> bytes = encoded(values, type);
      expectFinite(tensor, first, values);
      m_write(bytes);
      m_done += bytes.size();
      if (m_progress) m_progress(m_done, m_total);
    }
  }

 private:
  /// The values as they are stored; they themselves become what will be read again.
  std::span<const std::byte> encoded(std::span<float> values, DataType type) {
    if (type == DataType::Float32) return std::as_bytes(values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      m_rounded[i] = floatToBfloat16(values[i]);
      values[i] = bfloat16ToFloat(m_rounded[i]);
    }
    return std::as_bytes(std::span(m_rounded).first(values.size()));
  }

  const ByteSink& m_write;
  std::uint64_t m_total;
  const TensorProgress& m_progress;
  std::stop_token m_stop;
  std::uint64_t m_done = 0;
  std::vector<float> m_values = std::vector<float>(kBufferValues);
  std::vector<std::uint16_t> m_rounded = std::vector<std::uint16_t>(kBufferValues);
};

}  // namespace

void writeSafetensors(const std::filesystem::path& file, const WeightSource& source,
                      const TypeOfTensor& typeOf, const TensorProgress& progress,
                      std::stop_token stop) {
  const std::vector<Entry> entries = entriesOf(source.config(), typeOf);
  const std::string header = headerOf(entries);
  const std::uint64_t length = header.size();
  std::uint64_t total = 0;
  for (const Entry& entry : entries) total += entry.bytes();
  writeFileAtomically(file, [&](const ByteSink& write) {
    write(std::as_bytes(std::span(&length, 1)));
    write(std::as_bytes(std::span(header)));
    TensorWriter tensors(write, total, progress, stop);
    for (const Entry& entry : entries)
      tensors.write(source.tensor(entry.name, entry.shape), entry.type);
  });
}

}  // namespace mb
