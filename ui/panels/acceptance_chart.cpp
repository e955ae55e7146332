#include "ui/panels/acceptance_chart.h"

#include <QMouseEvent>
#include <QPainter>
#include <QToolTip>
#include <algorithm>
#include <cmath>
#include <utility>

namespace mb::ui {

namespace {

constexpr double kMostColumn = 30;
constexpr double kGap = 3;
constexpr double kLabelGap = 6;
constexpr std::uint64_t kFew = 10;  ///< tested bytes that say little
constexpr int kPercents[] = {0, 50, 100};

QString percent(int value) {
  return QStringLiteral("%1 %").arg(value);
}

}  // namespace

AcceptanceChart::AcceptanceChart(const Theme& theme, QWidget* parent)
    : QWidget(parent), m_theme(theme) {
  setMouseTracking(true);
  setAccessibleName(tr("Acceptance by place in the draft"));
}

void AcceptanceChart::setCounts(std::vector<std::uint64_t> tested,
                                std::vector<std::uint64_t> accepted) {
  if (tested == m_tested && accepted == m_accepted) return;
  m_tested = std::move(tested);
  m_accepted = std::move(accepted);
  update();
}

/// Below the title and above the numbers of the places.
QRectF AcceptanceChart::plot() const {
  const QFontMetricsF metrics(font());
  const double left = metrics.horizontalAdvance(percent(100)) + kLabelGap;
  const double top = 1.9 * metrics.height();
  return {left, top, std::max(0.0, width() - left),
          std::max(0.0, height() - top - metrics.height() - kLabelGap)};
}

double AcceptanceChart::columnWidth() const {
  return std::min(kMostColumn,
                  plot().width() / static_cast<double>(std::max<std::size_t>(1, m_tested.size())));
}

QRectF AcceptanceChart::columnOf(std::size_t place) const {
  const QRectF all = plot();
  const double gap = std::min(kGap, columnWidth() / 3);
  return {all.left() + static_cast<double>(place) * columnWidth(), all.top(), columnWidth() - gap,
          all.height()};
}

double AcceptanceChart::shareAt(std::size_t place) const {
  return m_tested[place] > 0
             ? static_cast<double>(m_accepted[place]) / static_cast<double>(m_tested[place])
             : 0;
}

QRectF AcceptanceChart::barOf(std::size_t place) const {
  QRectF bar = columnOf(place);
  bar.setTop(bar.bottom() - shareAt(place) * bar.height());
  return bar;
}

std::optional<std::size_t> AcceptanceChart::placeAt(QPointF position) const {
  for (std::size_t place = 0; place < m_tested.size(); ++place)
    if (columnOf(place).contains(position)) return place;
  return std::nullopt;
}

void AcceptanceChart::paintEvent(QPaintEvent*) {
  QPainter painter(this);
  paintAxes(painter);
  const Colors& colors = m_theme.colors();
  QColor pale = colors.accepted.ink;
  pale.setAlphaF(0.4F);
  for (std::size_t place = 0; place < m_tested.size(); ++place) {
    painter.fillRect(columnOf(place), colors.field);
    painter.fillRect(barOf(place), m_tested[place] < kFew ? pale : colors.accepted.ink);
  }
}

void AcceptanceChart::paintAxes(QPainter& painter) const {
  const QFontMetricsF metrics(font());
  const QRectF all = plot();
  painter.setFont(font());
  painter.setPen(m_theme.colors().dim);
  painter.drawText(
      QRectF(0, 0, width(), metrics.height()), Qt::AlignLeft | Qt::AlignTop,
      metrics.elidedText(tr("accepted of tested, by byte of the draft"), Qt::ElideRight, width()));
  for (const int value : kPercents) {
    const double y = all.bottom() - value / 100.0 * all.height();
    painter.drawText(QRectF(0, y - metrics.height() / 2, all.left() - kLabelGap, metrics.height()),
                     Qt::AlignRight | Qt::AlignVCenter, percent(value));
    painter.fillRect(QRectF(all.left(), y, all.width(), 1), m_theme.colors().line);
  }
  const double label = metrics.horizontalAdvance(QString::number(m_tested.size())) + kLabelGap;
  const auto step = static_cast<std::size_t>(std::max(1.0, std::ceil(label / columnWidth())));
  for (std::size_t place = 0; place < m_tested.size(); place += step) {
    const QRectF column = columnOf(place);
    painter.drawText(
        QRectF(column.center().x() - label, all.bottom() + kLabelGap, 2 * label, metrics.height()),
        Qt::AlignHCenter | Qt::AlignTop, QString::number(place + 1));
  }
}

void AcceptanceChart::mouseMoveEvent(QMouseEvent* event) {
  const auto place = placeAt(event->position());
  if (!place) return QToolTip::hideText();
  QToolTip::showText(event->globalPosition().toPoint(),
                     tr("Byte %1 of the draft: %2 tested, %3 accepted (%4 %)")
                         .arg(*place + 1)
                         .arg(m_tested[*place])
                         .arg(m_accepted[*place])
                         .arg(shareAt(*place) * 100, 0, 'f', 0),
                     this);
}

}  // namespace mb::ui
