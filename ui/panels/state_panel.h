// Inside the model: Δ, hidden-state norm and decay over the text, for channels of a layer or for
// all layers.
#pragma once

#include <QElapsedTimer>

#include "ui/bridge/messages.h"
#include "ui/model/byte_axis.h"
#include "ui/model/document.h"
#include "ui/model/linked_position.h"
#include "ui/model/trace_store.h"
#include "ui/panels/panel.h"
#include "ui/theme/theme.h"

class QCPColorMap;
class QCPColorScale;
class QVariantAnimation;

namespace mb::ui {

class Choice;

class BytePlot;

enum class StateView { ChannelsByBytes, LayersByBytes };

class StatePanel : public Panel {
  Q_OBJECT

 public:
  StatePanel(Document& document, TraceStore& traces, ByteAxis& axis, LinkedPosition& linked,
             const Theme& theme, QWidget* parent);

  /// For a new model: its layers, and channels a layer has.
  void setModel(std::size_t layers, std::size_t channels);
  void setKind(TapKind kind);
  TapKind kind() const;
  void setView(StateView view);
  StateView view() const;
  void setLayer(std::size_t layer);
  void setViridis(bool viridis);

  /// Value at a byte and row, or the mean of the bytes around it where that is all that is kept;
  /// NaN where nothing is known.
  double valueAt(std::size_t byte, std::size_t row) const;
  std::size_t rows() const;

 signals:
  void layerChanged(std::size_t layer);
  /// Bytes in view whose taps are missing.
  void tapsWanted(std::size_t first, std::size_t last);

 protected:
  void refresh() override;

 private:
  void buildControls();
  void buildPlot();
  const TracePyramid& pyramid() const;
  double bytesInView() const;
  double bytesPerColumn() const;
  void fillMap();
  void easeRange(double low, double high);
  void askForMissing();
  QString readout(double byte, double row) const;

  /// The range last asked for, so that it is not asked for with every frame.
  struct Asked {
    Revision revision = 0;
    std::size_t layer = 0;
    std::size_t first = 0;
    std::size_t last = 0;
    QElapsedTimer since;
    bool contains(Revision r, std::size_t l, std::size_t from, std::size_t to) const {
      return since.isValid() && revision == r && layer == l && from >= first && to <= last;
    }
  };

  Document& m_document;
  TraceStore& m_traces;
  ByteAxis& m_axis;
  const Theme& m_theme;
  BytePlot* m_plot;
  QCPColorMap* m_map = nullptr;
  QCPColorScale* m_scale = nullptr;
  Choice* m_kind;
  Choice* m_layer;
  Choice* m_view;
  QVariantAnimation* m_easing;
  std::size_t m_channels = 0;
  bool m_viridis = false;
  double m_low = 0;
  double m_high = 1;
  double m_targetLow = 0;
  double m_targetHigh = 1;
  Asked m_asked;
};

}  // namespace mb::ui
