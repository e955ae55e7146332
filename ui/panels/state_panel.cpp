#include "ui/panels/state_panel.h"

#include <QVariantAnimation>
#include <algorithm>
#include <cmath>
#include <limits>

#include "ui/widgets/byte_names.h"
#include "ui/widgets/byte_plot.h"
#include "ui/widgets/choice.h"
#include "ui/widgets/title_bar.h"

namespace mb::ui {

namespace {

/// The colour range leaves out this share of the values at either end, so that one outlier does not
/// flatten the picture.
constexpr double kOutliers = 0.02;
constexpr int kEasingMilliseconds = 200;
constexpr std::size_t kMostColumns = 900;
constexpr int kAskAgainMilliseconds = 1500;

}  // namespace

StatePanel::StatePanel(Document& document, TraceStore& traces, ByteAxis& axis,
                       LinkedPosition& linked, const Theme& theme, QWidget* parent)
    : Panel(QStringLiteral("state"), tr("State"), parent),
      m_document(document),
      m_traces(traces),
      m_axis(axis),
      m_theme(theme),
      m_plot(new BytePlot(axis, linked, theme, this)),
      m_kind(new Choice(this)),
      m_layer(new Choice(this)),
      m_view(new Choice(this)),
      m_easing(new QVariantAnimation(this)) {
  buildControls();
  buildPlot();
  setContent(m_plot, tr("Type a prompt: what the model keeps of each byte appears here"));
  m_easing->setDuration(kEasingMilliseconds);
  connect(m_easing, &QVariantAnimation::valueChanged, this, &Panel::markDirty);
  connect(&document, &Document::textChanged, &traces, &TraceStore::truncate);
  connect(&document, &Document::textChanged, this, &Panel::markDirty);
  connect(&traces, &TraceStore::changed, this, &Panel::markDirty);
  connect(&axis, &ByteAxis::changed, this, &Panel::markDirty);
  connect(&linked, &LinkedPosition::changed, this, &Panel::markDirty);
  connect(&theme, &Theme::changed, this, &Panel::markDirty);
}

void StatePanel::buildControls() {
  m_kind->addItem(tr("Δ"), static_cast<int>(TapKind::Delta));
  m_kind->addItem(tr("state norm"), static_cast<int>(TapKind::StateNorm));
  m_kind->addItem(tr("mean Ā"), static_cast<int>(TapKind::Decay));
  m_kind->setAccessibleName(tr("Quantity"));
  m_kind->setToolTip(
      tr("Δ: how much the block listens to a byte · state norm ‖s‖: how much it "
         "remembers · mean Ā: how much of the past survives a byte"));
  m_layer->setAccessibleName(tr("Layer"));
  m_layer->setToolTip(tr("Layer shown by channel"));
  m_view->addItem(tr("channels × bytes"), static_cast<int>(StateView::ChannelsByBytes));
  m_view->addItem(tr("layers × bytes"), static_cast<int>(StateView::LayersByBytes));
  m_view->setAccessibleName(tr("Rows of the heatmap"));
  m_view->setToolTip(tr("Channels of one layer, or the mean of every layer"));
  for (Choice* box : {m_kind, m_layer, m_view}) titleBar().add(box);
  connect(m_kind, &QComboBox::currentIndexChanged, this, &Panel::markDirty);
  connect(m_view, &QComboBox::currentIndexChanged, this, [this] {
    m_layer->setEnabled(view() == StateView::ChannelsByBytes);
    markDirty();
  });
  connect(m_layer, &QComboBox::currentIndexChanged, this, [this](int index) {
    if (index >= 0) emit layerChanged(static_cast<std::size_t>(index));
    markDirty();
  });
}

void StatePanel::buildPlot() {
  m_plot->setAccessibleName(tr("Heatmap of the model's state over the text"));
  m_plot->setReadout([this](double byte, double row) { return readout(byte, row); });
  m_map = new QCPColorMap(m_plot->xAxis, m_plot->yAxis);
  m_map->setInterpolate(false);
  m_map->setTightBoundary(true);
  m_scale = new QCPColorScale(m_plot);
  m_plot->plotLayout()->addElement(0, 1, m_scale);
  m_scale->setType(QCPAxis::atRight);
  m_scale->setBarWidth(12);
  m_scale->setRangeDrag(false);
  m_scale->setRangeZoom(false);
  m_map->setColorScale(m_scale);
  auto* margins = new QCPMarginGroup(m_plot);
  m_plot->axisRect()->setMarginGroup(QCP::msBottom | QCP::msTop, margins);
  m_scale->setMarginGroup(QCP::msBottom | QCP::msTop, margins);
  m_scale->setMinimumMargins(QMargins(6, 0, 34, 0));
  m_plot->yAxis->ticker()->setTickCount(4);
  m_plot->yAxis->grid()->setVisible(false);
}

void StatePanel::setModel(std::size_t layers, std::size_t channels) {
  m_channels = channels;
  const int middle = static_cast<int>(layers) / 2;
  const int before = m_layer->currentIndex() < 0 ? middle : m_layer->currentIndex();
  m_layer->blockSignals(true);
  m_layer->clear();
  for (std::size_t i = 0; i < layers; ++i) m_layer->addItem(tr("layer %1").arg(i));
  m_layer->setCurrentIndex(std::min(before, static_cast<int>(layers) - 1));
  m_layer->blockSignals(false);
  emit layerChanged(static_cast<std::size_t>(std::max(0, m_layer->currentIndex())));
  markDirty();
}

void StatePanel::setKind(TapKind kind) {
  m_kind->setCurrentIndex(static_cast<int>(kind));
}
TapKind StatePanel::kind() const {
  return static_cast<TapKind>(m_kind->currentData().toInt());
}
void StatePanel::setView(StateView view) {
  m_view->setCurrentIndex(static_cast<int>(view));
}
StateView StatePanel::view() const {
  return static_cast<StateView>(m_view->currentData().toInt());
}
void StatePanel::setLayer(std::size_t layer) {
  m_layer->setCurrentIndex(static_cast<int>(layer));
}

void StatePanel::setViridis(bool viridis) {
  m_viridis = viridis;
  markDirty();
}

const TracePyramid& StatePanel::pyramid() const {
  return view() == StateView::ChannelsByBytes ? m_traces.byChannel(kind())
                                              : m_traces.byLayer(kind());
}

std::size_t StatePanel::rows() const {
  return pyramid().width();
}

double StatePanel::valueAt(std::size_t byte, std::size_t row) const {
  const auto value = row < rows() ? pyramid().nearest(byte, row) : std::nullopt;
  return value ? static_cast<double>(*value) : std::numeric_limits<double>::quiet_NaN();
}

double StatePanel::bytesInView() const {
  const double upper = std::min(std::ceil(m_axis.upper()), static_cast<double>(m_document.size()));
  return std::max(1.0, upper - std::floor(m_axis.lower()));
}

/// A column of the map shows one byte, or several where there is no room for all.
double StatePanel::bytesPerColumn() const {
  return std::max(1.0, bytesInView() / static_cast<double>(kMostColumns));
}

void StatePanel::fillMap() {
  const double lower = std::floor(m_axis.lower());
  const double span = bytesInView();
  const auto columns = static_cast<std::size_t>(std::round(span / bytesPerColumn()));
  QCPColorMapData& cells = *m_map->data();
  cells.setSize(static_cast<int>(columns), static_cast<int>(std::max<std::size_t>(rows(), 1)));
  const double width = span / static_cast<double>(columns);
  cells.setRange(QCPRange(lower + width / 2, lower + span - width / 2),
                 QCPRange(0.5, static_cast<double>(std::max<std::size_t>(rows(), 1)) - 0.5));
  std::vector<float> mean;
  std::vector<float> shown;
  for (std::size_t column = 0; column < columns; ++column) {
    const auto first = static_cast<std::size_t>(lower + width * static_cast<double>(column));
    const auto last = std::max(
        first + 1, static_cast<std::size_t>(lower + width * static_cast<double>(column + 1)));
    const bool known = pyramid().mean(first, last, mean);
    for (std::size_t row = 0; row < rows(); ++row) {
      const int x = static_cast<int>(column);
      const int y = static_cast<int>(row);
      cells.setCell(x, y, known ? static_cast<double>(mean[row]) : 0);
      cells.setAlpha(x, y, known ? 255 : 0);
    }
    if (known) shown.insert(shown.end(), mean.begin(), mean.end());
  }
  if (shown.empty()) return;
  const auto at = [&](double share) {
    const auto place = static_cast<std::ptrdiff_t>(share * static_cast<double>(shown.size() - 1));
    std::nth_element(shown.begin(), shown.begin() + place, shown.end());
    return static_cast<double>(shown[static_cast<std::size_t>(place)]);
  };
  const double low = at(kOutliers);
  const double high = at(1 - kOutliers);
  easeRange(low, high > low ? high : low + 1e-6);
}

/// Moves the colour range towards its target over a moment, and not at all for small changes.
void StatePanel::easeRange(double low, double high) {
  const double tolerance = 0.1 * (m_targetHigh - m_targetLow);
  const bool far =
      std::abs(low - m_targetLow) > tolerance || std::abs(high - m_targetHigh) > tolerance;
  if (far) {
    m_targetLow = low;
    m_targetHigh = high;
    m_easing->stop();
    m_easing->setStartValue(QPointF(m_low, m_high));
    m_easing->setEndValue(QPointF(low, high));
    m_easing->start();
  }
  const QPointF now = m_easing->currentValue().toPointF();
  if (now.y() > now.x()) {
    m_low = now.x();
    m_high = now.y();
  }
  m_map->setDataRange(QCPRange(m_low, m_high));
}

void StatePanel::askForMissing() {
  const auto lower = static_cast<std::size_t>(std::max(0.0, m_axis.lower()));
  const std::size_t upper =
      std::min(static_cast<std::size_t>(std::ceil(m_axis.upper())), m_document.scoredTo());
  const auto span = static_cast<std::size_t>(bytesPerColumn());
  std::size_t first = lower;
  while (first < upper && pyramid().isKnown(first, span)) ++first;
  std::size_t last = upper;
  while (last > first && pyramid().isKnown(last - 1, span)) --last;
  // The newest byte has been written, but not read yet: nobody knows its taps.
  if (first + 1 >= last) return;
  const bool asked = m_asked.contains(m_document.revision(), m_traces.layer(), first, last);
  if (asked && !m_asked.since.hasExpired(kAskAgainMilliseconds)) return;
  m_asked = {m_document.revision(), m_traces.layer(), first, last, QElapsedTimer()};
  m_asked.since.start();
  emit tapsWanted(first, last);
}

void StatePanel::refresh() {
  const Colors& colors = m_theme.colors();
  setEmpty(m_document.isEmpty());
  m_plot->applyTheme();
  m_plot->yAxis->setLabel(view() == StateView::ChannelsByBytes ? tr("channel") : tr("layer"));
  m_scale->axis()->setTickLabelColor(colors.dim);
  m_scale->axis()->setTickLabelFont(m_plot->xAxis->tickLabelFont());
  m_scale->axis()->setBasePen(QPen(colors.line));
  m_scale->axis()->setTickPen(QPen(colors.line));
  m_scale->axis()->setSubTickPen(Qt::NoPen);
  m_scale->axis()->ticker()->setTickCount(3);

  QCPColorGradient gradient;
  gradient.clearColorStops();
  const auto& map = m_viridis ? Theme::viridis() : Theme::cividis();
  for (int i = 0; i < 256; i += 5)
    gradient.setColorStopAt(i / 255.0, QColor::fromRgb(map[static_cast<std::size_t>(i)]));
  m_map->setGradient(gradient);

  const double height = static_cast<double>(std::max<std::size_t>(rows(), 1));
  const auto ticker = QSharedPointer<QCPAxisTickerText>::create();
  const bool channels = view() == StateView::ChannelsByBytes;
  const double last = channels ? static_cast<double>(m_channels) - 1 : height - 1;
  for (const double share : {0.0, 0.5, 1.0})
    ticker->addTick(0.5 + share * (height - 1), QString::number(std::round(share * last)));
  m_plot->yAxis->setTicker(ticker);
  m_plot->yAxis->setRange(0, height);
  m_plot->setByteCount(m_document.size());
  m_plot->setChangeMark(m_document.hasGhost() ? std::optional(m_document.firstChanged())
                                              : std::nullopt);
  m_plot->syncAxis();
  fillMap();
  askForMissing();
  m_plot->replot(QCustomPlot::rpQueuedReplot);
}

QString StatePanel::readout(double byte, double row) const {
  const auto i = static_cast<std::size_t>(byte);
  const auto r = static_cast<std::size_t>(std::max(0.0, row));
  if (i >= m_document.size() || r >= rows()) return {};
  const double value = valueAt(i, r);
  const QString place = view() == StateView::ChannelsByBytes
                            ? tr("layer %1, channels %2–%3")
                                  .arg(m_traces.layer())
                                  .arg(r * m_channels / rows())
                                  .arg((r + 1) * m_channels / rows() - 1)
                            : tr("layer %1").arg(r);
  return tr("byte %1, %2 · %3 · %4 %5")
      .arg(i)
      .arg(byteName(m_document.byte(i)), place, m_kind->currentText(),
           std::isnan(value) ? tr("not read yet") : QString::number(value, 'g', 4));
}

}  // namespace mb::ui
