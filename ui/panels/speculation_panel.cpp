#include "ui/panels/speculation_panel.h"

#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QPushButton>
#include <QVBoxLayout>

#include "ui/widgets/title_bar.h"

namespace mb::ui {

namespace {

constexpr int kRoomForChart = 400;  ///< height of a panel

}  // namespace

SpeculationPanel::SpeculationPanel(Document& document, LinkedPosition& linked, const Theme& theme,
                                   QWidget* parent)
    : Panel(QStringLiteral("speculation"), tr("Speculation"), parent), m_document(document) {
  auto* content = new QWidget(this);
  auto* column = new QVBoxLayout(content);
  column->setContentsMargins(12, 10, 12, 8);
  column->setSpacing(6);
  column->addWidget(makeFigures());
  m_chart = new AcceptanceChart(theme, content);
  m_chart->hide();
  column->addWidget(m_chart, 3);
  m_strip = new RoundStrip(document, linked, theme, content);
  column->addWidget(m_strip, 2);
  auto* foot = new QHBoxLayout;
  m_tokens = new QLabel(content);
  m_tokens->setProperty("role", "dim");
  m_speedUp = new QLabel(content);
  m_speedUp->setProperty("role", "dim");
  m_compare = new QPushButton(tr("Compare with plain"), content);
  m_compare->setAccessibleName(m_compare->text());
  m_compare->setToolTip(
      tr("Decode the bytes of this run again without speculation and compare the "
         "times"));
  connect(m_compare, &QPushButton::clicked, this, &SpeculationPanel::comparisonWanted);
  foot->addWidget(m_tokens, 1);
  foot->addWidget(m_speedUp);
  foot->addWidget(m_compare);
  column->addLayout(foot);
  titleBar().setNote(tr("accepted / tested, this run"));
  setContent(content, tr("Generate with a drafter: each round of draft and verify appears here"));
  connect(&document, &Document::roundsChanged, this, &Panel::markDirty);
  connect(&document, &Document::textChanged, this, &Panel::markDirty);
  connect(&linked, &LinkedPosition::changed, m_strip, qOverload<>(&QWidget::update));
  connect(&theme, &Theme::changed, m_strip, qOverload<>(&QWidget::update));
  connect(&theme, &Theme::changed, m_chart, qOverload<>(&QWidget::update));
}

QWidget* SpeculationPanel::makeFigures() {
  auto* figures = new QWidget(this);
  auto* row = new QHBoxLayout(figures);
  row->setContentsMargins(0, 0, 0, 0);
  m_accepted = addFigure(*row, tr("accepted"),
                         tr("Drafted bytes accepted, of those that were tested (percent)"));
  m_length = addFigure(*row, tr("mean length"), tr("Accepted bytes a round (bytes)"));
  m_perRound = addFigure(*row, tr("per round"),
                         tr("Bytes written a round, corrections and bonus included (bytes)"));
  m_split = addFigure(*row, tr("draft / verify / other"),
                      tr("Where the time of a round goes; other is correction, roll-back and "
                         "bookkeeping (percent)"));
  return figures;
}

void SpeculationPanel::setRunStart(std::int32_t firstRound) {
  m_firstRound = firstRound;
  setComparison(std::nullopt);
}

void SpeculationPanel::setComparison(const std::optional<PlainComparison>& comparison) {
  m_comparison = comparison;
  markDirty();
}

void SpeculationPanel::setComparing(bool comparing) {
  m_compare->setEnabled(!comparing);
  m_compare->setText(comparing ? tr("Comparing…") : tr("Compare with plain"));
}

SpeculationTotals SpeculationPanel::totals() const {
  SpeculationTotals totals;
  for (const RoundRecord& round : m_document.rounds())
    if (round.index >= m_firstRound) totals.add(round);
  return totals;
}

void SpeculationPanel::refresh() {
  setEmpty(m_document.rounds().empty());
  showTotals(totals());
  m_strip->update();
}

void SpeculationPanel::resizeEvent(QResizeEvent* event) {
  Panel::resizeEvent(event);
  m_chart->setVisible(height() >= kRoomForChart);
}

void SpeculationPanel::showTotals(const SpeculationTotals& totals) {
  const auto percent = [](double share) { return QString::number(share * 100, 'f', 0); };
  const bool any = totals.rounds > 0;
  const QString none = QStringLiteral("–");
  m_accepted.value->setText(any ? tr("%1 %").arg(percent(totals.acceptance())) : none);
  m_length.value->setText(any ? tr("%1 B").arg(totals.meanAcceptedLength(), 0, 'f', 1) : none);
  m_perRound.value->setText(any ? tr("%1 B").arg(totals.bytesPerRound(), 0, 'f', 1) : none);
  m_chart->setCounts(totals.testedAt, totals.acceptedAt);
  const double all = totals.times.total;
  if (all > 0) {
    const double draft = totals.times.draft / all;
    const double verify = totals.times.verify / all;
    m_split.value->setText(
        tr("%1 · %2 · %3 %").arg(percent(draft), percent(verify), percent(1 - draft - verify)));
  } else {
    m_split.value->setText(none);
  }
  m_tokens->setText(any ? tr("%1 rounds · by token %2 %")
                              .arg(totals.rounds)
                              .arg(percent(totals.tokenAcceptance()))
                        : QString());
  showComparison(totals);
}

void SpeculationPanel::showComparison(const SpeculationTotals& totals) {
  QString text;
  QString explanation;
  if (m_comparison && m_comparison->ratio() > 0) {
    const double ratio = m_comparison->ratio();
    const double plainRate = static_cast<double>(m_comparison->bytes) / m_comparison->plainSeconds;
    // What rounds of the same length would have to write to be as fast as plain decoding.
    const double even = totals.bytesPerRound() / ratio;
    text = tr("%1× plain · even at %2 B").arg(ratio, 0, 'f', 2).arg(even, 0, 'f', 1);
    explanation =
        tr("Plain decoding writes %1 bytes/s. A round takes as long as %2 bytes of it: speculation "
           "is worth it where a round writes more. Here it wrote %3.")
            .arg(plainRate, 0, 'f', 0)
            .arg(even, 0, 'f', 1)
            .arg(totals.bytesPerRound(), 0, 'f', 1);
  }
  m_speedUp->setText(text);
  m_speedUp->setToolTip(explanation);
}

}  // namespace mb::ui
