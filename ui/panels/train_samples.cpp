#include "ui/panels/train_samples.h"

#include <QGridLayout>
#include <QLabel>
#include <QPlainTextEdit>

#include "ui/theme/theme.h"
#include "ui/widgets/byte_names.h"
#include "ui/widgets/choice.h"

namespace mb::ui {

namespace {

constexpr double kZoom = 0.75;  ///< of the text's 16 pixels
constexpr int kLeastHeight = 40;

QString nameOf(const TrainingSampled& sample) {
  return sample.step == 0 ? TrainSamples::tr("before training")
                          : TrainSamples::tr("after step %1").arg(sample.step);
}

/// Replaces only what changed, so that the view does not scroll back.
void setText(QPlainTextEdit& view, const QString& text) {
  if (view.toPlainText() != text) view.setPlainText(text);
}

}  // namespace

TrainSamples::TrainSamples(const TrainingHistory& history, QWidget* parent)
    : QWidget(parent),
      m_history(history),
      m_earlier(new Choice(this)),
      m_newest(new QLabel(this)),
      m_earlierText(makeText(tr("Earlier sample"))),
      m_newestText(makeText(tr("Newest sample"))) {
  m_earlier->setAccessibleName(tr("Earlier sample to compare with"));
  m_earlier->setToolTip(tr("Which earlier sample to show beside the newest"));
  m_newest->setProperty("role", "dim");
  auto* grid = new QGridLayout(this);
  grid->setContentsMargins(0, 0, 0, 0);
  grid->setSpacing(6);
  grid->addWidget(m_earlier, 0, 0, Qt::AlignLeft);
  grid->addWidget(m_newest, 0, 1);
  grid->addWidget(m_earlierText, 1, 0);
  grid->addWidget(m_newestText, 1, 1);
  grid->setRowStretch(1, 1);
  for (const int column : {0, 1}) grid->setColumnStretch(column, 1);
  connect(m_earlier, &QComboBox::currentIndexChanged, this, &TrainSamples::showEarlier);
}

QPlainTextEdit* TrainSamples::makeText(const QString& name) {
  auto* text = new QPlainTextEdit(this);
  text->setReadOnly(true);
  text->setTabChangesFocus(true);
  text->setFont(Theme::monoFont(kZoom));
  text->setAccessibleName(name);
  text->setMinimumHeight(kLeastHeight);
  text->setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Expanding);
  return text;
}

void TrainSamples::refresh() {
  const auto& samples = m_history.samples;
  if (samples.size() < m_shown) {  // another training
    m_shown = 0;
    m_earlier->clear();
  }
  for (; m_shown < samples.size(); ++m_shown) m_earlier->addItem(nameOf(samples[m_shown]));
  m_newest->setText(samples.empty() ? QString() : tr("%1, newest").arg(nameOf(samples.back())));
  setText(*m_newestText, samples.empty() ? QString() : readableText(samples.back().text));
  showEarlier();
}

void TrainSamples::showEarlier() {
  const auto index = static_cast<std::size_t>(std::max(0, m_earlier->currentIndex()));
  const bool there = index < m_history.samples.size();
  setText(*m_earlierText, there ? readableText(m_history.samples[index].text) : QString());
}

}  // namespace mb::ui
