// The style sheet of the application, made from the theme's colours.
#pragma once

#include <QString>

namespace mb::ui {

struct Colors;

QString styleSheet(const Colors& colors);

}  // namespace mb::ui
