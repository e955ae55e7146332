#include "ui/window/tool_bar.h"

#include <QAction>
#include <QHBoxLayout>
#include <QLabel>
#include <QMenu>
#include <QToolButton>
#include <QVBoxLayout>
#include <QWidgetAction>

#include "ui/window/run_settings.h"

namespace mb::ui {

namespace {

/// Room for figures that grow by a digit.
constexpr int kSlack = 8;

}  // namespace

ToolBar::ToolBar(QWidget* parent) : QToolBar(tr("Tool bar"), parent) {
  setObjectName(QStringLiteral("tool-bar"));
  setMovable(false);
  setFloatable(false);
  setContextMenuPolicy(Qt::PreventContextMenu);
}

QToolButton* ToolBar::addButton(QAction* action, const QString& sign, bool primary) {
  auto* button = new QToolButton(this);
  button->setDefaultAction(action);
  const auto relabel = [button, action, sign] {
    button->setText(sign + u' ' + action->iconText());
    button->setAccessibleName(action->iconText());
  };
  connect(action, &QAction::changed, button, relabel);
  relabel();
  if (primary) button->setProperty("role", "primary");
  addWidget(button);
  return button;
}

void ToolBar::addChoice(const QString& label, QWidget* choice) {
  auto* name = new QLabel(label, this);
  name->setProperty("role", "dim");
  m_choiceLabels.append(name);
  auto* pair = new QWidget(this);
  auto* row = new QHBoxLayout(pair);
  row->setContentsMargins(4, 0, 0, 0);
  row->setSpacing(6);
  row->addWidget(name);
  row->addWidget(choice);
  addWidget(pair);
}

void ToolBar::addSettings(RunSettingsEditor& settings) {
  m_settings = &settings;
  m_rowPlace = new QWidget(this);
  auto* place = new QHBoxLayout(m_rowPlace);
  place->setContentsMargins(4, 0, 0, 0);
  place->addWidget(settings.row());
  addWidget(m_rowPlace);

  m_popup = new QWidget(this);
  auto* column = new QVBoxLayout(m_popup);
  column->setContentsMargins(10, 10, 10, 4);
  column->addWidget(settings.grid());
  auto* content = new QWidgetAction(this);
  content->setDefaultWidget(m_popup);
  m_more = new QToolButton(this);
  m_more->setPopupMode(QToolButton::InstantPopup);
  m_more->setMenu(new QMenu(m_more));
  m_more->menu()->addAction(content);
  m_more->setAccessibleName(tr("More settings"));
  m_more->setToolTip(tr("All settings of a run"));
  addWidget(m_more);
  setFolded(false);
}

void ToolBar::fitInto(int width) {
  int needed = layout()->contentsMargins().left() + layout()->contentsMargins().right();
  for (QAction* action : actions()) {
    QWidget* widget = widgetForAction(action);
    needed += (widget == m_rowPlace ? m_settings->row() : widget)->sizeHint().width();
    needed += layout()->spacing();
  }
  setFolded(needed + kSlack > width);
}

void ToolBar::setFolded(bool folded) {
  m_folded = folded;
  QWidget* target = folded ? m_popup : m_rowPlace;
  if (m_settings->row()->parentWidget() != target) {
    if (folded)
      static_cast<QVBoxLayout*>(m_popup->layout())->insertWidget(0, m_settings->row());
    else
      m_rowPlace->layout()->addWidget(m_settings->row());
    m_settings->row()->show();
  }
  for (QAction* action : actions())
    if (widgetForAction(action) == m_rowPlace) action->setVisible(!folded);
  m_more->setText(folded ? tr("Settings ▾") : tr("More ▾"));
}

void ToolBar::addFigures() {
  auto* figures = new QWidget(this);
  figures->setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Preferred);
  auto* row = new QHBoxLayout(figures);
  row->setContentsMargins(4, 0, 4, 0);
  row->setSpacing(4);
  row->addStretch(1);
  m_rate = addFigure(figures, tr("bytes/s"), tr("Bytes written a second, this run or the last"));
  m_plain =
      addFigure(figures, tr("plain"),
                tr("How many times as fast as plain decoding of the same bytes. Both are measured "
                   "after the run, on its newest bytes, without showing them"));
  m_bits = addFigure(figures, tr("bits/byte"), tr("Mean surprisal of the text (bits per byte)"));
  const std::pair<QLabel*, int> widths[] = {
      {m_rate.value, 60}, {m_plain.value, 58}, {m_bits.value, 44}};
  for (const auto& [label, width] : widths) label->setMinimumWidth(width);  // room for any value
  addWidget(figures);
}

ToolBar::Figure ToolBar::addFigure(QWidget* parent, const QString& unit, const QString& meaning) {
  Figure figure{new QLabel(parent), new QLabel(unit, parent)};
  figure.value->setProperty("role", "figure");
  figure.unit->setProperty("role", "dim");
  figure.value->setAlignment(Qt::AlignRight | Qt::AlignVCenter);
  for (QLabel* label : {figure.value, figure.unit}) {
    label->setToolTip(meaning);
    parent->layout()->addWidget(label);
  }
  figure.value->setAccessibleDescription(meaning);
  static_cast<QHBoxLayout*>(parent->layout())->addSpacing(4);
  return figure;
}

void ToolBar::setFigures(const QString& bytesPerSecond, const QString& timesPlain,
                         const QString& bitsPerByte) {
  const QString none = QStringLiteral("–");
  m_rate.value->setText(bytesPerSecond.isEmpty() ? none : bytesPerSecond);
  m_plain.value->setText(timesPlain.isEmpty() ? none : timesPlain);
  m_bits.value->setText(bitsPerByte.isEmpty() ? none : bitsPerByte);
}

}  // namespace mb::ui
