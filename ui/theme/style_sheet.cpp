#include "ui/theme/style_sheet.h"

#include <QHash>

#include "ui/theme/theme.h"

namespace mb::ui {

namespace {

/// @name stands for a colour. Widgets are styled by class, or by the dynamic property "role".
constexpr const char* kSheet = R"(
QMainWindow, QDialog { background: @background; }
QMainWindow::separator { background: @background; width: 8px; height: 8px; }
QMainWindow::separator:hover { background: @line; }
QMenuBar { background: @panel; border-bottom: 1px solid @line; padding: 2px 4px; }
QMenuBar::item { padding: 4px 9px; border-radius: 5px; background: transparent; }
QMenuBar::item:selected { background: @field; }
QMenu { background: @panel; border: 1px solid @line; padding: 4px; }
QMenu::item { padding: 5px 26px 5px 22px; border-radius: 4px; }
QMenu::item:selected { background: @field; color: @ink; }
QMenu::item:disabled { color: @dim; }
QMenu::separator { height: 1px; background: @line; margin: 4px 8px; }
QMenu::indicator { width: 12px; height: 12px; left: 6px; }
QToolBar { background: @panel; border: none; border-bottom: 1px solid @line; padding: 6px 8px; spacing: 6px; }
QToolBar QLabel, QToolBar QToolButton, QToolBar QComboBox, QToolBar QSpinBox, QToolBar QDoubleSpinBox { font-size: 12px; }
QStatusBar { background: @panel; border-top: 1px solid @line; color: @dim; }
QStatusBar::item { border: none; }
QStatusBar QLabel { color: @dim; padding: 2px 8px; }
QToolTip { background: @panel; color: @ink; border: 1px solid @line; padding: 4px 6px; }

QPushButton, QToolButton, QComboBox, QSpinBox, QDoubleSpinBox, QLineEdit {
  background: @field; color: @ink; border: 1px solid @line; border-radius: 6px;
  padding: 3px 8px; min-height: 18px; selection-background-color: @accent;
  selection-color: @onAccent;
}
QPushButton:hover, QToolButton:hover, QComboBox:hover { border-color: @dim; }
QPushButton:focus, QToolButton:focus, QComboBox:focus, QSpinBox:focus, QDoubleSpinBox:focus,
QLineEdit:focus { border-color: @accent; }
QPushButton:pressed, QToolButton:pressed, QToolButton:checked { background: @line; }
QPushButton:disabled, QToolButton:disabled, QComboBox:disabled, QSpinBox:disabled,
QDoubleSpinBox:disabled { color: @dim; }
QToolButton { padding: 3px 5px; }
QToolButton::menu-indicator { image: none; width: 0; }
QPushButton[role="primary"], QToolButton[role="primary"] {
  background: @accent; color: @onAccent; border-color: @accent; font-weight: 600; padding: 3px 8px;
}
QPushButton[role="primary"]:disabled, QToolButton[role="primary"]:disabled {
  background: @field; color: @dim; border-color: @line;
}
QToolButton[role="flat"] { background: transparent; border-color: transparent; padding: 2px 5px; }
QToolButton[role="flat"]:hover { background: @field; }
QComboBox::drop-down { border: none; width: 16px; }
QComboBox QAbstractItemView {
  background: @panel; color: @ink; border: 1px solid @line; selection-background-color: @field;
  selection-color: @ink; outline: none;
}
QSpinBox::up-button, QSpinBox::down-button, QDoubleSpinBox::up-button, QDoubleSpinBox::down-button {
  width: 0px; border: none;
}
QCheckBox { spacing: 6px; }
QScrollArea, QScrollArea > QWidget > QWidget { background: @panel; }
QScrollBar:vertical { background: transparent; width: 11px; margin: 0; }
QScrollBar:horizontal { background: transparent; height: 11px; margin: 0; }
QScrollBar::handle { background: @line; border-radius: 4px; margin: 2px; min-height: 24px; min-width: 24px; }
QScrollBar::handle:hover { background: @dim; }
QScrollBar::add-line, QScrollBar::sub-line { height: 0; width: 0; }
QScrollBar::add-page, QScrollBar::sub-page { background: transparent; }
QTabBar::tab {
  background: transparent; color: @dim; padding: 6px 12px; border: none;
  border-bottom: 2px solid transparent;
}
QTabBar::tab:selected { color: @ink; border-bottom-color: @accent; }
QTabBar::tab:hover { color: @ink; }
QProgressBar {
  background: @field; border: none; border-radius: 4px; height: 8px; text-align: center;
}
QProgressBar::chunk { background: @accent; border-radius: 4px; }
QTableView, QTreeView, QListView, QTextBrowser, QPlainTextEdit {
  background: @panel; color: @ink; border: 1px solid @line; border-radius: 6px; outline: none;
}
QHeaderView::section {
  background: @panel; color: @dim; border: none; border-bottom: 1px solid @line; padding: 4px 8px;
}
QLabel[role="dim"] { color: @dim; }
QLabel[role="title"] { font-weight: 600; }
QToolBar QLabel[role="figure"] { font-weight: 700; font-size: 18px; }
QLabel[role="number"] { font-weight: 700; font-size: 16px; }
QLabel[role="hint"] { color: @dim; font-size: 14px; }
QFrame[role="panel"] { background: @panel; border: 1px solid @line; border-radius: 8px; }
QWidget[role="titlebar"] { background: @panel; border: 1px solid @line; border-top-left-radius: 8px; border-top-right-radius: 8px; }
QFrame[role="body"] { background: @panel; border: 1px solid @line; border-top: none; border-bottom-left-radius: 8px; border-bottom-right-radius: 8px; }
QFrame[role="error"] { background: @panel; border: 1px solid @rejected; border-radius: 6px; }
QFrame[role="error"] QLabel { color: @rejected; }
QFrame[role="popup"] { background: @panel; border: 1px solid @line; border-radius: 8px; }
)";

}  // namespace

QString styleSheet(const Colors& colors) {
  const QHash<QString, QColor> names = {
      {"background", colors.background},
      {"panel", colors.panel},
      {"field", colors.field},
      {"ink", colors.ink},
      {"dim", colors.dim},
      {"line", colors.line},
      {"onAccent", colors.onAccent},
      {"rejected", colors.rejected},
      {"accent", colors.accent},
  };
  QString sheet = QString::fromUtf8(kSheet);
  for (auto name = names.begin(); name != names.end(); ++name)
    sheet.replace(u'@' + name.key(), name.value().name());
  return sheet;
}

}  // namespace mb::ui
