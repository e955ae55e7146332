// What all panels share: a title row, a body, and repainting at the window's steady rate.
#pragma once

#include <QDockWidget>

class QLabel;
class QStackedLayout;

namespace mb::ui {

class TitleBar;

/// A dock with our own title row. Data that arrives marks it dirty; the window's clock then calls
/// refreshIfNeeded(), which does nothing for a panel that nobody sees.
class Panel : public QDockWidget {
  Q_OBJECT

 public:
  /// `name` identifies the panel in saved layouts.
  Panel(const QString& name, const QString& title, QWidget* parent);

  void markDirty() { m_dirty = true; }
  void refreshIfNeeded();
  /// True when some of it is on the screen.
  bool isSeen() const;

 protected:
  TitleBar& titleBar() { return *m_titleBar; }
  /// The widget that the panel is about, and the line shown in its place while there is nothing.
  void setContent(QWidget* content, const QString& emptyHint);
  void setEmpty(bool empty);
  bool isEmpty() const;
  QString emptyHint() const;

  virtual void refresh() = 0;
  void showEvent(QShowEvent* event) override;

 private:
  TitleBar* m_titleBar;
  QStackedLayout* m_stack = nullptr;
  QLabel* m_hint = nullptr;
  bool m_dirty = true;
};

}  // namespace mb::ui
