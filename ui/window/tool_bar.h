// Run buttons, models, settings and the three figures that are always in sight.
#pragma once

#include <QToolBar>

class QAction;
class QLabel;
class QMenu;
class QToolButton;

namespace mb::ui {

class RunSettingsEditor;

class ToolBar : public QToolBar {
  Q_OBJECT

 public:
  explicit ToolBar(QWidget* parent);

  /// `primary` marks the button that people look for first.
  QToolButton* addButton(QAction* action, const QString& sign, bool primary = false);
  void addChoice(const QString& label, QWidget* choice);
  void addSettings(RunSettingsEditor& settings);
  void addFigures();

  /// Folds the settings into the drop-down when they do not fit beside the figures.
  void fitInto(int width);
  bool isFolded() const { return m_folded; }
  /// Values shown as text; empty for unknown.
  void setFigures(const QString& bytesPerSecond, const QString& timesPlain,
                  const QString& bitsPerByte);

 private:
  struct Figure {
    QLabel* value = nullptr;
    QLabel* unit = nullptr;
  };
  Figure addFigure(QWidget* parent, const QString& unit, const QString& meaning);

  void setFolded(bool folded);

  RunSettingsEditor* m_settings = nullptr;
  bool m_folded = false;
  QWidget* m_rowPlace = nullptr;
  QWidget* m_popup = nullptr;
  QToolButton* m_more = nullptr;
  QList<QLabel*> m_choiceLabels;
  Figure m_rate;
  Figure m_plain;
  Figure m_bits;
};

}  // namespace mb::ui
