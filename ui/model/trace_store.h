// Taps along the text, kept at several resolutions so that drawing costs pixels, not bytes.
#pragma once

#include <QFloat16>
#include <QObject>
#include <cstddef>
#include <vector>

#include "engine/model/taps.h"
#include "ui/bridge/messages.h"

namespace mb::ui {

/// Rows of half-precision values, one a byte, and means over 4, 16, 64 … bytes made from them.
class TracePyramid {
 public:
  /// Forgets everything; rows have `width` values from now on.
  void reset(std::size_t width);
  std::size_t width() const { return m_width; }
  /// Bytes covered, valid or not.
  std::size_t size() const { return m_valid.size(); }

  void setRow(std::size_t index, const float* values);
  bool isValid(std::size_t index) const { return index < m_valid.size() && m_valid[index] != 0; }
  float value(std::size_t index, std::size_t column) const {
    return m_rows[index * m_width + column];
  }
  /// Cuts off everything from `size` on.
  void truncate(std::size_t size);
  /// Makes every row invalid.
  void invalidate();

  /// Mean over the valid bytes of [first, last) into out [width]; false when there are none. Reads
  /// rows of the coarsest level that a tenth of the range still resolves.
  bool mean(std::size_t first, std::size_t last, std::vector<float>& out) const;

  std::size_t bytesUsed() const;

 private:
  static constexpr std::size_t kFactor = 4;
  static constexpr std::size_t kLevels = 7;

  struct Level {
    std::vector<float> means;
    std::vector<std::uint32_t> counts;  ///< valid bytes below each row
  };
  std::size_t countAt(std::size_t level, std::size_t row) const;
  void addRow(std::size_t level, std::size_t row, std::size_t weight,
              std::vector<float>& sum) const;
  void refresh(std::size_t level) const;

  std::size_t m_width = 0;
  std::vector<qfloat16> m_rows;
  std::vector<std::uint8_t> m_valid;
  mutable std::vector<Level> m_levels{kLevels};  ///< [0] covers kFactor bytes a row
  mutable std::vector<std::size_t> m_stale{
      std::vector<std::size_t>(kLevels, 0)};  ///< first stale byte
};

/// Taps of the whole text: means of every layer, and channel bins of the layer chosen. Lives in the
/// GUI thread.
class TraceStore : public QObject {
  Q_OBJECT

 public:
  explicit TraceStore(QObject* parent = nullptr);

  /// For a new model.
  void reset(std::size_t layers, std::size_t bins);
  std::size_t layers() const { return m_layers; }
  std::size_t bins() const { return m_bins; }
  std::size_t layer() const { return m_layer; }
  /// Shows another layer by channel; its bins have to be observed again.
  void setLayer(std::size_t layer);

  void add(const ReadTaps& taps);
  /// The text changed from `size` on.
  void truncate(std::size_t size);

  const TracePyramid& byLayer(TapKind kind) const { return m_byLayer[index(kind)]; }
  const TracePyramid& byChannel(TapKind kind) const { return m_byChannel[index(kind)]; }

  std::size_t bytesUsed() const;

 signals:
  void changed();

 private:
  static std::size_t index(TapKind kind) { return static_cast<std::size_t>(kind); }

  std::size_t m_layers = 0;
  std::size_t m_bins = 0;
  std::size_t m_layer = 0;
  TracePyramid m_byLayer[kTapKinds];
  TracePyramid m_byChannel[kTapKinds];
};

}  // namespace mb::ui
