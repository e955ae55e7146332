#include "ui/text/byte_view.h"

#include <QApplication>
#include <QEvent>
#include <QScrollBar>
#include <QStyleHints>
#include <algorithm>
#include <cmath>

#include "ui/text/rejected_drafts.h"

namespace mb::ui {

namespace {

constexpr double kRowSpacing = 1.42;  ///< of the font's pixel size; leaves room for raised drafts
constexpr double kSmallFont = 0.75;
constexpr double kLeastZoom = 0.5;
constexpr double kMostZoom = 4;

}  // namespace

ByteView::ByteView(Document& document, LinkedPosition& linked, const Theme& theme, QWidget* parent)
    : QAbstractScrollArea(parent), m_document(document), m_linked(linked), m_theme(theme) {
  setFrameShape(QFrame::NoFrame);
  setFocusPolicy(Qt::StrongFocus);
  setAttribute(Qt::WA_InputMethodEnabled);
  setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
  viewport()->setMouseTracking(true);
  viewport()->setCursor(Qt::IBeamCursor);
  setAccessibleName(tr("Text"));
  setAccessibleDescription(tr("The prompt and what the model wrote. Type to edit."));
  m_blink.setInterval(QApplication::styleHints()->cursorFlashTime() / 2);
  connect(&m_blink, &QTimer::timeout, this, [this] {
    m_caretVisible = !m_caretVisible;
    viewport()->update(caretRect().toAlignedRect());
  });
  connect(&document, &Document::textChanged, this, [this](std::size_t first) {
    const bool wasAtEnd = isAtEnd();
    m_caret = std::min(m_caret, m_document.size());
    m_anchor = std::min(m_anchor, m_document.size());
    relayout(first);
    updateScrollBar(wasAtEnd);
  });
  connect(&document, &Document::scoresChanged, viewport(), qOverload<>(&QWidget::update));
  connect(&document, &Document::roundsChanged, this, &ByteView::updateAnnotations);
  connect(&linked, &LinkedPosition::changed, viewport(), qOverload<>(&QWidget::update));
  connect(&theme, &Theme::changed, viewport(), qOverload<>(&QWidget::update));
  measure();
}

// ---- what is shown

void ByteView::setColoring(TextColoring coloring) {
  if (coloring == m_coloring) return;
  m_coloring = coloring;
  viewport()->update();
  emit displayChanged();
}

void ByteView::setHex(bool hex) {
  if (hex == m_hex) return;
  const std::size_t top = rowAt(static_cast<std::size_t>(verticalScrollBar()->value())).begin;
  m_hex = hex;
  updateAnnotations();
  relayout(0);
  updateScrollBar(false);
  verticalScrollBar()->setValue(static_cast<int>(rowOf(top)));
  emit displayChanged();
}

void ByteView::setShowRejected(bool show) {
  if (show == m_showRejected) return;
  m_showRejected = show;
  updateAnnotations();
  emit displayChanged();
}

void ByteView::setZoom(double zoom) {
  zoom = std::clamp(zoom, kLeastZoom, kMostZoom);
  if (zoom == m_zoom) return;
  m_zoom = zoom;
  measure();
  emit zoomChanged();
}

void ByteView::setMatches(std::vector<ByteRange> matches, std::optional<std::size_t> current) {
  m_matches = std::move(matches);
  m_currentMatch = current;
  if (current) {
    select(m_matches[*current]);
    reveal(m_matches[*current].begin);
  }
  viewport()->update();
}

// ---- layout

void ByteView::measure() {
  m_font = Theme::monoFont(m_zoom);
  m_smallFont = m_font;
  m_smallFont.setPixelSize(
      std::max(5, static_cast<int>(std::lround(m_font.pixelSize() * kSmallFont))));
  const QFontMetricsF metrics(m_font);
  m_rowHeight = std::ceil(m_font.pixelSize() * kRowSpacing);
  m_cell = QSizeF(metrics.horizontalAdvance(u'0'), m_rowHeight);
  m_smallCell = QSizeF(QFontMetricsF(m_smallFont).horizontalAdvance(u'0'),
                       std::ceil(m_smallFont.pixelSize() * 1.15));
  const qreal ratio = devicePixelRatioF();
  m_glyphs.setFont(m_font, m_cell, ratio);
  m_smallGlyphs.setFont(m_smallFont, m_smallCell, ratio);
  const double room = viewport()->width() - 2 * kTextMargin;
  m_layout.setColumns(std::max(8, static_cast<int>(room / m_cell.width())));
  m_hexRow = 16;
  while (m_hexRow > 4 &&
         hexX(m_hexRow) + static_cast<double>(m_hexRow) * m_cell.width() > room + kTextMargin)
    m_hexRow /= 2;
  updateAnnotations();
  const bool wasAtEnd = isAtEnd();
  relayout(0);
  updateScrollBar(wasAtEnd);
}

/// Cells to leave for the rejected drafts, at their small size.
void ByteView::updateAnnotations() {
  Annotations annotations;
  if (m_showRejected && !m_hex) {
    for (const RoundRecord& round : m_document.rounds()) {
      if (round.rejected == 0) continue;
      const double width = static_cast<double>(rejectedText(round).size()) * m_smallCell.width();
      annotations[round.position + round.accepted] =
          static_cast<int>(std::ceil(width / m_cell.width()));
    }
  }
  std::size_t from = m_document.size();
  const auto differ = std::ranges::mismatch(m_annotations, annotations);
  if (differ.in1 != m_annotations.end()) from = std::min(from, differ.in1->first);
  if (differ.in2 != annotations.end()) from = std::min(from, differ.in2->first);
  const bool wasAtEnd = isAtEnd();
  m_annotations = std::move(annotations);
  relayout(m_layout.lines().empty() ? 0 : from);
  updateScrollBar(wasAtEnd);
}

void ByteView::relayout(std::size_t from) {
  if (!m_hex) m_layout.update(m_document.records(), m_annotations, from);
  viewport()->update();
}

std::size_t ByteView::rowCount() const {
  return m_hex ? m_document.size() / m_hexRow + 1 : m_layout.lines().size();
}

TextLine ByteView::rowAt(std::size_t row) const {
  if (!m_hex) return row < m_layout.lines().size() ? m_layout.lines()[row] : TextLine();
  const std::size_t begin = std::min(row * m_hexRow, m_document.size());
  return {begin, std::min(begin + m_hexRow, m_document.size())};
}

std::size_t ByteView::rowOf(std::size_t byte) const {
  return m_hex ? byte / m_hexRow : m_layout.lineOf(byte);
}

/// In hex mode every byte has one cell of its own in the text column.
std::vector<Glyph> ByteView::glyphsOf(TextLine line) const {
  if (!m_hex) return ByteLayout::glyphs(m_document.records(), m_annotations, line);
  std::vector<Glyph> glyphs;
  for (std::size_t i = line.begin; i < line.end; ++i) {
    const Byte byte = m_document.byte(i);
    const bool printable = byte >= 0x20 && byte < 0x7f;
    glyphs.push_back({i, 1, printable ? byte : 0xb7u, GlyphKind::Character,
                      static_cast<int>(i - line.begin), 1});
  }
  return glyphs;
}

void ByteView::updateScrollBar(bool stayAtEnd) {
  const int visible =
      std::max(1, static_cast<int>((viewport()->height() - kTextMargin) / m_rowHeight));
  const int rows = static_cast<int>(rowCount());
  verticalScrollBar()->setPageStep(visible);
  verticalScrollBar()->setRange(0, std::max(0, rows - visible));
  if (stayAtEnd) verticalScrollBar()->setValue(verticalScrollBar()->maximum());
}

bool ByteView::isAtEnd() const {
  return verticalScrollBar()->value() >= verticalScrollBar()->maximum();
}

double ByteView::hexX(std::size_t placeInRow) const {
  const double offset = static_cast<double>(kOffsetDigits + 2);
  const double gap = static_cast<double>(placeInRow / 8) * 0.5;
  return kTextMargin + (offset + static_cast<double>(placeInRow) * 2.5 + gap) * m_cell.width();
}

double ByteView::columnX(int column) const {
  const double left = m_hex ? hexX(m_hexRow) + m_cell.width() : kTextMargin;
  return left + column * m_cell.width();
}

QRectF ByteView::byteRect(const Glyph& glyph, std::size_t byte, double top) const {
  const double width = glyph.width * m_cell.width() / static_cast<double>(glyph.count);
  return {columnX(glyph.column) + static_cast<double>(byte - glyph.first) * width, top, width,
          m_rowHeight};
}

std::optional<std::size_t> ByteView::byteAt(QPointF position) const {
  const double row = std::floor((position.y() - kTextMargin / 2) / m_rowHeight);
  if (row < 0) return std::nullopt;
  const std::size_t index =
      static_cast<std::size_t>(row) + static_cast<std::size_t>(verticalScrollBar()->value());
  if (index >= rowCount()) return std::nullopt;
  const TextLine line = rowAt(index);
  if (m_hex) {
    for (std::size_t i = line.begin; i < line.end; ++i) {
      const double x = hexX(i - line.begin);
      if (position.x() >= x && position.x() < x + 2.5 * m_cell.width()) return i;
    }
  }
  for (const Glyph& glyph : glyphsOf(line)) {
    for (std::size_t k = 0; k < glyph.count; ++k) {
      const QRectF rect = byteRect(glyph, glyph.first + k, 0);
      if (position.x() >= rect.left() && position.x() < rect.right()) return glyph.first + k;
    }
  }
  return std::nullopt;
}

std::size_t ByteView::caretAt(QPointF position) const {
  const double row = std::max(0.0, std::floor((position.y() - kTextMargin / 2) / m_rowHeight));
  const std::size_t index =
      static_cast<std::size_t>(row) + static_cast<std::size_t>(verticalScrollBar()->value());
  if (index >= rowCount()) return m_document.size();
  const TextLine line = rowAt(index);
  if (m_hex && position.x() < columnX(0)) {
    for (std::size_t i = line.begin; i < line.end; ++i)
      if (position.x() < hexX(i - line.begin) + m_cell.width()) return i;
    return line.end;
  }
  const bool wraps = index + 1 < rowCount();
  std::size_t caret = line.begin;
  for (const Glyph& glyph : glyphsOf(line)) {
    const double middle = columnX(glyph.column) + glyph.width * m_cell.width() / 2;
    const std::size_t after = glyph.first + glyph.count;
    if (position.x() < middle || glyph.kind == GlyphKind::Newline) return glyph.first;
    if (wraps && after == line.end) return glyph.first;  // behind it is the next line
    caret = after;
  }
  return caret;
}

QRectF ByteView::caretRect() const {
  const std::size_t row = rowOf(m_caret);
  const double top =
      kTextMargin / 2 + (static_cast<double>(row) - verticalScrollBar()->value()) * m_rowHeight;
  double x = columnX(0);
  for (const Glyph& glyph : glyphsOf(rowAt(row))) {
    if (glyph.first >= m_caret) break;
    x = columnX(glyph.column + glyph.width);
  }
  return {x - 1, top + 2, 2, m_rowHeight - 4};
}

void ByteView::reveal(std::size_t byte) {
  const int row = static_cast<int>(rowOf(byte));
  QScrollBar& bar = *verticalScrollBar();
  if (row < bar.value()) bar.setValue(row);
  if (row >= bar.value() + bar.pageStep()) bar.setValue(row - bar.pageStep() + 1);
}

void ByteView::resizeEvent(QResizeEvent* event) {
  const bool wasAtEnd = isAtEnd();
  QAbstractScrollArea::resizeEvent(event);
  measure();
  updateScrollBar(wasAtEnd);
}

void ByteView::changeEvent(QEvent* event) {
  QAbstractScrollArea::changeEvent(event);
  if (event->type() == QEvent::FontChange) measure();
}

}  // namespace mb::ui
