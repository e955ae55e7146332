// Small windows that only show something.
#pragma once

#include <QDialog>

#include "ui/bridge/messages.h"

class QAction;

namespace mb::ui {

/// Shapes, sizes, types and files of the open models.
class DetailsDialog : public QDialog {
  Q_OBJECT

 public:
  DetailsDialog(const ModelsLoaded& models, QWidget* parent);
};

/// Every action with its keys.
class ShortcutsDialog : public QDialog {
  Q_OBJECT

 public:
  ShortcutsDialog(const QList<QAction*>& actions, QWidget* parent);
};

}  // namespace mb::ui
