#include "ui/widgets/choice.h"

#include <QPainter>
#include <QWheelEvent>

namespace mb::ui {

namespace {

constexpr int kArrowRoom = 34;  ///< frame, padding and arrow

}  // namespace

Choice::Choice(QWidget* parent) : QComboBox(parent) {
  setSizeAdjustPolicy(QComboBox::AdjustToContents);
  setFocusPolicy(Qt::StrongFocus);
}

/// As wide as its widest entry, arrow included.
QSize Choice::sizeHint() const {
  int width = 0;
  for (int i = 0; i < count(); ++i)
    width = std::max(width, fontMetrics().horizontalAdvance(itemText(i)));
  return {width + kArrowRoom, QComboBox::sizeHint().height()};
}

void Choice::paintEvent(QPaintEvent* event) {
  QComboBox::paintEvent(event);
  QPainter painter(this);
  painter.setPen(palette().color(QPalette::PlaceholderText));
  painter.drawText(rect().adjusted(0, 0, -8, 0), Qt::AlignRight | Qt::AlignVCenter,
                   QStringLiteral("▾"));
}

void Choice::wheelEvent(QWheelEvent* event) {
  event->ignore();
}

}  // namespace mb::ui
