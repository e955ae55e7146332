// How every plot looks.
#pragma once

class QCustomPlot;

namespace mb::ui {

struct Colors;

/// Ground, axes, ticks and grid in the theme's colours.
void applyColors(QCustomPlot& plot, const Colors& colors);

}  // namespace mb::ui
