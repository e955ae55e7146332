#include "ui/panels/panel.h"

#include <QFrame>
#include <QLabel>
#include <QStackedLayout>

#include "ui/widgets/title_bar.h"

namespace mb::ui {

Panel::Panel(const QString& name, const QString& title, QWidget* parent)
    : QDockWidget(title, parent), m_titleBar(new TitleBar(title, this)) {
  setObjectName(name);
  setAccessibleName(title);
  m_titleBar->setClosable(true);
  setTitleBarWidget(m_titleBar);
  connect(m_titleBar, &TitleBar::closeRequested, this, &QWidget::hide);
}

void Panel::setContent(QWidget* content, const QString& emptyHint) {
  auto* body = new QFrame(this);
  body->setProperty("role", "body");
  m_hint = new QLabel(emptyHint, body);
  m_hint->setProperty("role", "hint");
  m_hint->setAlignment(Qt::AlignCenter);
  m_hint->setWordWrap(true);
  m_stack = new QStackedLayout(body);
  m_stack->setContentsMargins(1, 0, 1, 1);
  m_stack->addWidget(content);
  m_stack->addWidget(m_hint);
  setWidget(body);
  setEmpty(true);
}

void Panel::setEmpty(bool empty) {
  m_stack->setCurrentIndex(empty ? 1 : 0);
}
bool Panel::isEmpty() const {
  return m_stack->currentIndex() == 1;
}
QString Panel::emptyHint() const {
  return m_hint->text();
}

bool Panel::isSeen() const {
  return isVisible() && !visibleRegion().isEmpty();
}

void Panel::refreshIfNeeded() {
  if (!m_dirty || !isSeen()) return;
  m_dirty = false;
  refresh();
}

void Panel::showEvent(QShowEvent* event) {
  m_dirty = true;
  QDockWidget::showEvent(event);
}

}  // namespace mb::ui
