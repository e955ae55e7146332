// A number with its name above it, in a row of several.
#pragma once

class QHBoxLayout;
class QLabel;
class QString;

namespace mb::ui {

struct Figure {
  QLabel* value = nullptr;
  QLabel* name = nullptr;
};

/// Adds a figure that shows "–" to a row. `meaning` is its tool tip, unit included.
Figure addFigure(QHBoxLayout& row, const QString& name, const QString& meaning);

}  // namespace mb::ui
