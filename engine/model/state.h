// Everything one sequence remembers: of constant size, whatever the length of the text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <utility>

#include "engine/checkpoint/model_config.h"
#include "kernels/memory.h"

namespace mb {

/// Extents of a state. Channels are padded to 16 with zeros.
struct StateShape {
  std::uint64_t layers = 0;
  std::uint64_t channels = 0;    ///< e, as the model has it
  std::uint64_t states = 0;      ///< n
  std::uint64_t convInputs = 0;  ///< k - 1

  StateShape() = default;
  explicit StateShape(const ModelConfig& config);

  std::size_t stride() const { return roundUp(channels, kBlockRows); }
  std::size_t layerSize() const { return (states + convInputs) * stride(); }
  std::size_t size() const { return layers * layerSize(); }
  std::size_t bytes() const { return size() * sizeof(float); }
  bool operator==(const StateShape&) const = default;
};

/// A state's values in the memory of a device, where its runners left them.
class DeviceValues {
 public:
  virtual ~DeviceValues() = default;
  virtual std::unique_ptr<DeviceValues> clone() const = 0;
  virtual void download(std::span<float> values) const = 0;
};

/// A value: copy it, compare it, save it, load it. Values are float32:
///   per layer: hidden state s in blocks of 16 channels [channels / 16][n][16] (see blockOffset),
///   then the last k-1 inputs of the convolution, oldest first [k-1][channels].
/// Not synchronised; use one State from one thread at a time.
class State {
 public:
  State() = default;
  /// The zero state before the first token.
  explicit State(const StateShape& shape)
      : m_shape(shape), m_untouched(true), m_values(shape.size()) {}
  State(const State& other);
  State& operator=(const State& other);
  State(State&&) noexcept = default;
  State& operator=(State&&) noexcept = default;

  const StateShape& shape() const { return m_shape; }
  /// Tokens consumed.
  std::uint64_t position() const { return m_position; }
  void setPosition(std::uint64_t position) { m_position = position; }

  std::size_t bytes() const { return m_shape.bytes(); }

  float* hidden(std::size_t layer) { return values().data() + layer * m_shape.layerSize(); }
  const float* hidden(std::size_t layer) const {
    return values().data() + layer * m_shape.layerSize();
  }
  /// s of one channel and state index.
  float hiddenValue(std::size_t layer, std::size_t channel, std::size_t n) const {
    return hidden(layer)[blockOffset(channel, m_shape.states) + n * kBlockRows];
  }
  float* convolution(std::size_t layer) {
    return hidden(layer) + m_shape.states * m_shape.stride();
  }
  const float* convolution(std::size_t layer) const {
    return hidden(layer) + m_shape.states * m_shape.stride();
  }

  /// All values on the host, which they are brought to first if need be.
  std::span<const float> values() const;
  /// Likewise, to be changed: what a device holds no longer counts.
  std::span<float> values();

  /// Nobody could change it yet: all values are zero.
  bool isUntouched() const { return m_untouched; }

  /// The values on a device, or null.
  DeviceValues* onDevice() const { return m_device.get(); }
  /// Adds the same values on a device.
  void keepOnDevice(std::unique_ptr<DeviceValues> values) const { m_device = std::move(values); }
  /// From now on the values are those on the device; what the host holds is dropped.
  void moveToDevice(std::unique_ptr<DeviceValues> values);

  /// Bitwise.
  bool operator==(const State& other) const;

  /// Writes the file atomically. Throws FileError.
  void save(const std::filesystem::path& file) const;
  /// Throws FileError, or FormatError when the file is damaged or of another shape than `shape`.
  static State load(const std::filesystem::path& file, const StateShape& shape);

 private:
  StateShape m_shape;
  std::uint64_t m_position = 0;
  bool m_untouched = false;
  mutable AlignedArray<float> m_values;  ///< empty while the values are on a device only
  mutable std::unique_ptr<DeviceValues> m_device;
};

}  // namespace mb
