#include "ui/widgets/byte_plot.h"

#include <QToolTip>

#include "ui/widgets/plot_style.h"

namespace mb::ui {

namespace {

constexpr double kDragThreshold = 3;  ///< pixels before a press becomes a drag

}  // namespace

BytePlot::BytePlot(ByteAxis& axis, LinkedPosition& linked, const Theme& theme, QWidget* parent)
    : QCustomPlot(parent),
      m_axis(axis),
      m_linked(linked),
      m_theme(theme),
      m_mark(new QCPItemStraightLine(this)),
      m_changeMark(new QCPItemStraightLine(this)) {
  setMouseTracking(true);
  setFocusPolicy(Qt::StrongFocus);
  setNotAntialiasedElements(QCP::aeAll);
  setAntialiasedElements(QCP::aeAxes);
  for (QCPItemStraightLine* line : {m_mark, m_changeMark}) {
    line->setVisible(false);
    line->setSelectable(false);
  }
  xAxis->grid()->setVisible(false);
  xAxis->ticker()->setTickCount(6);
  xAxis->setNumberFormat(QStringLiteral("f"));
  xAxis->setNumberPrecision(0);
  xAxis->setLabel(tr("byte"));
  applyTheme();
  syncAxis();
}

void BytePlot::setReadout(std::function<QString(double, double)> readout) {
  m_readout = std::move(readout);
}

void BytePlot::setChangeMark(std::optional<std::size_t> byte) {
  m_changed = byte;
}

void BytePlot::applyTheme() {
  const Colors& colors = m_theme.colors();
  applyColors(*this, colors);
  m_mark->setPen(QPen(colors.accent));
  m_changeMark->setPen(QPen(colors.chosen.ink, 1, Qt::DashLine));
}

void BytePlot::syncAxis() {
  xAxis->setRange(m_axis.lower(), m_axis.upper());
  const auto place = [](QCPItemStraightLine* line, std::optional<std::size_t> byte) {
    line->setVisible(byte.has_value());
    if (!byte) return;
    line->point1->setCoords(static_cast<double>(*byte) + 0.5, 0);
    line->point2->setCoords(static_cast<double>(*byte) + 0.5, 1);
  };
  place(m_mark, m_linked.current());
  place(m_changeMark, m_changed);
}

std::optional<std::size_t> BytePlot::byteAt(const QPointF& position) const {
  if (!axisRect()->rect().contains(position.toPoint())) return std::nullopt;
  const double byte = std::floor(xAxis->pixelToCoord(position.x()));
  if (byte < 0 || byte >= static_cast<double>(m_count)) return std::nullopt;
  return static_cast<std::size_t>(byte);
}

void BytePlot::mousePressEvent(QMouseEvent* event) {
  m_dragging = event->button() == Qt::LeftButton;
  m_moved = false;
  m_dragStart = event->position().x();
  m_dragLower = m_axis.lower();
}

void BytePlot::mouseMoveEvent(QMouseEvent* event) {
  const double distance = event->position().x() - m_dragStart;
  if (m_dragging && (m_moved || std::abs(distance) > kDragThreshold)) {
    m_moved = true;
    const double span = m_axis.upper() - m_axis.lower();
    const double lower = m_dragLower - distance * span / std::max(1, axisRect()->width());
    return m_axis.show(lower, lower + span);
  }
  const std::optional<std::size_t> byte = byteAt(event->position());
  m_linked.hover(byte);
  const QString text = byte && m_readout ? m_readout(static_cast<double>(*byte),
                                                     yAxis->pixelToCoord(event->position().y()))
                                         : QString();
  if (text.isEmpty())
    QToolTip::hideText();
  else
    QToolTip::showText(event->globalPosition().toPoint(), text, this);
}

void BytePlot::mouseReleaseEvent(QMouseEvent* event) {
  if (m_dragging && !m_moved) m_linked.select(byteAt(event->position()));
  m_dragging = false;
}

void BytePlot::mouseDoubleClickEvent(QMouseEvent*) {
  m_axis.fit();
}

void BytePlot::wheelEvent(QWheelEvent* event) {
  const double steps = event->angleDelta().y() / 120.0;
  if (event->modifiers() & Qt::ShiftModifier || event->angleDelta().y() == 0) {
    const double sideways = event->angleDelta().x() != 0 ? event->angleDelta().x() / 120.0 : steps;
    const double shift = -sideways * (m_axis.upper() - m_axis.lower()) / 8;
    m_axis.show(m_axis.lower() + shift, m_axis.upper() + shift);
  } else {
    m_axis.zoom(std::pow(0.8, steps), xAxis->pixelToCoord(event->position().x()));
  }
  event->accept();
}

void BytePlot::leaveEvent(QEvent* event) {
  m_linked.hover(std::nullopt);
  QCustomPlot::leaveEvent(event);
}

}  // namespace mb::ui
