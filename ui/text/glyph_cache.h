// Rendered characters, so that a repaint copies pixels instead of shaping text.
#pragma once

#include <QColor>
#include <QFont>
#include <QHash>
#include <QPainter>
#include <QPixmap>

namespace mb::ui {

class GlyphCache {
 public:
  /// Forgets everything rendered with another font or at another pixel ratio.
  void setFont(const QFont& font, QSizeF cell, qreal pixelRatio);

  /// Draws a character with the top left corner of its cells at `place`.
  void draw(QPainter& painter, QPointF place, char32_t codePoint, const QColor& color, int cells);

 private:
  QPixmap render(char32_t codePoint, const QColor& color, int cells) const;

  QFont m_font;
  QSizeF m_cell;
  qreal m_pixelRatio = 1;
  QHash<quint64, QPixmap> m_pixmaps;
};

}  // namespace mb::ui
