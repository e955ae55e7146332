#include "ui/widgets/plot_style.h"

#include <qcustomplot.h>

#include "ui/theme/theme.h"

namespace mb::ui {

void applyColors(QCustomPlot& plot, const Colors& colors) {
  plot.setBackground(colors.panel);
  plot.axisRect()->setBackground(colors.panel);
  for (QCPAxis* axis : {plot.xAxis, plot.yAxis, plot.xAxis2, plot.yAxis2}) {
    axis->setBasePen(QPen(colors.line));
    axis->setTickPen(QPen(colors.line));
    axis->setSubTickPen(Qt::NoPen);
    axis->setTickLabelColor(colors.dim);
    axis->setLabelColor(colors.dim);
    QFont font = Theme::interfaceFont();
    font.setPixelSize(11);
    axis->setTickLabelFont(font);
    axis->setLabelFont(font);
    axis->setTickLength(0, 3);
    axis->setSubTickLength(0, 0);
    axis->setTickLabelPadding(4);
    axis->setLabelPadding(1);
    axis->grid()->setPen(QPen(colors.line));
    axis->grid()->setZeroLinePen(QPen(colors.line));
  }
}

}  // namespace mb::ui
