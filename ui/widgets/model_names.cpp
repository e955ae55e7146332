#include "ui/widgets/model_names.h"

#include <QCoreApplication>

namespace mb::ui {

namespace {

QString tr(const char* text) {
  return QCoreApplication::translate("mb::ui::ModelNames", text);
}

}  // namespace

QString parameterText(std::size_t parameters) {
  const double count = static_cast<double>(parameters);
  if (count >= 1e9) return tr("%1B").arg(count * 1e-9, 0, 'f', 1);
  if (count >= 1e6) return tr("%1M").arg(count * 1e-6, 0, 'f', 0);
  return tr("%1K").arg(count * 1e-3, 0, 'f', 0);
}

QString titleOf(const DescribedModel& model) {
  return tr("%1 · %2").arg(QString::fromStdString(model.info.name),
                           parameterText(model.config.parameterCount()));
}

}  // namespace mb::ui
