#include "ui/widgets/figure.h"

#include <QHBoxLayout>
#include <QLabel>

namespace mb::ui {

Figure addFigure(QHBoxLayout& row, const QString& name, const QString& meaning) {
  QWidget* parent = row.parentWidget();
  const Figure figure{new QLabel(QStringLiteral("–"), parent), new QLabel(name, parent)};
  figure.value->setProperty("role", "number");
  figure.name->setProperty("role", "dim");
  auto* box = new QVBoxLayout;
  box->setSpacing(0);
  box->addWidget(figure.name);
  box->addWidget(figure.value);
  row.addLayout(box, 1);
  for (QLabel* label : {figure.value, figure.name}) label->setToolTip(meaning);
  return figure;
}

}  // namespace mb::ui
