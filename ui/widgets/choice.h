// A combo box whose arrow follows the theme.
#pragma once

#include <QComboBox>

namespace mb::ui {

class Choice : public QComboBox {
  Q_OBJECT

 public:
  explicit Choice(QWidget* parent = nullptr);

  QSize sizeHint() const override;
  QSize minimumSizeHint() const override { return sizeHint(); }

 protected:
  void paintEvent(QPaintEvent* event) override;
  /// The wheel scrolls the page under the pointer; it does not change a choice by accident.
  void wheelEvent(QWheelEvent* event) override;
};

}  // namespace mb::ui
