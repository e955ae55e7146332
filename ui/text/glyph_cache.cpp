#include "ui/text/glyph_cache.h"

#include <cmath>

namespace mb::ui {

namespace {

/// Enough for any mix of scripts on one screen; a cache that grows past it starts over.
constexpr int kMostPixmaps = 4096;

}  // namespace

void GlyphCache::setFont(const QFont& font, QSizeF cell, qreal pixelRatio) {
  if (font == m_font && cell == m_cell && pixelRatio == m_pixelRatio) return;
  m_font = font;
  m_cell = cell;
  m_pixelRatio = pixelRatio;
  m_pixmaps.clear();
}

void GlyphCache::draw(QPainter& painter, QPointF place, char32_t codePoint, const QColor& color,
                      int cells) {
  const quint64 key = static_cast<quint64>(codePoint) << 32 | color.rgba();
  auto entry = m_pixmaps.constFind(key);
  if (entry == m_pixmaps.constEnd()) {
    if (m_pixmaps.size() >= kMostPixmaps) m_pixmaps.clear();
    entry = m_pixmaps.insert(key, render(codePoint, color, cells));
  }
  painter.drawPixmap(place, *entry);
}

QPixmap GlyphCache::render(char32_t codePoint, const QColor& color, int cells) const {
  const QSizeF size(m_cell.width() * cells, m_cell.height());
  QPixmap pixmap(static_cast<int>(std::ceil(size.width() * m_pixelRatio)),
                 static_cast<int>(std::ceil(size.height() * m_pixelRatio)));
  pixmap.setDevicePixelRatio(m_pixelRatio);
  pixmap.fill(Qt::transparent);
  QPainter painter(&pixmap);
  painter.setFont(m_font);
  painter.setPen(color);
  painter.drawText(QRectF(QPointF(0, 0), size), Qt::AlignCenter | Qt::TextDontClip,
                   QString::fromUcs4(&codePoint, 1));
  return pixmap;
}

}  // namespace mb::ui
