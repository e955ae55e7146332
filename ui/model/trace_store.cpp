#include "ui/model/trace_store.h"

#include <algorithm>

namespace mb::ui {

void TracePyramid::reset(std::size_t width) {
  m_width = width;
  m_rows.clear();
  m_valid.clear();
  m_levels.assign(kLevels, {});
  m_stale.assign(kLevels, 0);
}

void TracePyramid::setRow(std::size_t index, const float* values) {
  if (index >= m_valid.size()) {
    m_valid.resize(index + 1, 0);
    m_rows.resize((index + 1) * m_width);
  }
  for (std::size_t i = 0; i < m_width; ++i) m_rows[index * m_width + i] = qfloat16(values[i]);
  m_valid[index] = 1;
  for (std::size_t& stale : m_stale) stale = std::min(stale, index);
}

void TracePyramid::truncate(std::size_t size) {
  if (size >= m_valid.size()) return;
  m_valid.resize(size);
  m_rows.resize(size * m_width);
  for (std::size_t& stale : m_stale) stale = std::min(stale, size);
}

void TracePyramid::invalidate() {
  std::ranges::fill(m_valid, std::uint8_t{0});
  m_stale.assign(kLevels, 0);
}

/// Level 0 here means the bytes themselves, level k + 1 is m_levels[k].
std::size_t TracePyramid::countAt(std::size_t level, std::size_t row) const {
  if (level == 0) return row < m_valid.size() ? m_valid[row] : 0;
  const auto& counts = m_levels[level - 1].counts;
  return row < counts.size() ? counts[row] : 0;
}

void TracePyramid::addRow(std::size_t level, std::size_t row, std::size_t weight,
                          std::vector<float>& sum) const {
  const float scale = static_cast<float>(weight);
  for (std::size_t i = 0; i < m_width; ++i) {
    const float value = level == 0 ? static_cast<float>(m_rows[row * m_width + i])
                                   : m_levels[level - 1].means[row * m_width + i];
    sum[i] += scale * value;
  }
}

/// Brings levels 1 … `level` up to date from their first stale byte on.
void TracePyramid::refresh(std::size_t level) const {
  std::vector<float> sum(m_width);
  std::size_t span = 1;
  for (std::size_t k = 1; k <= level; ++k) {
    span *= kFactor;
    Level& made = m_levels[k - 1];
    const std::size_t rows = (m_valid.size() + span - 1) / span;
    made.means.resize(rows * m_width);
    made.counts.resize(rows);
    for (std::size_t row = m_stale[k - 1] / span; row < rows; ++row) {
      std::ranges::fill(sum, 0.0f);
      std::size_t count = 0;
      for (std::size_t child = row * kFactor; child < (row + 1) * kFactor; ++child) {
        const std::size_t weight = countAt(k - 1, child);
        if (weight) addRow(k - 1, child, weight, sum);
        count += weight;
      }
      made.counts[row] = static_cast<std::uint32_t>(count);
      for (std::size_t i = 0; i < m_width; ++i)
        made.means[row * m_width + i] = count ? sum[i] / static_cast<float>(count) : 0;
    }
    m_stale[k - 1] = m_valid.size();
  }
}

bool TracePyramid::mean(std::size_t first, std::size_t last, std::vector<float>& out) const {
  out.assign(m_width, 0);
  last = std::min(last, m_valid.size());
  if (first >= last) return false;
  std::size_t level = 0;
  std::size_t span = 1;
  while (level < kLevels && span * kFactor * 10 <= last - first) {
    span *= kFactor;
    ++level;
  }
  if (level > 0) refresh(level);
  std::size_t count = 0;
  for (std::size_t row = first / span; row * span < last; ++row) {
    const std::size_t weight = countAt(level, row);
    if (weight) addRow(level, row, weight, out);
    count += weight;
  }
  for (float& value : out) value = count ? value / static_cast<float>(count) : 0;
  return count > 0;
}

std::size_t TracePyramid::bytesUsed() const {
  std::size_t bytes = m_rows.capacity() * sizeof(qfloat16) + m_valid.capacity();
  for (const Level& level : m_levels)
    bytes +=
        level.means.capacity() * sizeof(float) + level.counts.capacity() * sizeof(std::uint32_t);
  return bytes;
}

TraceStore::TraceStore(QObject* parent) : QObject(parent) {}

void TraceStore::reset(std::size_t layers, std::size_t bins) {
  m_layers = layers;
  m_bins = bins;
  m_layer = std::min(m_layer, layers ? layers - 1 : 0);
  for (TracePyramid& pyramid : m_byLayer) pyramid.reset(layers);
  for (TracePyramid& pyramid : m_byChannel) pyramid.reset(bins);
  emit changed();
}

void TraceStore::setLayer(std::size_t layer) {
  if (layer == m_layer || layer >= m_layers) return;
  m_layer = layer;
  for (TracePyramid& pyramid : m_byChannel) pyramid.invalidate();
  emit changed();
}

void TraceStore::add(const ReadTaps& taps) {
  const TapBlock& block = taps.block;
  if (block.layers != m_layers || block.bins != m_bins) return;  // of another model
  for (std::size_t i = 0; i < taps.count; ++i) {
    for (std::size_t kind = 0; kind < kTapKinds; ++kind) {
      const std::size_t row = i * kTapKinds + kind;
      m_byLayer[kind].setRow(taps.first + i, &block.byLayer[row * m_layers]);
      if (block.layer == m_layer)
        m_byChannel[kind].setRow(taps.first + i, &block.byChannel[row * m_bins]);
    }
  }
  emit changed();
}

void TraceStore::truncate(std::size_t size) {
  for (TracePyramid& pyramid : m_byLayer) pyramid.truncate(size);
  for (TracePyramid& pyramid : m_byChannel) pyramid.truncate(size);
  emit changed();
}

std::size_t TraceStore::bytesUsed() const {
  std::size_t bytes = 0;
  for (const TracePyramid& pyramid : m_byLayer) bytes += pyramid.bytesUsed();
  for (const TracePyramid& pyramid : m_byChannel) bytes += pyramid.bytesUsed();
  return bytes;
}

}  // namespace mb::ui
