// What the taps said along the text.
#pragma once

#include <QObject>
#include <cstddef>

#include "engine/model/taps.h"
#include "ui/bridge/messages.h"
#include "ui/model/trace_pyramid.h"

namespace mb::ui {

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
