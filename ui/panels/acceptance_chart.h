// How far drafts hold: acceptance by place in the draft.
#pragma once

#include <QWidget>
#include <cstdint>
#include <optional>
#include <vector>

#include "ui/theme/theme.h"

namespace mb::ui {

/// A bar for each place in a draft: of the bytes that were tested there, how many were accepted.
/// Places where few were are pale.
class AcceptanceChart : public QWidget {
  Q_OBJECT

 public:
  AcceptanceChart(const Theme& theme, QWidget* parent);

  /// Bytes tested and accepted at each place, as SpeculationTotals has them.
  void setCounts(std::vector<std::uint64_t> tested, std::vector<std::uint64_t> accepted);

  /// The bar of a place, counted from 0; it has no height where nothing was accepted.
  QRectF barOf(std::size_t place) const;
  /// The place whose column a point is in.
  std::optional<std::size_t> placeAt(QPointF position) const;

  QSize sizeHint() const override { return {360, 160}; }
  QSize minimumSizeHint() const override { return {120, 90}; }

 protected:
  void paintEvent(QPaintEvent* event) override;
  void mouseMoveEvent(QMouseEvent* event) override;

 private:
  QRectF plot() const;
  double columnWidth() const;
  QRectF columnOf(std::size_t place) const;
  double shareAt(std::size_t place) const;
  void paintAxes(QPainter& painter) const;

  const Theme& m_theme;
  std::vector<std::uint64_t> m_tested;
  std::vector<std::uint64_t> m_accepted;
};

}  // namespace mb::ui
