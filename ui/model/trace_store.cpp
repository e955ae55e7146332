#include "ui/model/trace_store.h"

#include <algorithm>

namespace mb::ui {

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
  for (TracePyramid& pyramid : m_byChannel) pyramid.reset(m_bins);
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
