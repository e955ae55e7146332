#include "ui/panels/train_plot.h"

#include <QToolTip>
#include <algorithm>
#include <cmath>

#include "ui/widgets/plot_style.h"

namespace mb::ui {

namespace {

/// The value axis begins and ends at multiples of this, so that it does not jump with every step.
constexpr double kBitsStep = 0.25;
constexpr double kMark = 5;  ///< pixels of a validation's mark

}  // namespace

TrainPlot::TrainPlot(const TrainingHistory& history, const Theme& theme, QWidget* parent)
    : QCustomPlot(parent),
      m_history(history),
      m_theme(theme),
      m_training(addGraph()),
      m_validation(addGraph()) {
  setMouseTracking(true);
  setFocusPolicy(Qt::NoFocus);
  setNotAntialiasedElements(QCP::aeAll);
  setAccessibleName(tr("Bits per byte of training and validation by step"));
  xAxis->setLabel(tr("step"));
  xAxis->grid()->setVisible(false);
  xAxis->setNumberFormat(QStringLiteral("f"));
  xAxis->setNumberPrecision(0);
  const auto whole = QSharedPointer<QCPAxisTickerFixed>::create();
  whole->setTickStep(1);
  whole->setScaleStrategy(QCPAxisTickerFixed::ssMultiples);
  whole->setTickCount(6);
  xAxis->setTicker(whole);
  yAxis->setLabel(tr("bits/byte"));
  yAxis->ticker()->setTickCount(4);
}

void TrainPlot::refresh() {
  const Colors& colors = m_theme.colors();
  applyColors(*this, colors);
  m_training->setPen(QPen(colors.accent));
  m_validation->setPen(QPen(colors.ink));
  m_validation->setScatterStyle({QCPScatterStyle::ssDisc, colors.ink, kMark});
  m_training->data()->clear();
  for (const TrainingStepped& stepped : m_history.steps)
    m_training->addData(static_cast<double>(stepped.step.step), stepped.bitsPerByte);
  m_validation->data()->clear();
  for (const TrainingValidated& validated : m_history.validations)
    m_validation->addData(static_cast<double>(validated.step), validated.bitsPerByte);
  fitAxes();
  replot(QCustomPlot::rpQueuedReplot);
}

void TrainPlot::fitAxes() {
  double last = static_cast<double>(m_history.stepsInAll());
  double low = std::numeric_limits<double>::max();
  double high = 0;
  for (const QCPGraph* graph : {m_training, m_validation}) {
    for (const QCPGraphData& point : *graph->data()) {
      last = std::max(last, point.key);
      low = std::min(low, point.value);
      high = std::max(high, point.value);
    }
  }
  xAxis->setRange(0, std::max(1.0, last));
  if (high <= 0) return;
  yAxis->setRange(std::floor(low / kBitsStep) * kBitsStep,
                  (std::floor(high / kBitsStep) + 1) * kBitsStep);
}

void TrainPlot::mouseMoveEvent(QMouseEvent* event) {
  const QString text = axisRect()->rect().contains(event->position().toPoint())
                           ? readout(std::round(xAxis->pixelToCoord(event->position().x())))
                           : QString();
  if (text.isEmpty())
    QToolTip::hideText();
  else
    QToolTip::showText(event->globalPosition().toPoint(), text, this);
}

/// The step's loss and the last validation up to it.
QString TrainPlot::readout(double step) const {
  QStringList parts;
  const auto training = m_training->data()->findBegin(step, false);
  if (training != m_training->data()->constEnd() && training->key <= step)
    parts += tr("training %1").arg(training->value, 0, 'f', 3);
  const auto validation = std::find_if(
      m_history.validations.rbegin(), m_history.validations.rend(),
      [step](const TrainingValidated& v) { return static_cast<double>(v.step) <= step; });
  if (validation != m_history.validations.rend())
    parts += tr("validation %1 (after step %2)")
                 .arg(validation->bitsPerByte, 0, 'f', 3)
                 .arg(validation->step);
  return parts.isEmpty()
             ? QString()
             : tr("step %1: %2 bits/byte").arg(step, 0, 'f', 0).arg(parts.join(tr(", ")));
}

}  // namespace mb::ui
