// A message at the top of the panel it concerns, with what to do next.
#pragma once

#include <QFrame>

class QLabel;
class QPushButton;

namespace mb::ui {

class MessageStrip : public QFrame {
  Q_OBJECT

 public:
  explicit MessageStrip(QWidget* parent = nullptr);

  /// Shows an error. `action` names a button, or is empty for none.
  void showError(const QString& text, const QString& action = {});
  QString text() const;

 signals:
  void actionTriggered();

 private:
  QLabel* m_text;
  QPushButton* m_action;
};

}  // namespace mb::ui
