#include "ui/text/find_bar.h"

#include <QHBoxLayout>
#include <QKeyEvent>
#include <QLabel>
#include <QLineEdit>
#include <QToolButton>
#include <algorithm>

namespace mb::ui {

std::optional<Bytes> parseSearch(const QString& search) {
  static const QString kHex = QStringLiteral("hex:");
  QByteArray wanted = search.toUtf8();
  if (search.startsWith(kHex)) {
    QString digits = search.mid(kHex.size());
    digits.remove(u' ');
    wanted = QByteArray::fromHex(digits.toLatin1());
    const bool complete =
        wanted.size() * 2 == digits.size() && wanted.toHex() == digits.toLower().toLatin1();
    if (!complete) return std::nullopt;
  }
  if (wanted.isEmpty()) return std::nullopt;
  return Bytes(wanted.begin(), wanted.end());
}

std::vector<ByteRange> findAll(std::span<const ByteRecord> text, std::span<const Byte> wanted) {
  std::vector<ByteRange> matches;
  auto from = text.begin();
  while (true) {
    const auto found =
        std::search(from, text.end(), wanted.begin(), wanted.end(),
                    [](const ByteRecord& record, Byte byte) { return record.byte == byte; });
    if (found == text.end()) return matches;
    const auto begin = static_cast<std::size_t>(found - text.begin());
    matches.push_back({begin, begin + wanted.size()});
    from = found + static_cast<std::ptrdiff_t>(wanted.size());
  }
}

FindBar::FindBar(Document& document, ByteView& view, QWidget* parent)
    : QWidget(parent),
      m_document(document),
      m_view(view),
      m_field(new QLineEdit(this)),
      m_count(new QLabel(this)) {
  m_field->setPlaceholderText(tr("Find text, or hex: e2 80 94"));
  m_field->setAccessibleName(tr("Find"));
  m_field->setClearButtonEnabled(true);
  m_count->setProperty("role", "dim");
  const auto button = [this](const QString& text, const QString& name) {
    auto* made = new QToolButton(this);
    made->setText(text);
    made->setAccessibleName(name);
    made->setToolTip(name);
    return made;
  };
  auto* previous = button(QStringLiteral("↑"), tr("Previous match (Shift+Enter)"));
  auto* next = button(QStringLiteral("↓"), tr("Next match (Enter)"));
  auto* closing = button(QStringLiteral("✕"), tr("Close the find bar (Esc)"));
  closing->setProperty("role", "flat");
  auto* row = new QHBoxLayout(this);
  row->setContentsMargins(12, 6, 8, 6);
  row->addWidget(m_field, 1);
  row->addWidget(m_count);
  for (QToolButton* b : {previous, next, closing}) row->addWidget(b);
  connect(m_field, &QLineEdit::textChanged, this, &FindBar::search);
  connect(previous, &QToolButton::clicked, this, &FindBar::findPrevious);
  connect(next, &QToolButton::clicked, this, &FindBar::findNext);
  connect(closing, &QToolButton::clicked, this, &FindBar::close);
  connect(&document, &Document::edited, this, [this] {
    if (isVisible()) search();
  });
  hide();
}

void FindBar::open() {
  QWidget::show();
  m_field->setFocus();
  m_field->selectAll();
  search();
}

void FindBar::close() {
  hide();
  m_matches.clear();
  m_view.setMatches({}, std::nullopt);
  m_view.setFocus();
}

/// Matches are found anew; the current one is the first behind the caret.
void FindBar::search() {
  const std::optional<Bytes> wanted = parseSearch(m_field->text());
  m_matches = wanted ? findAll(m_document.records(), *wanted) : std::vector<ByteRange>();
  const std::size_t from = m_view.selection().begin;
  std::size_t current = 0;
  while (current < m_matches.size() && m_matches[current].begin < from) ++current;
  if (current == m_matches.size()) current = 0;
  show(m_matches.empty() ? std::nullopt : std::optional(current));
}

void FindBar::show(std::optional<std::size_t> current) {
  m_view.setMatches(m_matches, current);
  if (m_field->text().isEmpty())
    m_count->clear();
  else if (!parseSearch(m_field->text()))
    m_count->setText(tr("hex: expects pairs of digits"));
  else
    m_count->setText(current ? tr("%1 of %2").arg(*current + 1).arg(m_matches.size())
                             : tr("not found"));
}

/// To the next match behind or before the caret. Looks again: the model may have written since.
void FindBar::go(int direction) {
  const std::optional<Bytes> wanted = parseSearch(m_field->text());
  if (!wanted) return;
  m_matches = findAll(m_document.records(), *wanted);
  if (m_matches.empty()) return show(std::nullopt);
  const std::size_t from = m_view.selection().begin;
  std::size_t next = 0;
  while (next < m_matches.size() && m_matches[next].begin < from + (direction > 0 ? 1 : 0)) ++next;
  const std::size_t count = m_matches.size();
  show((direction > 0 ? next : next + count - 1) % count);
}

void FindBar::findNext() {
  go(1);
}
void FindBar::findPrevious() {
  go(-1);
}

void FindBar::keyPressEvent(QKeyEvent* event) {
  if (event->key() == Qt::Key_Escape) return close();
  if (event->key() == Qt::Key_Return || event->key() == Qt::Key_Enter)
    return go(event->modifiers() & Qt::ShiftModifier ? -1 : 1);
  QWidget::keyPressEvent(event);
}

}  // namespace mb::ui
