// The row at the top of a panel: its name, and the panel's own controls and legend.
#pragma once

#include <QWidget>

class QHBoxLayout;
class QLabel;
class QToolButton;

namespace mb::ui {

class ElidedLabel;

class TitleBar : public QWidget {
  Q_OBJECT

 public:
  explicit TitleBar(const QString& title, QWidget* parent = nullptr);

  /// Adds a control at the right.
  void add(QWidget* control);
  /// A line of dim text before the controls; elided when there is no room.
  void setNote(const QString& note);
  /// Shows a button that asks to close the panel.
  void setClosable(bool closable);

  QSize sizeHint() const override;
  QSize minimumSizeHint() const override { return {60, sizeHint().height()}; }

 signals:
  void closeRequested();

 private:
  QHBoxLayout* m_row;
  ElidedLabel* m_note;
  QToolButton* m_close;
};

/// What colours mean: swatches with names beside them.
class Legend : public QWidget {
  Q_OBJECT

 public:
  enum class Mark { Swatch, Line, Dashes, Struck };
  struct Entry {
    QString text;
    QColor color;
    Mark mark = Mark::Swatch;
  };

  explicit Legend(QWidget* parent = nullptr);
  void setEntries(const QList<Entry>& entries);
  QSize sizeHint() const override;
  QSize minimumSizeHint() const override { return {0, sizeHint().height()}; }

 protected:
  void paintEvent(QPaintEvent* event) override;

 private:
  int widthOf(const Entry& entry) const;

  QList<Entry> m_entries;
};

}  // namespace mb::ui
