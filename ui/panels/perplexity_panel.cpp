#include "ui/panels/perplexity_panel.h"

#include <QLabel>
#include <QToolButton>
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "engine/evaluation/evaluation.h"
#include "ui/widgets/byte_names.h"
#include "ui/widgets/byte_plot.h"
#include "ui/widgets/choice.h"
#include "ui/widgets/title_bar.h"

namespace mb::ui {

namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
/// Bytes above this surprisal are drawn in the colour of rejection: less likely than 1 in 64.
constexpr double kTallBits = 6;
/// Least pixels between two ticks of the value axis.
constexpr double kTickRoom = 18;
/// Points a curve has at least when there are bytes for them, also while the plot is not laid out.
constexpr double kLeastPoints = 200;

}  // namespace

PerplexityPanel::PerplexityPanel(Document& document, ByteAxis& axis, LinkedPosition& linked,
                                 const Theme& theme, QWidget* parent)
    : Panel(QStringLiteral("perplexity"), tr("Perplexity"), parent),
      m_document(document),
      m_axis(axis),
      m_theme(theme),
      m_plot(new BytePlot(axis, linked, theme, this)),
      m_legend(new Legend(this)),
      m_window(new Choice(this)),
      m_dismiss(new QToolButton(this)),
      m_words(new QLabel(this)) {
  m_plot->setAccessibleName(tr("Surprisal of every byte and running bits per byte"));
  m_plot->setReadout([this](double byte, double) { return readout(byte); });
  m_window->addItem(tr("running: all"), 0);
  for (const int bytes : {32, 128, 512})
    m_window->addItem(tr("running: last %1").arg(bytes), bytes);
  m_window->setAccessibleName(tr("Bytes the running mean covers"));
  m_window->setToolTip(tr("Bytes the running mean of surprisal covers"));
  m_dismiss->setText(tr("Dismiss old curve"));
  m_dismiss->setAccessibleName(m_dismiss->text());
  m_dismiss->setToolTip(tr("Forget the curve from before the edit"));
  m_dismiss->hide();
  m_words->setProperty("role", "dim");
  m_words->setToolTip(tr("exp(total surprisal in nats / words), words as wc -w counts them"));
  titleBar().add(m_legend);
  titleBar().add(m_words);
  titleBar().add(m_dismiss);
  titleBar().add(m_window);
  buildGraphs();
  setContent(m_plot, tr("Type a prompt: how much each byte surprises the model appears here"));

  connect(m_window, &QComboBox::currentIndexChanged, this, &Panel::markDirty);
  connect(m_dismiss, &QToolButton::clicked, &document, &Document::dismissGhost);
  connect(&document, &Document::textChanged, this, &PerplexityPanel::truncate);
  connect(&document, &Document::scoresChanged, this, &PerplexityPanel::setScores);
  connect(&document, &Document::ghostChanged, this, &PerplexityPanel::followGhost);
  connect(&axis, &ByteAxis::changed, this, &Panel::markDirty);
  connect(&linked, &LinkedPosition::changed, this, &Panel::markDirty);
  connect(&theme, &Theme::changed, this, &Panel::markDirty);
}

void PerplexityPanel::buildGraphs() {
  m_bars = m_plot->addGraph();
  m_tallBars = m_plot->addGraph();
  for (QCPGraph* bars : {m_bars, m_tallBars}) bars->setLineStyle(QCPGraph::lsImpulse);
  m_ghost = m_plot->addGraph();
  m_running = m_plot->addGraph();
  m_plot->yAxis->setLabel(tr("bits"));
  m_ticker = QSharedPointer<QCPAxisTickerFixed>::create();
  m_ticker->setScaleStrategy(QCPAxisTickerFixed::ssNone);
  m_plot->yAxis->setTicker(m_ticker);
}

void PerplexityPanel::truncate(std::size_t size) {
  m_sums.resize(std::min(size, m_sums.size() - 1) + 1);
  markDirty();
}

/// Sums are kept for the scored start of the text; a gap ends them.
void PerplexityPanel::setScores(std::size_t first, std::size_t) {
  truncate(first);
  for (std::size_t i = m_sums.size() - 1; i < m_document.scoredTo(); ++i) {
    Sum sum = m_sums.back();
    if (m_document.isScored(i)) {
      sum.bits += static_cast<double>(m_document.record(i).surprisal);
      ++sum.scored;
    }
    const auto before = i > 0 ? std::optional(m_document.byte(i - 1)) : std::nullopt;
    if (startsWord(before, m_document.byte(i))) ++sum.words;
    m_sums.push_back(sum);
  }
}

void PerplexityPanel::followGhost() {
  m_ghostSums.assign(1, {});
  for (std::size_t i = 0; m_document.hasGhost() && i < m_document.size(); ++i) {
    Sum sum = m_ghostSums.back();
    const float ghost = m_document.ghost(i);
    if (!std::isnan(ghost)) {
      sum.bits += static_cast<double>(ghost);
      ++sum.scored;
    }
    m_ghostSums.push_back(sum);
  }
  markDirty();
}

double PerplexityPanel::bitsPerByte() const {
  return m_sums.back().scored > 0 ? m_sums.back().bits / m_sums.back().scored : 0;
}

double PerplexityPanel::wordPerplexity() const {
  const Sum& all = m_sums.back();
  if (all.words == 0 || all.scored == 0) return 0;
  return std::exp(all.bits * std::numbers::ln2 / all.words);
}

double PerplexityPanel::runningOf(const std::vector<Sum>& sums, std::size_t byte) const {
  const auto window = static_cast<std::size_t>(m_window->currentData().toInt());
  const std::size_t first = window == 0 || byte + 1 < window ? 0 : byte + 1 - window;
  const std::uint32_t scored = sums[byte + 1].scored - sums[first].scored;
  return scored > 0 ? (sums[byte + 1].bits - sums[first].bits) / scored : kNone;
}

