#include "ui/widgets/message_strip.h"

#include <QHBoxLayout>
#include <QLabel>
#include <QPushButton>
#include <QToolButton>

namespace mb::ui {

MessageStrip::MessageStrip(QWidget* parent)
    : QFrame(parent), m_text(new QLabel(this)), m_action(new QPushButton(this)) {
  setProperty("role", "error");
  m_text->setWordWrap(true);
  m_text->setTextInteractionFlags(Qt::TextSelectableByMouse);
  auto* close = new QToolButton(this);
  close->setText(QStringLiteral("✕"));
  close->setProperty("role", "flat");
  close->setAccessibleName(tr("Dismiss the message"));
  close->setToolTip(tr("Dismiss the message"));
  auto* row = new QHBoxLayout(this);
  row->setContentsMargins(12, 6, 6, 6);
  row->addWidget(m_text, 1);
  row->addWidget(m_action);
  row->addWidget(close);
  connect(close, &QToolButton::clicked, this, &QWidget::hide);
  connect(m_action, &QPushButton::clicked, this, &MessageStrip::actionTriggered);
  hide();
}

void MessageStrip::showError(const QString& text, const QString& action) {
  m_text->setText(text);
  m_text->setAccessibleName(text);
  m_action->setText(action);
  m_action->setAccessibleName(action);
  m_action->setVisible(!action.isEmpty());
  show();
}

QString MessageStrip::text() const {
  return m_text->text();
}

}  // namespace mb::ui
