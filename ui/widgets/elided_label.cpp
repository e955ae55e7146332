#include "ui/widgets/elided_label.h"

namespace mb::ui {

ElidedLabel::ElidedLabel(QWidget* parent) : QLabel(parent) {
  setAlignment(Qt::AlignRight | Qt::AlignVCenter);
  setSizePolicy(QSizePolicy::Ignored, QSizePolicy::Preferred);
}

void ElidedLabel::setFullText(const QString& text) {
  if (text == m_full) return;
  m_full = text;
  setToolTip(text);
  setAccessibleName(text);
  elide();
}

void ElidedLabel::elide() {
  setText(fontMetrics().elidedText(m_full, Qt::ElideRight, contentsRect().width() - 2 * margin()));
}

void ElidedLabel::resizeEvent(QResizeEvent* event) {
  QLabel::resizeEvent(event);
  elide();
}

}  // namespace mb::ui
