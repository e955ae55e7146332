#include "kernels/cpu/packed_matrix.h"

#include <bit>
#include <cassert>

#include "kernels/bfloat16.h"

namespace mb::cpu {

namespace {

/// Blocks of a power of two bytes would put the rows of a tile on the same cache sets.
constexpr std::size_t kCacheLineWords = 16;

}  // namespace

PackedMatrix::PackedMatrix(std::size_t rows, std::size_t columns, WeightType type)
    : m_rows(rows), m_columns(columns), m_type(type) {
  const std::size_t wordsPerColumnPair = type == WeightType::BFloat16 ? 1 : 2;
  m_blockWords = paddedColumns() / 2 * wordsPerColumnPair * kBlockRows + kCacheLineWords;
  m_words = AlignedArray<std::uint32_t>(blocks() * m_blockWords);
}

void PackedMatrix::setRow(std::size_t row, std::span<const float> values) {
  assert(row < m_rows && values.size() == m_columns);
  std::uint32_t* words = m_words.data() + row / kBlockRows * m_blockWords + row % kBlockRows;
  if (m_type == WeightType::Float32) {
    for (std::size_t c = 0; c < m_columns; ++c)
      words[c * kBlockRows] = std::bit_cast<std::uint32_t>(values[c]);
    return;
  }
  for (std::size_t c = 0; c < m_columns; c += 2) {
    const std::uint32_t low = floatToBfloat16(values[c]);
    const std::uint32_t high = c + 1 < m_columns ? floatToBfloat16(values[c + 1]) : 0;
    words[c / 2 * kBlockRows] = low | high << 16;
  }
}

float PackedMatrix::at(std::size_t row, std::size_t column) const {
  const std::uint32_t* words = block(row / kBlockRows) + row % kBlockRows;
  if (m_type == WeightType::Float32) return std::bit_cast<float>(words[column * kBlockRows]);
  const std::uint32_t pair = words[column / 2 * kBlockRows];
  return bfloat16ToFloat(static_cast<std::uint16_t>(column % 2 ? pair >> 16 : pair));
}

}  // namespace mb::cpu
