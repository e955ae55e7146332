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
      m_words(new QLabel(this)),
      m_bits(1, 0.0),
      m_counts(1, 0.0) {
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

  connect(m_window, &QComboBox::currentIndexChanged, this, [this] {
    m_curveFrom = 0;
    m_ghostStale = true;
    markDirty();
  });
  connect(m_dismiss, &QToolButton::clicked, &document, &Document::dismissGhost);
  connect(&document, &Document::textChanged, this, &PerplexityPanel::truncate);
  connect(&document, &Document::scoresChanged, this, &PerplexityPanel::setScores);
  connect(&document, &Document::ghostChanged, this, [this] {
    m_ghostStale = true;
    markDirty();
  });
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
  const std::size_t known = std::min(size, m_bits.size() - 1);
  m_bits.resize(known + 1);
  m_counts.resize(known + 1);
  m_curveFrom = std::min(m_curveFrom, known);
  markDirty();
}

/// Sums are kept for the scored start of the text; a gap ends them.
void PerplexityPanel::setScores(std::size_t first, std::size_t) {
  truncate(std::min(first, m_bits.size() - 1));
  for (std::size_t i = m_bits.size() - 1; i < m_document.scoredTo(); ++i) {
    const bool scored = m_document.isScored(i);
    m_bits.push_back(m_bits.back() +
                     (scored ? static_cast<double>(m_document.record(i).surprisal) : 0));
    m_counts.push_back(m_counts.back() + (scored ? 1 : 0));
  }
}

double PerplexityPanel::bitsPerByte() const {
  return m_counts.back() > 0 ? m_bits.back() / m_counts.back() : 0;
}

double PerplexityPanel::wordPerplexity() const {
  const std::uint64_t words = countWords(m_document.bytes(0, m_bits.size() - 1));
  if (words == 0 || m_counts.back() == 0) return 0;
  return std::exp(m_bits.back() * std::numbers::ln2 / static_cast<double>(words));
}

double PerplexityPanel::runningOf(const std::vector<double>& bits,
                                  const std::vector<double>& counts, std::size_t byte) const {
  const auto window = static_cast<std::size_t>(m_window->currentData().toInt());
  const std::size_t first = window == 0 || byte + 1 < window ? 0 : byte + 1 - window;
  const double count = counts[byte + 1] - counts[first];
  return count > 0 ? (bits[byte + 1] - bits[first]) / count : kNone;
}

double PerplexityPanel::runningAt(std::size_t byte) const {
  return byte + 1 < m_bits.size() ? runningOf(m_bits, m_counts, byte) : kNone;
}

/// Graph points have the byte's index as their place, so that only what changed is written.
void PerplexityPanel::refreshCurves() {
  const std::size_t known = m_bits.size() - 1;
  for (QCPGraph* graph : {m_bars, m_tallBars, m_running})
    graph->data()->removeAfter(static_cast<double>(m_curveFrom) + 0.25);
  for (std::size_t i = m_curveFrom; i < known; ++i) {
    const double x = static_cast<double>(i) + 0.5;
    const double bits =
        m_document.isScored(i) ? static_cast<double>(m_document.record(i).surprisal) : kNone;
    m_bars->addData(x, bits <= kTallBits ? bits : kNone);
    m_tallBars->addData(x, bits > kTallBits ? bits : kNone);
    m_running->addData(x, runningAt(i));
  }
  m_curveFrom = known;
}

void PerplexityPanel::refreshGhost() {
  if (!m_ghostStale) return;
  m_ghostStale = false;
  m_ghost->data()->clear();
  m_dismiss->setVisible(m_document.hasGhost());
  m_plot->setChangeMark(m_document.hasGhost() ? std::optional(m_document.firstChanged())
                                              : std::nullopt);
  if (!m_document.hasGhost()) return;
  std::vector<double> bits(1, 0.0);
  std::vector<double> counts(1, 0.0);
  for (std::size_t i = 0; i < m_document.size(); ++i) {
    const float ghost = m_document.ghost(i);
    const bool known = !std::isnan(ghost);
    bits.push_back(bits.back() + (known ? static_cast<double>(ghost) : 0));
    counts.push_back(counts.back() + (known ? 1 : 0));
    m_ghost->addData(static_cast<double>(i) + 0.5, known ? runningOf(bits, counts, i) : kNone);
  }
}

double PerplexityPanel::tallestShown() const {
  double tallest = 0;
  for (const QCPGraph* graph : {m_bars, m_tallBars, m_running}) {
    const auto end = graph->data()->findEnd(m_axis.upper());
    for (auto point = graph->data()->findBegin(m_axis.lower()); point != end; ++point)
      if (point->value > tallest) tallest = point->value;
  }
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
