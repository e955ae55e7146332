#include "engine/checkpoint/tensor.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "engine/error.h"
#include "kernels/bfloat16.h"

namespace mb {

namespace {

float halfToFloat(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fu;
  const std::uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  const float subnormal = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}

template <class Stored, class Widen>
void widenAll(const std::byte* source, std::span<float> out, Widen widen) {
  for (float& value : out) {
    Stored stored;
    std::memcpy(&stored, source, sizeof(Stored));
    value = widen(stored);
    source += sizeof(Stored);
  }
}

}  // namespace

std::size_t sizeOf(DataType type) {
  return type == DataType::Float32 ? 4 : 2;
}

std::string nameOf(DataType type) {
  switch (type) {
    case DataType::Float32: return "F32";
    case DataType::Float16: return "F16";
    case DataType::BFloat16: return "BF16";
  }
  return "?";
}

std::string toString(const Shape& shape) {
  constexpr std::size_t kShownExtents = 8;
  std::string text = "[";
  for (std::size_t i = 0; i < std::min(shape.size(), kShownExtents); ++i)
    text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() > kShownExtents ? ", …]" : "]");
}

std::size_t elementCount(const Shape& shape) {
  std::size_t count = 1;
  for (const std::size_t extent : shape)
    if (__builtin_mul_overflow(count, extent, &count)) throw std::overflow_error("shape");
  return count;
}

void Tensor::read(std::size_t first, std::span<float> out) const {
  assert((first + out.size()) * sizeOf(type) <= data.size());
  if (out.empty()) return;  // whose address may be null
  const std::byte* source = data.data() + first * sizeOf(type);
  switch (type) {
    case DataType::Float32: return std::memcpy(out.data(), source, out.size_bytes()), void();
    case DataType::Float16: return widenAll<std::uint16_t>(source, out, halfToFloat);
    case DataType::BFloat16: return widenAll<std::uint16_t>(source, out, bfloat16ToFloat);
  }
}

void expectFinite(const Tensor& tensor, std::size_t first, std::span<const float> values) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      throw FormatError(tensor.file, "tensor " + tensor.name, "finite values",
                        std::to_string(values[i]) + " at element " + std::to_string(first + i));
    }
  }
}

}  // namespace mb
