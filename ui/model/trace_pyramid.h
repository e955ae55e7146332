// Values along the text at several resolutions, so that drawing costs pixels, not bytes.
#pragma once

#include <QFloat16>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace mb::ui {

/// Rows of half-precision values, one a byte, and means over 8, 64, 512 and 4096 bytes made from
/// them. The means are kept for the whole text, the rows themselves only where somebody wrote or
/// looked lately: memory stays bounded but for an eighth of a row a byte. Rows that were dropped
/// can be set again; until then the means stand in for them.
class TracePyramid {
 public:
  /// Bytes whose rows are kept at most; more than a plot reads one by one at once.
  static constexpr std::size_t kMostRows = 32 * 1024;

  /// Forgets everything; rows have `width` values from now on.
  void reset(std::size_t width);
  std::size_t width() const { return m_width; }
  /// Bytes covered, known or not.
  std::size_t size() const { return m_size; }

  void setRow(std::size_t index, const float* values);
  /// Whether the row of that byte is kept.
  bool hasRow(std::size_t index) const;
  /// Needs hasRow(index).
  float value(std::size_t index, std::size_t column) const;
  /// The value of a byte, or the mean over the eight around it when its row was dropped.
  std::optional<float> nearest(std::size_t index, std::size_t column) const;
  /// Cuts off everything from `size` on.
  void truncate(std::size_t size);

  /// Mean over the known bytes of [first, last) into out [width]; false when there are none. Reads
  /// rows of the coarsest level of which the range holds at least four.
  bool mean(std::size_t first, std::size_t last, std::vector<float>& out) const;
  /// Whether mean() over a range of `span` bytes has what it wants at that byte.
  bool isKnown(std::size_t index, std::size_t span) const;

  std::size_t bytesUsed() const;

 private:
  static constexpr std::size_t kFactor = 8;
  static constexpr std::size_t kLevels = 4;
  static constexpr std::size_t kPageRows = 1024;
  static constexpr std::size_t kMostPages = kMostRows / kPageRows;

  struct Page {
    std::vector<qfloat16> rows;
    std::bitset<kPageRows> known;
    std::uint64_t lastUse = 0;
  };
  struct Level {
    std::vector<qfloat16> means;
    std::vector<std::uint16_t> counts;  ///< known bytes below each row
  };

  static std::size_t spanOf(std::size_t level);
  static std::size_t levelFor(std::size_t span);
  Page& pageFor(std::size_t index);
  void dropOldestPage();
  void markStale(std::size_t first, std::size_t last);
  std::size_t countAt(std::size_t level, std::size_t row) const;
  const qfloat16* rowAt(std::size_t level, std::size_t row) const;
  bool sumRows(std::size_t level, std::size_t first, std::size_t last, std::vector<float>& sum,
               std::size_t& count) const;
  void refresh() const;

  std::size_t m_width = 0;
  std::size_t m_size = 0;
  std::vector<std::unique_ptr<Page>> m_pages;  ///< null where dropped
  std::size_t m_pagesKept = 0;
  mutable std::uint64_t m_clock = 0;
  // Means are brought up to date when somebody looks. Level k covers kFactor^(k + 1) bytes a row.
  mutable std::vector<Level> m_levels{kLevels};
  mutable std::size_t m_staleFirst = 0;
  mutable std::size_t m_staleLast = 0;
};

}  // namespace mb::ui
