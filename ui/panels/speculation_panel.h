// Draft versus verify: figures of the run, and every round as a column of bytes.
#pragma once

#include <QWidget>

#include "ui/model/document.h"
#include "ui/model/linked_position.h"
#include "ui/panels/acceptance_chart.h"
#include "ui/panels/panel.h"
#include "ui/theme/theme.h"
#include "ui/widgets/figure.h"

class QLabel;
class QPushButton;

namespace mb::ui {

/// One column a round, one cell a byte from the bottom: accepted, then the correction or the bonus,
/// then what was never tested. The newest round is at the right; the wheel scrolls back.
class RoundStrip : public QWidget {
  Q_OBJECT

 public:
  RoundStrip(Document& document, LinkedPosition& linked, const Theme& theme, QWidget* parent);

  /// Round drawn under a point, or null.
  const RoundRecord* roundAt(QPointF position) const;
  QSize sizeHint() const override { return {360, 130}; }
  QSize minimumSizeHint() const override { return {120, 60}; }

 protected:
  void paintEvent(QPaintEvent* event) override;
  void mouseMoveEvent(QMouseEvent* event) override;
  void mousePressEvent(QMouseEvent* event) override;
  void wheelEvent(QWheelEvent* event) override;
  void leaveEvent(QEvent* event) override;

 private:
  struct Cell {
    QColor color;
    std::ptrdiff_t byte;  ///< offset in the text, or -1 when it never got there
  };
  std::vector<Cell> cellsOf(const RoundRecord& round) const;
  std::size_t columns() const;
  std::size_t firstShown() const;
  double cellHeight() const;
  QString describe(const RoundRecord& round) const;

  Document& m_document;
  LinkedPosition& m_linked;
  const Theme& m_theme;
  /// m_back, but never past the oldest round.
  std::size_t back() const;

  std::size_t m_back = 0;  ///< rounds scrolled back from the newest
};

/// What plain decoding of the same bytes took.
struct PlainComparison {
  double plainSeconds = 0;
  double speculativeSeconds = 0;
  std::size_t bytes = 0;
  double ratio() const { return speculativeSeconds > 0 ? plainSeconds / speculativeSeconds : 0; }
};

class SpeculationPanel : public Panel {
  Q_OBJECT

 public:
  SpeculationPanel(Document& document, LinkedPosition& linked, const Theme& theme, QWidget* parent);

  /// Rounds before this index are of earlier runs and not counted.
  void setRunStart(std::int32_t firstRound);
  std::int32_t runStart() const { return m_firstRound; }
  void setComparison(const std::optional<PlainComparison>& comparison);
  void setComparing(bool comparing);
  SpeculationTotals totals() const;

 signals:
  /// Time plain decoding of this run's bytes.
  void comparisonWanted();

 protected:
  void refresh() override;
  void resizeEvent(QResizeEvent* event) override;

 private:
  QWidget* makeFigures();
  void showTotals(const SpeculationTotals& totals);
  void showComparison(const SpeculationTotals& totals);

  Document& m_document;
  AcceptanceChart* m_chart;  ///< where there is room
  RoundStrip* m_strip;
  Figure m_accepted;
  Figure m_length;
  Figure m_perRound;
  Figure m_split;
  QLabel* m_tokens;
  QLabel* m_speedUp;
  QPushButton* m_compare;
  std::int32_t m_firstRound = 0;
  std::optional<PlainComparison> m_comparison;
};

}  // namespace mb::ui
