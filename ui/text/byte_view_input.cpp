// Keyboard, pointer and clipboard of the byte view.
#include <QApplication>
#include <QClipboard>
#include <QInputMethodEvent>
#include <QKeyEvent>
#include <QMimeData>
#include <QMouseEvent>
#include <QScrollBar>
#include <QWheelEvent>
#include <algorithm>

#include "ui/text/byte_view.h"

namespace mb::ui {

namespace {

constexpr const char* kBytesMime = "application/octet-stream";

}  // namespace

ByteRange ByteView::selection() const {
  return {std::min(m_caret, m_anchor), std::max(m_caret, m_anchor)};
}

void ByteView::select(ByteRange range) {
  m_anchor = std::min(range.begin, m_document.size());
  setCaret(range.end, true);
}

void ByteView::setCaret(std::size_t caret, bool extendSelection) {
  m_caret = std::min(caret, m_document.size());
  if (!extendSelection) m_anchor = m_caret;
  m_caretVisible = true;
  if (hasFocus() && m_blink.interval() > 0) m_blink.start();
  viewport()->update();
  emit caretMoved();
}

void ByteView::copy() const {
  const ByteRange range = selection();
  if (range.isEmpty()) return;
  const Bytes bytes = m_document.bytes(range.begin, range.end);
  const QByteArray raw(reinterpret_cast<const char*>(bytes.data()), static_cast<int>(bytes.size()));
  auto* mimeData = new QMimeData;
  mimeData->setText(QString::fromUtf8(raw));
  mimeData->setData(QLatin1String(kBytesMime), raw);  // nothing is lost between two of our windows
  QApplication::clipboard()->setMimeData(mimeData);
}

void ByteView::copyAsHex() const {
  const ByteRange range = selection();
  const Bytes bytes = m_document.bytes(range.begin, range.end);
  const QByteArray raw(reinterpret_cast<const char*>(bytes.data()), static_cast<int>(bytes.size()));
  QApplication::clipboard()->setText(QString::fromLatin1(raw.toHex(' ')));
}

void ByteView::cut() {
  copy();
  type({});
}

void ByteView::paste() {
  const QMimeData* clip = QApplication::clipboard()->mimeData();
  if (!clip) return;
  const QLatin1String mime(kBytesMime);
  type(clip->hasFormat(mime) ? clip->data(mime) : clip->text().toUtf8());
}

void ByteView::selectAll() {
  select({0, m_document.size()});
}

// ---- editing

/// Puts bytes in place of the selection.
void ByteView::type(const QByteArray& bytes) {
  const ByteRange range = selection();
  if (range.isEmpty() && bytes.isEmpty()) return;
  const auto* first = reinterpret_cast<const Byte*>(bytes.constData());
  const auto size = static_cast<std::size_t>(bytes.size());
  m_document.replace(range.begin, range.end - range.begin, std::span(first, size));
  setCaret(range.begin + size);
  reveal(m_caret);
}

void ByteView::erase(bool backwards) {
  if (selection().isEmpty())
    m_anchor = backwards ? characterBefore(m_caret) : characterAfter(m_caret);
  type({});
}

std::size_t ByteView::characterBefore(std::size_t byte) const {
  if (byte == 0) return 0;
  for (std::size_t back = std::min<std::size_t>(4, byte); back > 1; --back)
    if (glyphAt(m_document.records(), byte - back).count == back) return byte - back;
  return byte - 1;
}

std::size_t ByteView::characterAfter(std::size_t byte) const {
  if (byte >= m_document.size()) return m_document.size();
  return byte + glyphAt(m_document.records(), byte).count;
}

std::size_t ByteView::wordEdge(std::size_t byte, int direction) const {
  const auto isWord = [&](std::size_t i) {
    const Byte b = m_document.byte(i);
    return b > 0x20 && b != 0x7f;
  };
  if (direction > 0) {
    while (byte < m_document.size() && !isWord(byte)) ++byte;
    while (byte < m_document.size() && isWord(byte)) ++byte;
  } else {
    while (byte > 0 && !isWord(byte - 1)) --byte;
    while (byte > 0 && isWord(byte - 1)) --byte;
  }
  return byte;
}

void ByteView::moveCaretVertically(int rows, bool extend) {
  const QPointF place = caretRect().center() + QPointF(0, rows * m_rowHeight);
  setCaret(place.y() < 0 && verticalScrollBar()->value() == 0 ? 0 : caretAt(place), extend);
}

bool ByteView::moveByKey(QKeyEvent* event) {
  const bool extend = event->modifiers() & Qt::ShiftModifier;
  const bool word = event->modifiers() & Qt::ControlModifier;
  const TextLine line = rowAt(rowOf(m_caret));
  switch (event->key()) {
    case Qt::Key_Left:
      setCaret(word ? wordEdge(m_caret, -1) : characterBefore(m_caret), extend);
      break;
    case Qt::Key_Right:
      setCaret(word ? wordEdge(m_caret, 1) : characterAfter(m_caret), extend);
      break;
    case Qt::Key_Up: moveCaretVertically(-1, extend); break;
    case Qt::Key_Down: moveCaretVertically(1, extend); break;
    case Qt::Key_PageUp: moveCaretVertically(-verticalScrollBar()->pageStep(), extend); break;
    case Qt::Key_PageDown: moveCaretVertically(verticalScrollBar()->pageStep(), extend); break;
    case Qt::Key_Home: setCaret(word ? 0 : line.begin, extend); break;
    case Qt::Key_End: {
      const bool last = rowOf(m_caret) + 1 == rowCount();  // else behind its end is the next line
      const std::size_t end = last ? line.end : std::max(line.begin, characterBefore(line.end));
      setCaret(word ? m_document.size() : end, extend);
      break;
    }
    default: return false;
  }
  reveal(m_caret);
  m_linked.select(m_caret < m_document.size() ? std::optional(m_caret) : std::nullopt);
  return true;
}

void ByteView::keyPressEvent(QKeyEvent* event) {
  if (event->modifiers() & Qt::ControlModifier && event->key() != Qt::Key_Left &&
      event->key() != Qt::Key_Right && event->key() != Qt::Key_Home && event->key() != Qt::Key_End)
    return event->ignore();
  if (moveByKey(event)) return;
  switch (event->key()) {
    case Qt::Key_Backspace: return erase(true);
    case Qt::Key_Delete: return erase(false);
    case Qt::Key_Return:
    case Qt::Key_Enter: return type("\n");
    default: break;
  }
  const QString text = event->text();
  if (text.isEmpty() || (!text.front().isPrint() && text.front() != u'\t')) return event->ignore();
  type(text.toUtf8());
}

void ByteView::inputMethodEvent(QInputMethodEvent* event) {
  if (!event->commitString().isEmpty()) type(event->commitString().toUtf8());
  event->accept();
}

QVariant ByteView::inputMethodQuery(Qt::InputMethodQuery query) const {
  if (query == Qt::ImCursorRectangle) return caretRect();
  return QAbstractScrollArea::inputMethodQuery(query);
}

// ---- pointer and focus

void ByteView::mousePressEvent(QMouseEvent* event) {
  if (event->button() != Qt::LeftButton) return;
  setCaret(caretAt(event->position()), event->modifiers() & Qt::ShiftModifier);
  m_linked.select(byteAt(event->position()));
}

void ByteView::mouseMoveEvent(QMouseEvent* event) {
  m_linked.hover(byteAt(event->position()));
  if (event->buttons() & Qt::LeftButton) setCaret(caretAt(event->position()), true);
}

void ByteView::mouseDoubleClickEvent(QMouseEvent* event) {
  const std::size_t place = caretAt(event->position());
  const std::size_t end = wordEdge(place, 1);
  select({wordEdge(end, -1), end});
}

void ByteView::wheelEvent(QWheelEvent* event) {
  if (!(event->modifiers() & Qt::ControlModifier)) return QAbstractScrollArea::wheelEvent(event);
  setZoom(m_zoom * (event->angleDelta().y() > 0 ? 1.1 : 1 / 1.1));
}

void ByteView::leaveEvent(QEvent* event) {
  m_linked.hover(std::nullopt);
  QAbstractScrollArea::leaveEvent(event);
}

void ByteView::focusInEvent(QFocusEvent* event) {
  m_caretVisible = true;
  if (m_blink.interval() > 0) m_blink.start();
  QAbstractScrollArea::focusInEvent(event);
  viewport()->update();
}

void ByteView::focusOutEvent(QFocusEvent* event) {
  m_blink.stop();
  m_caretVisible = false;
  QAbstractScrollArea::focusOutEvent(event);
  viewport()->update();
}

}  // namespace mb::ui
