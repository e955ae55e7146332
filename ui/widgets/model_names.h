// Names of models for people.
#pragma once

#include <QString>

#include "engine/export/run_export.h"

namespace mb::ui {

/// "books · 14M"
QString titleOf(const DescribedModel& model);
/// "14M"
QString parameterText(std::size_t parameters);

}  // namespace mb::ui
