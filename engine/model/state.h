// Everything one sequence remembers: of constant size, whatever the length of the text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

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

/// A value: copy it, compare it, save it, load it. Values are float32:
///   per layer: hidden state s in blocks of 16 channels [channels / 16][n][16] (see blockOffset),
///   then the last k-1 inputs of the convolution, oldest first [k-1][channels].
/// Not synchronised; use one State from one thread at a time.
class State {
 public:
  State() = default;
  /// The zero state before the first token.
  explicit State(const StateShape& shape) : m_shape(shape), m_values(shape.size()) {}

  const StateShape& shape() const { return m_shape; }
  /// Tokens consumed.
  std::uint64_t position() const { return m_position; }
  void setPosition(std::uint64_t position) { m_position = position; }
  std::size_t bytes() const { return m_values.size() * sizeof(float); }

  float* hidden(std::size_t layer) { return m_values.data() + layer * m_shape.layerSize(); }
  const float* hidden(std::size_t layer) const {
    return m_values.data() + layer * m_shape.layerSize();
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

  /// Bitwise.
  bool operator==(const State&) const = default;

  /// Writes the file atomically. Throws FileError.
  void save(const std::filesystem::path& file) const;
  /// Throws FileError, or FormatError when the file is damaged or of another shape than `shape`.
  static State load(const std::filesystem::path& file, const StateShape& shape);

 private:
  StateShape m_shape;
  std::uint64_t m_position = 0;
  AlignedArray<float> m_values;
};

}  // namespace mb