double PerplexityPanel::runningAt(std::size_t byte) const {
  return byte + 1 < m_sums.size() ? runningOf(m_sums, byte) : kNone;
}

double PerplexityPanel::surprisalAt(std::size_t byte) const {
  const bool known = byte + 1 < m_sums.size() && m_document.isScored(byte);
  return known ? static_cast<double>(m_document.record(byte).surprisal) : kNone;
}

/// 1, or so many that no pixel gets more than one point.
std::size_t PerplexityPanel::bytesPerPoint() const {
  const double bytes = m_axis.upper() - m_axis.lower();
  const double pixels = std::max<double>(kLeastPoints, m_plot->axisRect()->width());
  return static_cast<std::size_t>(std::max(1.0, std::ceil(bytes / pixels)));
}

/// Hands out the bytes of every point in view, of `known` bytes in all, and the point's place.
void PerplexityPanel::forEachPoint(
    std::size_t known,
    const std::function<void(std::size_t first, std::size_t last, double x)>& use) const {
  const std::size_t step = bytesPerPoint();
  const auto lower = static_cast<std::size_t>(std::max(0.0, m_axis.lower()));
  const std::size_t upper =
      std::min(known, static_cast<std::size_t>(std::ceil(m_axis.upper())) + step);
  for (std::size_t first = lower / step * step; first < upper; first += step) {
    const std::size_t last = std::min(first + step, known);
    use(first, last, static_cast<double>(first + last) / 2);
  }
}

/// A point that stands for several bytes shows the tallest bar among them and the running mean
/// behind them.
void PerplexityPanel::refreshCurves() {
  for (QCPGraph* graph : {m_bars, m_tallBars, m_running}) graph->data()->clear();
  forEachPoint(m_sums.size() - 1, [this](std::size_t first, std::size_t last, double x) {
    double tallest = kNone;
    for (std::size_t i = first; i < last; ++i) tallest = std::fmax(tallest, surprisalAt(i));
    m_bars->addData(x, tallest <= kTallBits ? tallest : kNone);
    m_tallBars->addData(x, tallest > kTallBits ? tallest : kNone);
    m_running->addData(x, runningAt(last - 1));
  });
}

void PerplexityPanel::refreshGhost() {
  const bool shown = m_document.hasGhost();
  m_dismiss->setVisible(shown);
  m_plot->setChangeMark(shown ? std::optional(m_document.firstChanged()) : std::nullopt);
  m_ghost->data()->clear();
  forEachPoint(m_ghostSums.size() - 1, [this](std::size_t, std::size_t last, double x) {
    const bool known = !std::isnan(m_document.ghost(last - 1));
    m_ghost->addData(x, known ? runningOf(m_ghostSums, last - 1) : kNone);
  });
}

double PerplexityPanel::tallestShown() const {
  double tallest = 0;
  for (const QCPGraph* graph : {m_bars, m_tallBars, m_running})
    for (const QCPGraphData& point : *graph->data())
      if (point.value > tallest) tallest = point.value;
  return tallest;
}

void PerplexityPanel::refreshLegend() {
  const Colors& colors = m_theme.colors();
  QList<Legend::Entry> entries = {
      {tr("surprisal"), colors.bar, Legend::Mark::Swatch},
      {tr("over 6 bits"), colors.rejected, Legend::Mark::Swatch},
      {tr("running mean"), colors.ink, Legend::Mark::Line},
  };
  if (m_document.hasGhost())
    entries.append({tr("before the edit"), colors.dim, Legend::Mark::Dashes});
  m_legend->setEntries(entries);
  const double perplexity = wordPerplexity();
  m_words->setText(perplexity > 0 ? tr("word perplexity %1").arg(perplexity, 0, 'f', 0)
                                  : QString());
}

void PerplexityPanel::refresh() {
  const Colors& colors = m_theme.colors();
  setEmpty(m_document.isEmpty());
  m_plot->applyTheme();
  m_bars->setPen(QPen(colors.bar));
  QColor tall = colors.rejected;
  tall.setAlpha(200);
  m_tallBars->setPen(QPen(tall));
  m_running->setPen(QPen(colors.ink));
  m_ghost->setPen(QPen(colors.dim, 1, Qt::DashLine));
  refreshCurves();
  refreshGhost();
  refreshLegend();
  m_plot->setByteCount(m_document.size());
  m_plot->syncAxis();
  // The value axis grows in steps, so that it does not jump with every byte.
  double top = 4;
  while (top < tallestShown()) top += 4;
  double step = 2;
  const double room = std::max<double>(kTickRoom, m_plot->axisRect()->height());  // none, unseen
  while (top / step * kTickRoom > room) step *= 2;
  m_ticker->setTickStep(step);
  m_plot->yAxis->setRange(0, top);
  m_plot->replot(QCustomPlot::rpQueuedReplot);
}

QString PerplexityPanel::readout(double byte) const {
  const auto i = static_cast<std::size_t>(byte);
  if (i >= m_document.size()) return {};
  const QString name = byteName(m_document.byte(i));
  if (!m_document.isScored(i)) return tr("byte %1, %2: not scored").arg(i).arg(name);
  const ByteRecord& record = m_document.record(i);
  return tr("byte %1, %2: %3 bits, rank %4; running %5 bits/byte")
      .arg(i)
      .arg(name)
      .arg(static_cast<double>(record.surprisal), 0, 'f', 2)
      .arg(record.rank + 1)
      .arg(runningAt(i), 0, 'f', 3);
}

}  // namespace mb::ui
