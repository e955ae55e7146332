// The text: every byte coloured by what is known of it, editable anywhere.
#pragma once

#include <QAbstractScrollArea>
#include <QTimer>
#include <cstddef>
#include <optional>
#include <vector>

#include "ui/model/document.h"
#include "ui/model/linked_position.h"
#include "ui/text/byte_layout.h"
#include "ui/text/glyph_cache.h"
#include "ui/theme/theme.h"

namespace mb::ui {

/// Free border around the text, and digits of an offset in hex mode.
inline constexpr double kTextMargin = 14;
inline constexpr std::size_t kOffsetDigits = 8;

enum class TextColoring { Origin, Surprisal };

/// Half-open range of bytes.
struct ByteRange {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool isEmpty() const { return begin == end; }
  bool contains(std::size_t i) const { return i >= begin && i < end; }
};

/// Shows the document as text, or as hex beside text. Bytes that are not UTF-8 appear as boxes with
/// their hex value. Typing, pasting and deleting change the document; the wheel with Ctrl zooms.
class ByteView : public QAbstractScrollArea {
  Q_OBJECT

 public:
  ByteView(Document& document, LinkedPosition& linked, const Theme& theme,
           QWidget* parent = nullptr);

  TextColoring coloring() const { return m_coloring; }
  void setColoring(TextColoring coloring);
  bool showsHex() const { return m_hex; }
  void setHex(bool hex);
  bool showsRejected() const { return m_showRejected; }
  void setShowRejected(bool show);
  double zoom() const { return m_zoom; }
  void setZoom(double zoom);

  /// Byte the caret stands before; the document's size at the end.
  std::size_t caret() const { return m_caret; }
  void setCaret(std::size_t caret, bool extendSelection = false);
  ByteRange selection() const;
  void select(ByteRange range);

  void copy() const;
  void copyAsHex() const;
  void cut();
  void paste();
  void selectAll();

  /// Ranges to highlight, in order; scrolls to the one that `current` names.
  void setMatches(std::vector<ByteRange> matches, std::optional<std::size_t> current);
  void reveal(std::size_t byte);

  /// Whether the newest line is in view, so that growing text keeps it there.
  bool isAtEnd() const;

  QSize sizeHint() const override { return {760, 560}; }

 signals:
  void caretMoved();
  void zoomChanged();
  void displayChanged();  ///< coloring, hex or rejected drafts switched

 protected:
  void paintEvent(QPaintEvent* event) override;
  void resizeEvent(QResizeEvent* event) override;
  void keyPressEvent(QKeyEvent* event) override;
  void inputMethodEvent(QInputMethodEvent* event) override;
  QVariant inputMethodQuery(Qt::InputMethodQuery query) const override;
  void mousePressEvent(QMouseEvent* event) override;
  void mouseMoveEvent(QMouseEvent* event) override;
  void mouseDoubleClickEvent(QMouseEvent* event) override;
  void wheelEvent(QWheelEvent* event) override;
  void leaveEvent(QEvent* event) override;
  void focusInEvent(QFocusEvent* event) override;
  void focusOutEvent(QFocusEvent* event) override;
  void changeEvent(QEvent* event) override;

 private:
  /// A line or a hex row at its place on the viewport.
  struct Row {
    TextLine line;
    double top = 0;
  };

  void measure();
  void relayout(std::size_t from);
  void updateAnnotations();
  void updateScrollBar(bool stayAtEnd);
  std::size_t rowCount() const;
  TextLine rowAt(std::size_t row) const;
  std::size_t rowOf(std::size_t byte) const;
  std::vector<Glyph> glyphsOf(TextLine line) const;
  double columnX(int column) const;
  double hexX(std::size_t placeInRow) const;
  std::optional<std::size_t> byteAt(QPointF position) const;
  std::size_t caretAt(QPointF position) const;
  QRectF byteRect(const Glyph& glyph, std::size_t byte, double top) const;
  QRectF caretRect() const;

  void paintRow(QPainter& painter, const Row& row);
  void paintGround(QPainter& painter, const Glyph& glyph, double top) const;
  void paintByteGround(QPainter& painter, std::size_t byte, const QRectF& rect) const;
  void paintGlyph(QPainter& painter, const Glyph& glyph, double top);
  void paintBox(QPainter& painter, const Glyph& glyph, double top) const;
  void paintRejected(QPainter& painter, const Glyph& glyph, double top);
  void paintHexCells(QPainter& painter, const Row& row);
  void paintHint(QPainter& painter) const;
  bool isMatched(std::size_t byte) const;
  QColor ground(std::size_t byte) const;

  void type(const QByteArray& bytes);
  void erase(bool backwards);
  bool moveByKey(QKeyEvent* event);
  void moveCaretVertically(int rows, bool extend);
  std::size_t characterBefore(std::size_t byte) const;
  std::size_t characterAfter(std::size_t byte) const;
  std::size_t wordEdge(std::size_t byte, int direction) const;

  Document& m_document;
  LinkedPosition& m_linked;
  const Theme& m_theme;
  TextColoring m_coloring = TextColoring::Origin;
  bool m_hex = false;
  bool m_showRejected = true;
  double m_zoom = 1;

  ByteLayout m_layout;
  Annotations m_annotations;
  GlyphCache m_glyphs;
  GlyphCache m_smallGlyphs;
  QFont m_font;
  QFont m_smallFont;
  QSizeF m_cell;       ///< of one character
  QSizeF m_smallCell;  ///< of a rejected one
  double m_rowHeight = 0;
  std::size_t m_hexRow = 16;  ///< bytes a row in hex mode

  std::size_t m_caret = 0;
  std::size_t m_anchor = 0;  ///< other end of the selection
  bool m_caretVisible = false;
  QTimer m_blink;
  std::vector<ByteRange> m_matches;
  std::optional<std::size_t> m_currentMatch;
};

}  // namespace mb::ui
