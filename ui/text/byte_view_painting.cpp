// Painting of the byte view.
#include <QPaintEvent>
#include <QPainter>
#include <QScrollBar>
#include <algorithm>
#include <cmath>

#include "ui/text/byte_view.h"
#include "ui/text/rejected_drafts.h"

namespace mb::ui {

QColor ByteView::ground(std::size_t byte) const {
  const ByteRecord& record = m_document.record(byte);
  const Colors& colors = m_theme.colors();
  if (m_coloring == TextColoring::Origin) return colors.fill(record.origin);
  if (!m_document.isScored(byte)) return {};
  constexpr float kFullBits = 8;  // as surprising as a byte drawn from all 256
  QColor tint = colors.surprise;
  tint.setAlphaF(std::min(record.surprisal / kFullBits, 1.0f));
  return tint;
}

bool ByteView::isMatched(std::size_t byte) const {
  const auto after = std::ranges::upper_bound(m_matches, byte, {}, &ByteRange::begin);
  return after != m_matches.begin() && std::prev(after)->contains(byte);
}

void ByteView::paintEvent(QPaintEvent* event) {
  QPainter painter(viewport());
  painter.fillRect(event->rect(), m_theme.colors().panel);
  if (m_document.isEmpty()) paintHint(painter);
  const std::size_t first = static_cast<std::size_t>(verticalScrollBar()->value());
  for (std::size_t i = first; i < rowCount(); ++i) {
    const double top = kTextMargin / 2 + static_cast<double>(i - first) * m_rowHeight;
    if (top > event->rect().bottom() + 1) break;
    if (top + m_rowHeight < event->rect().top()) continue;
    paintRow(painter, {rowAt(i), top});
  }
  if (m_caretVisible && hasFocus()) painter.fillRect(caretRect(), m_theme.colors().accent);
}

void ByteView::paintHint(QPainter& painter) const {
  painter.setPen(m_theme.colors().dim);
  painter.setFont(Theme::interfaceFont());
  painter.drawText(viewport()->rect().adjusted(20, 14, -20, -14), Qt::AlignTop | Qt::AlignLeft,
                   tr("Type a prompt and press Ctrl+Enter"));
}

void ByteView::paintRow(QPainter& painter, const Row& row) {
  const std::vector<Glyph> glyphs = glyphsOf(row.line);
  for (const Glyph& glyph : glyphs) paintGround(painter, glyph, row.top);
  if (m_hex) paintHexCells(painter, row);
  for (const Glyph& glyph : glyphs) {
    paintGlyph(painter, glyph, row.top);
    if (m_annotations.contains(glyph.first)) paintRejected(painter, glyph, row.top);
  }
}

void ByteView::paintGround(QPainter& painter, const Glyph& glyph, double top) const {
  for (std::size_t k = 0; k < glyph.count; ++k)
    paintByteGround(painter, glyph.first + k, byteRect(glyph, glyph.first + k, top));
}

/// Tint, underline, match, selection and the linked mark of one byte. Rectangles are drawn on whole
/// pixels, so that tints join without seams.
void ByteView::paintByteGround(QPainter& painter, std::size_t byte, const QRectF& rect) const {
  const Colors& colors = m_theme.colors();
  const double left = std::round(rect.left());
  const QRectF whole(left, rect.top() + 2, std::round(rect.right()) - left, rect.height() - 4);
  const QColor tint = ground(byte);
  if (tint.isValid()) painter.fillRect(whole, tint);
  const Origin origin = m_document.record(byte).origin;
  const bool underlined =
      origin == Origin::Corrected || origin == Origin::Bonus || origin == Origin::Chosen;
  if (underlined && m_coloring == TextColoring::Origin)
    painter.fillRect(QRectF(whole.left(), whole.bottom() - 2, whole.width(), 2),
                     colors.mark(origin));
  if (isMatched(byte)) painter.fillRect(whole, colors.match);
  if (selection().contains(byte)) {
    QColor veil = colors.selection;
    veil.setAlpha(150);
    painter.fillRect(whole, veil);
  }
  if (m_linked.current() == byte) {
    painter.setPen(QPen(colors.accent, m_linked.hovered() ? 1 : 2));
    painter.drawRect(whole.adjusted(0.5, 0.5, -0.5, -0.5));
  }
}

void ByteView::paintGlyph(QPainter& painter, const Glyph& glyph, double top) {
  const QPointF place(columnX(glyph.column), top);
  const Colors& colors = m_theme.colors();
  switch (glyph.kind) {
    case GlyphKind::Character:
      return m_glyphs.draw(painter, place, glyph.codePoint, colors.ink, glyph.width);
    case GlyphKind::Tab: return m_glyphs.draw(painter, place, U'→', colors.dim, glyph.width);
    case GlyphKind::Control:
    case GlyphKind::Invalid: return paintBox(painter, glyph, top);
    case GlyphKind::Newline:
      if (m_linked.current() == glyph.first)
        m_glyphs.draw(painter, place, U'↵', colors.dim, glyph.width);
      return;
    case GlyphKind::Space: return;
  }
}

void ByteView::paintBox(QPainter& painter, const Glyph& glyph, double top) const {
  const Colors& colors = m_theme.colors();
  const QColor color = glyph.kind == GlyphKind::Invalid ? colors.rejected : colors.dim;
  const QRectF box(columnX(glyph.column) + 1.5, top + 3.5, glyph.width * m_cell.width() - 3,
                   m_rowHeight - 7);
  painter.setPen(color);
  painter.drawRoundedRect(box, 3, 3);
  painter.setFont(m_smallFont);
  painter.drawText(
      box, Qt::AlignCenter,
      QStringLiteral("%1").arg(m_document.byte(glyph.first), 2, 16, QLatin1Char('0')).toUpper());
}

/// What was drafted here and not taken: small, raised and struck through.
void ByteView::paintRejected(QPainter& painter, const Glyph& glyph, double top) {
  const RoundRecord* round = m_document.round(m_document.record(glyph.first).round);
  if (!round) return;
  const QColor color = m_theme.colors().rejected;
  const std::u32string text = rejectedText(*round);
  const double left = columnX(glyph.column) - m_annotations.at(glyph.first) * m_cell.width();
  QPointF place(left, top);
  for (const char32_t c : text) {
    m_smallGlyphs.draw(painter, place, c, color, 1);
    place.rx() += m_smallCell.width();
  }
  const double middle = std::round(top + m_smallCell.height() * 0.55);
  painter.fillRect(QRectF(left, middle, place.x() - left, 1), color);
}

void ByteView::paintHexCells(QPainter& painter, const Row& row) {
  const Colors& colors = m_theme.colors();
  const QString offset = QStringLiteral("%1").arg(row.line.begin, static_cast<int>(kOffsetDigits),
                                                  16, QLatin1Char('0'));
  QPointF place(kTextMargin, row.top);
  for (const QChar digit : offset) {
    m_glyphs.draw(painter, place, digit.unicode(), colors.dim, 1);
    place.rx() += m_cell.width();
  }
  for (std::size_t i = row.line.begin; i < row.line.end; ++i) {
    const double x = hexX(i - row.line.begin);
    paintByteGround(painter, i, QRectF(x, row.top, 2 * m_cell.width(), m_rowHeight));
    static constexpr char kDigits[] = "0123456789abcdef";
    const Byte byte = m_document.byte(i);
    m_glyphs.draw(painter, {x, row.top}, static_cast<char32_t>(kDigits[byte >> 4]), colors.ink, 1);
    m_glyphs.draw(painter, {x + m_cell.width(), row.top}, static_cast<char32_t>(kDigits[byte & 15]),
                  colors.ink, 1);
  }
}

}  // namespace mb::ui
