#include "engine/model/state.h"

#include <cstddef>
#include <cstring>
#include <xxhash.h>

#include "engine/checkpoint/mapped_file.h"
#include "engine/checkpoint/tensor.h"
#include "engine/error.h"
#include "engine/file_io.h"

namespace mb {

namespace {

/// Start of a state file, little endian; the values follow.
struct Header {
  char magic[8] = {'M', 'B', 'S', 'T', 'A', 'T', 'E', '1'};
  std::uint64_t layers = 0;
  std::uint64_t channels = 0;
  std::uint64_t states = 0;
  std::uint64_t convInputs = 0;
  std::uint64_t position = 0;
  std::uint64_t checksum = 0;  ///< XXH3-64 of the values, seeded with that of the fields above
};

std::uint64_t checksumOf(const Header& header, const void* values, std::size_t bytes) {
  return XXH3_64bits_withSeed(values, bytes, XXH3_64bits(&header, offsetof(Header, checksum)));
}

std::string describe(std::uint64_t layers, std::uint64_t channels, std::uint64_t states,
                     std::uint64_t convInputs) {
  return std::to_string(layers) + " layers × " + std::to_string(channels) + " channels × (" +
         std::to_string(states) + " states + " + std::to_string(convInputs) + " inputs)";
}

std::string describe(const StateShape& shape) {
  return describe(shape.layers, shape.channels, shape.states, shape.convInputs);
}

}  // namespace

StateShape::StateShape(const ModelConfig& config)
    : layers(config.layers),
      channels(config.dInner),
      states(config.dState),
      convInputs(config.dConv - 1) {}

State::State(const State& other)
    : m_shape(other.m_shape),
      m_position(other.m_position),
      m_untouched(other.m_untouched),
      m_values(other.m_device ? AlignedArray<float>() : other.m_values),
      m_device(other.m_device ? other.m_device->clone() : nullptr) {}

State& State::operator=(const State& other) {
  if (this == &other) return *this;
  if (other.m_device) return *this = State(other);
  m_shape = other.m_shape;
  m_position = other.m_position;
  m_untouched = other.m_untouched;
  m_values = other.m_values;
  m_device.reset();
  return *this;
}

std::span<const float> State::values() const {
  if (m_values.empty() && m_device) {
    m_values = AlignedArray<float>(m_shape.size());
    m_device->download(m_values.span());
  }
  return std::as_const(m_values).span();
}

std::span<float> State::values() {
  std::as_const(*this).values();
  // Once a thread has asked, others may share the values: nothing is written any more.
  if (m_untouched) m_untouched = false;
  if (m_device) m_device.reset();
  return m_values.span();
}

void State::moveToDevice(std::unique_ptr<DeviceValues> values) {
  m_device = std::move(values);
  m_untouched = false;
  m_values = {};
}

bool State::operator==(const State& other) const {
  const auto mine = values();
  const auto theirs = other.values();
  return m_shape == other.m_shape && m_position == other.m_position &&
         (mine.empty() || std::memcmp(mine.data(), theirs.data(), mine.size_bytes()) == 0);
}

void State::save(const std::filesystem::path& file) const {
  const auto all = values();
  Header header;
  header.layers = m_shape.layers;
  header.channels = m_shape.channels;
  header.states = m_shape.states;
  header.convInputs = m_shape.convInputs;
  header.position = m_position;
  header.checksum = checksumOf(header, all.data(), bytes());
  const std::span<const std::byte> parts[] = {std::as_bytes(std::span(&header, 1)),
                                              std::as_bytes(all)};
  writeFileAtomically(file, parts);
}

State State::load(const std::filesystem::path& file, const StateShape& shape) {
  const MappedFile mapped(file);
  const auto content = mapped.bytes();
  Header header;
  if (content.size() < sizeof(Header) ||
      std::memcmp(content.data(), header.magic, sizeof header.magic) != 0)
    throw FormatError(file, "header", "a saved state", "another file");
  std::memcpy(&header, content.data(), sizeof(Header));
  if (header.layers != shape.layers || header.channels != shape.channels ||
      header.states != shape.states || header.convInputs != shape.convInputs) {
    throw FormatError(file, "state", describe(shape),
                      describe(header.layers, header.channels, header.states, header.convInputs));
  }
  State state(shape);
  const auto values = content.subspan(sizeof(Header));
  if (values.size() != state.bytes()) {
    throw FormatError(file, "state", std::to_string(state.bytes()) + " bytes",
                      std::to_string(values.size()));
  }
  if (checksumOf(header, values.data(), values.size()) != header.checksum)
    throw FormatError(file, "state", "values that match their checksum", "damaged values");
  std::memcpy(state.values().data(), values.data(), values.size());
  state.m_position = header.position;
  return state;
}

}  // namespace mb
