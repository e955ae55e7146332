// A tensor as it lies in a checkpoint file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace mb {

enum class DataType : std::uint8_t { Float32, Float16, BFloat16 };

std::size_t sizeOf(DataType type);
/// "F32", "F16" or "BF16".
std::string nameOf(DataType type);

using Shape = std::vector<std::size_t>;

/// "[1024, 1, 4]"
std::string toString(const Shape& shape);
/// Product of the extents; throws std::overflow_error when it does not fit.
std::size_t elementCount(const Shape& shape);

/// Row-major values, little endian, not necessarily aligned. Keeps its memory alive.
struct Tensor {
  std::filesystem::path file;
  std::string name;
  DataType type = DataType::Float32;
  Shape shape;
  std::span<const std::byte> data;
  std::shared_ptr<const void> owner;

  /// Widens `out.size()` values from element `first` on.
  void read(std::size_t first, std::span<float> out) const;
};

/// Throws FormatError naming file, tensor and element when one of the tensor's values, which were
/// read from element `first` on, is not finite.
void expectFinite(const Tensor& tensor, std::size_t first, std::span<const float> values);

}  // namespace mb
