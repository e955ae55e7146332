// Weight matrices in the layout the CPU matrix product reads.
//
// Rows are taken in blocks of 16, one row a SIMD lane, so that a dot product never has to be summed
// across lanes and the order of its additions does not depend on the width of the vectors:
//   float32   [block][column][16 rows]
//   bfloat16  [block][column pair][16 rows][2 columns], the even column in the low half of 32 bits
#pragma once

#include <cstdint>
#include <span>

#include "kernels/memory.h"

namespace mb::cpu {

enum class WeightType : std::uint8_t { Float32, BFloat16 };

/// rows × columns weights; rows padded to 16 and columns to 2 with zeros.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  PackedMatrix(std::size_t rows, std::size_t columns, WeightType type);

  std::size_t rows() const { return m_rows; }
  std::size_t columns() const { return m_columns; }
  std::size_t paddedColumns() const { return roundUp(m_columns, 2); }
  std::size_t blocks() const { return roundUp(m_rows, kBlockRows) / kBlockRows; }
  WeightType type() const { return m_type; }
  std::size_t bytes() const { return m_words.size() * sizeof(std::uint32_t); }

  /// Stores one row of columns() values, rounding to the weight type.
  void setRow(std::size_t row, std::span<const float> values);
  /// The value as stored, widened to float.
  float at(std::size_t row, std::size_t column) const;

  /// First 32-bit word of a block of 16 rows.
  const std::uint32_t* block(std::size_t index) const {
    return m_words.data() + index * m_blockWords;
  }

 private:
  AlignedArray<std::uint32_t> m_words;
  std::size_t m_rows = 0;
  std::size_t m_columns = 0;
  std::size_t m_blockWords = 0;
  WeightType m_type = WeightType::Float32;
};

}  // namespace mb::cpu
