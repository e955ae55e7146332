// A plot with the text's bytes on its x axis, linked with the other panels.
#pragma once

#include <functional>
#include <qcustomplot.h>

#include "ui/model/byte_axis.h"
#include "ui/model/linked_position.h"
#include "ui/theme/theme.h"

namespace mb::ui {

/// Wheel zooms and drag pans the shared byte axis, double click fits; moving the pointer hovers the
/// byte under it in every panel, a click selects it. Include only from .cpp files: QCustomPlot's
/// header is slow to compile.
class BytePlot : public QCustomPlot {
  Q_OBJECT

 public:
  BytePlot(ByteAxis& axis, LinkedPosition& linked, const Theme& theme, QWidget* parent);

  /// Text shown near the pointer for a position in plot coordinates; empty for none.
  void setReadout(std::function<QString(double byte, double value)> readout);
  /// Marks a byte on the axis, or nothing.
  void setChangeMark(std::optional<std::size_t> byte);
  void setByteCount(std::size_t count) { m_count = count; }

  /// Axis range, marks and colours as they are now; the caller replots.
  void syncAxis();
  void applyTheme();

  QSize sizeHint() const override { return {420, 190}; }
  QSize minimumSizeHint() const override { return {160, 110}; }

 protected:
  void mousePressEvent(QMouseEvent* event) override;
  void mouseMoveEvent(QMouseEvent* event) override;
  void mouseReleaseEvent(QMouseEvent* event) override;
  void mouseDoubleClickEvent(QMouseEvent* event) override;
  void wheelEvent(QWheelEvent* event) override;
  void leaveEvent(QEvent* event) override;

 private:
  std::optional<std::size_t> byteAt(const QPointF& position) const;

  ByteAxis& m_axis;
  LinkedPosition& m_linked;
  const Theme& m_theme;
  std::function<QString(double, double)> m_readout;
  QCPItemStraightLine* m_mark;
  QCPItemStraightLine* m_changeMark;
  std::optional<std::size_t> m_changed;
  std::size_t m_count = 0;
  bool m_dragging = false;
  bool m_moved = false;
  double m_dragStart = 0;
  double m_dragLower = 0;
};

}  // namespace mb::ui
