#include "ui/widgets/title_bar.h"

#include <QHBoxLayout>
#include <QLabel>
#include <QPainter>
#include <QToolButton>

#include "ui/widgets/elided_label.h"

namespace mb::ui {

namespace {

constexpr int kHeight = 36;
constexpr int kSwatch = 10;
constexpr int kLegendGap = 12;

}  // namespace

TitleBar::TitleBar(const QString& title, QWidget* parent)
    : QWidget(parent),
      m_row(new QHBoxLayout(this)),
      m_note(new ElidedLabel(this)),
      m_close(new QToolButton(this)) {
  setProperty("role", "titlebar");
  setAttribute(Qt::WA_StyledBackground);
  setFixedHeight(kHeight);
  m_row->setContentsMargins(12, 0, 8, 0);
  m_row->setSpacing(8);
  auto* label = new QLabel(title, this);
  label->setProperty("role", "title");
  m_note->setProperty("role", "dim");
  m_close->setText(QStringLiteral("✕"));
  m_close->setProperty("role", "flat");
  m_close->setAccessibleName(tr("Close %1").arg(title));
  m_close->setToolTip(tr("Close this panel; the View menu brings it back"));
  m_close->hide();
  connect(m_close, &QToolButton::clicked, this, &TitleBar::closeRequested);
  m_row->addWidget(label);
  m_row->addWidget(m_note, 1);
  m_row->addWidget(m_close);
}

QSize TitleBar::sizeHint() const {
  return {QWidget::sizeHint().width(), kHeight};
}

void TitleBar::add(QWidget* control) {
  m_row->insertWidget(m_row->count() - 1, control);
}

void TitleBar::setNote(const QString& note) {
  m_note->setFullText(note);
}

void TitleBar::setClosable(bool closable) {
  m_close->setVisible(closable);
}

Legend::Legend(QWidget* parent) : QWidget(parent) {
  setSizePolicy(QSizePolicy::Maximum, QSizePolicy::Preferred);
}

void Legend::setEntries(const QList<Entry>& entries) {
  m_entries = entries;
  QStringList names;
  for (const Entry& entry : entries) names += entry.text;
  setAccessibleName(tr("Legend: %1").arg(names.join(QStringLiteral(", "))));
  updateGeometry();
  update();
}

int Legend::widthOf(const Entry& entry) const {
  const int mark = entry.mark == Mark::Struck ? 0 : kSwatch + 5;
  return mark + fontMetrics().horizontalAdvance(entry.text);
}

QSize Legend::sizeHint() const {
  int width = 0;
  for (const Entry& entry : m_entries) width += widthOf(entry) + kLegendGap;
  return {width, fontMetrics().height() + 4};
}

void Legend::paintEvent(QPaintEvent*) {
  QPainter painter(this);
  QFont font = this->font();
  const int middle = height() / 2;
  int x = width() - sizeHint().width();
  for (const Entry& entry : m_entries) {
    const int mark = widthOf(entry) - fontMetrics().horizontalAdvance(entry.text);
    if (x >= 0) {
      if (entry.mark == Mark::Swatch)
        painter.fillRect(x, middle - kSwatch / 2, kSwatch, kSwatch, entry.color);
      if (entry.mark == Mark::Line || entry.mark == Mark::Dashes) {
        const Qt::PenStyle style = entry.mark == Mark::Line ? Qt::SolidLine : Qt::DashLine;
        painter.setPen(QPen(entry.color, 2, style));
        painter.drawLine(x, middle, x + kSwatch + 2, middle);
      }
      const bool struck = entry.mark == Mark::Struck;
      font.setStrikeOut(struck);
      painter.setFont(font);
      painter.setPen(struck ? entry.color : palette().color(QPalette::PlaceholderText));
      painter.drawText(QRect(x + mark, 0, widthOf(entry), height()), Qt::AlignVCenter, entry.text);
    }
    x += widthOf(entry) + kLegendGap;
  }
}

}  // namespace mb::ui
