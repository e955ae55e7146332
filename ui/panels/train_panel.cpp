#include "ui/panels/train_panel.h"

#include <QFileDialog>
#include <QHBoxLayout>
#include <QLabel>
#include <QLocale>
#include <QProgressBar>
#include <QPushButton>
#include <QScrollArea>
#include <cmath>

#include "ui/bridge/messages.h"
#include "ui/panels/train_form.h"
#include "ui/panels/train_plot.h"
#include "ui/panels/train_samples.h"
#include "ui/widgets/elided_label.h"
#include "ui/widgets/message_strip.h"
#include "ui/widgets/title_bar.h"

namespace mb::ui {

namespace {

constexpr int kBarHeight = 8;
constexpr int kLeastHeight = 120;
constexpr int kLeastPlotHeight = 120;

/// "1 min 20 s"
QString duration(double seconds) {
  const auto whole = static_cast<qlonglong>(std::ceil(seconds));
  if (whole < 60) return TrainPanel::tr("%1 s").arg(whole);
  if (whole < 3600) return TrainPanel::tr("%1 min %2 s").arg(whole / 60).arg(whole % 60);
  return TrainPanel::tr("%1 h %2 min").arg(whole / 3600).arg(whole % 3600 / 60);
}

/// Scrolls upwards and downwards where there is little room, so that the panel fits any window.
QScrollArea* scrolled(QWidget* content) {
  auto* area = new QScrollArea(content->parentWidget());
  area->setFrameShape(QFrame::NoFrame);
  area->setWidgetResizable(true);
  area->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
  area->setFocusPolicy(Qt::NoFocus);
  area->setWidget(content);
  area->setMinimumSize(content->minimumSizeHint().width(), kLeastHeight);
  return area;
}

QString bits(double value) {
  return QString::number(value, 'f', 3);
}

}  // namespace

TrainPanel::TrainPanel(const Theme& theme, QWidget* parent)
    : Panel(QStringLiteral("train"), tr("Train"), parent),
      m_theme(theme),
      m_runs(TrainingRuns::standardFolder()),
      m_legend(new Legend(this)) {
  titleBar().add(m_legend);
  setContent(scrolled(makeContent()), {});
  setEmpty(false);  // the form is there from the beginning
  followLink();
  setRuns(m_runs);
}

QWidget* TrainPanel::makeContent() {
  auto* content = new QWidget(this);
  auto* column = new QVBoxLayout(content);
  column->setContentsMargins(12, 8, 12, 8);
  column->setSpacing(6);
  m_messages = new MessageStrip(content);
  m_form = new TrainForm(content);
  column->addWidget(m_messages);
  column->addWidget(m_form);
  column->addLayout(makeButtons());
  m_hint = new QLabel(content);
  m_hint->setProperty("role", "hint");
  m_hint->setAlignment(Qt::AlignCenter);
  m_hint->setWordWrap(true);
  m_progress = makeProgress();
  column->addWidget(m_hint, 1);
  column->addWidget(m_progress, 1);
  return content;
}

QLayout* TrainPanel::makeButtons() {
  auto* row = new QHBoxLayout;
  row->setSpacing(6);
  m_buttons.start = makeButton({}, {}, {});  // as updateButtons() says
  m_buttons.start->setProperty("role", "primary");
  m_buttons.pause = makeButton(tr("Pause"), tr("Pause training"), tr("Halt; nothing is lost"));
  m_buttons.stop =
      makeButton(tr("Stop"), tr("Stop training"), tr("End here and keep a checkpoint"));
  m_buttons.keep =
      makeButton(tr("Keep…"), tr("Keep the trained model"),
                 tr("Save the weights as a model folder (transformers layout) and open it"));
  for (QPushButton* button : {m_buttons.start, m_buttons.pause, m_buttons.stop, m_buttons.keep})
    row->addWidget(button);
  row->addStretch(1);
  connect(m_buttons.start, &QPushButton::clicked, this, &TrainPanel::startOrAsk);
  connect(m_buttons.pause, &QPushButton::clicked, this, &TrainPanel::pauseOrGoOn);
  connect(m_buttons.stop, &QPushButton::clicked, &m_link, &TrainingLink::stop);
  connect(m_buttons.keep, &QPushButton::clicked, this, &TrainPanel::keep);
  return row;
}

QPushButton* TrainPanel::makeButton(const QString& text, const QString& name,
                                    const QString& meaning) {
  auto* button = new QPushButton(text, this);
  button->setAccessibleName(name);
  button->setToolTip(meaning);
  return button;
}

QWidget* TrainPanel::makeProgress() {
  auto* progress = new QWidget(this);
  auto* column = new QVBoxLayout(progress);
  column->setContentsMargins(0, 0, 0, 0);
  column->setSpacing(6);
  m_bar = new QProgressBar(progress);
  m_bar->setTextVisible(false);
  m_bar->setFixedHeight(kBarHeight);
  m_bar->setAccessibleName(tr("Progress of the training"));
  m_status = new ElidedLabel(progress);
  m_status->setAlignment(Qt::AlignLeft | Qt::AlignVCenter);
  m_status->setProperty("role", "dim");
  m_plot = new TrainPlot(m_link.history(), m_theme, progress);
  m_plot->setMinimumHeight(kLeastPlotHeight);
  m_samples = new TrainSamples(m_link.history(), progress);
  column->addWidget(m_status);
  column->addWidget(m_bar);
  column->addLayout(makeFigures(progress));
  column->addWidget(m_plot, 3);
  column->addWidget(m_samples, 3);
  return progress;
}

QLayout* TrainPanel::makeFigures(QWidget* parent) {
  auto* holder = new QWidget(parent);
  auto* row = new QHBoxLayout(holder);
  row->setContentsMargins(0, 0, 0, 0);
  m_loss = addFigure(*row, tr("training"), tr("Loss of the newest step (bits per byte)"));
  m_validation = addFigure(*row, tr("validation"),
                           tr("Loss on the end of the text, which is not trained on (bits per "
                              "byte)"));
  m_speed = addFigure(*row, tr("bytes/s"), tr("Bytes of text read a second"));
  m_rate = addFigure(*row, tr("rate"), tr("Learning rate of the newest step"));
  m_left = addFigure(*row, tr("left"), tr("Time until the end, by what steps take here"));
  auto* outer = new QHBoxLayout;
  outer->addWidget(holder);
  return outer;
}

void TrainPanel::followLink() {
  connect(&m_link, &TrainingLink::changed, this, [this] {
    updateButtons();
    markDirty();
  });
  connect(&m_link, &TrainingLink::failed, this, &TrainPanel::showError);
  connect(&m_link, &TrainingLink::kept, this, &TrainPanel::kept);
  connect(m_form, &TrainForm::changed, this, &TrainPanel::updateButtons);
  connect(&m_theme, &Theme::changed, this, &Panel::markDirty);
}

void TrainPanel::setModels(const ModelsLoaded& models) {
  m_form->setModels(models);
}

void TrainPanel::setRuns(const TrainingRuns& runs) {
  m_runs = runs;
  m_unfinished = m_runs.unfinished();
  updateButtons();
  markDirty();
}

void TrainPanel::startOrAsk() {
  if (m_form->isVisibleTo(this)) return start();
  m_another = true;
  updateButtons();
}

void TrainPanel::start() {
  m_messages->hide();
  m_unfinished.reset();
  m_another = false;
  titleBar().setNote(m_form->summary());
  TrainingPlan plan = m_form->plan();
  plan.folder = m_runs.newFolder();
  m_link.start(plan);
}

void TrainPanel::pauseOrGoOn() {
  m_messages->hide();
  if (m_link.state() == TrainingState::Training) return m_link.pause();
  if (m_link.canGoOn()) return m_link.goOn();
  if (!m_unfinished) return;
  titleBar().setNote(m_unfinished->text);
  m_link.startAgain(std::exchange(m_unfinished, std::nullopt)->folder);
}

void TrainPanel::keep() {
  const QString folder = QFileDialog::getSaveFileName(this, tr("Keep the model in a new folder"),
                                                      QStringLiteral("my-model"), {}, nullptr,
                                                      QFileDialog::DontConfirmOverwrite);
  if (!folder.isEmpty()) m_link.keep(folder.toStdString());
}

void TrainPanel::showError(const QString& problem) {
  m_messages->showError(problem);
}

/// The form makes room for the course of a training until another is wanted.
void TrainPanel::updateButtons() {
  const TrainingState state = m_link.state();
  const bool paused = state == TrainingState::Paused;
  const bool ended = state == TrainingState::Ended;
  const bool waits = !m_link.isBusy() && (m_link.canGoOn() || m_unfinished);
  const bool asks = state == TrainingState::Idle || (ended && m_another);
  m_form->setVisible(asks);
  m_buttons.start->setVisible(asks || ended);
  m_buttons.start->setEnabled(!asks || !m_form->files().isEmpty());
  m_buttons.start->setText(asks ? tr("Train") : tr("New…"));
  m_buttons.start->setAccessibleName(asks ? tr("Start training") : tr("New training"));
  m_buttons.start->setToolTip(asks ? tr("Begin to train the model on the text")
                                   : tr("Choose what to train next"));
  m_buttons.pause->setEnabled(state == TrainingState::Training || waits);
  m_buttons.pause->setText(waits ? tr("Resume") : tr("Pause"));
  m_buttons.pause->setAccessibleName(waits ? tr("Resume training") : tr("Pause training"));
  m_buttons.stop->setEnabled(m_link.isBusy() || paused);
  m_buttons.keep->setEnabled(m_link.hasModel() && !m_link.history().steps.empty());
}

void TrainPanel::refresh() {
  const TrainingHistory& history = m_link.history();
  const bool any = history.started.has_value();
  const Colors& colors = m_theme.colors();
  m_legend->setEntries(
      any ? QList<Legend::Entry>{{tr("training"), colors.accent, Legend::Mark::Line},
                                 {tr("validation"), colors.ink, Legend::Mark::Line}}
          : QList<Legend::Entry>());
  m_hint->setText(hintText());
  m_hint->setVisible(!any);  // no stack: labels that wrap would ask for more height than there is
  m_progress->setVisible(any);
  if (!any) return;
  updateFigures();
  m_plot->refresh();
  m_samples->refresh();
}

void TrainPanel::updateFigures() {
  const TrainingHistory& history = m_link.history();
  const QString none = QStringLiteral("–");
  const TrainingStepped* last = history.steps.empty() ? nullptr : &history.steps.back();
  m_loss.value->setText(last ? bits(last->bitsPerByte) : none);
  m_validation.value->setText(
      history.validations.empty() ? none : bits(history.validations.back().bitsPerByte));
  m_speed.value->setText(last ? QLocale().toString(last->bytesPerSecond, 'f', 0) : none);
  m_rate.value->setText(last ? QString::number(last->step.learningRate, 'e', 1) : none);
  m_left.value->setText(last && m_link.isBusy() ? duration(last->secondsLeft) : none);
  m_status->setFullText(statusText());
  m_bar->setRange(0, static_cast<int>(history.stepsInAll()));
  m_bar->setValue(last ? static_cast<int>(last->step.step) : 0);
}

QString TrainPanel::statusText() const {
  const TrainingHistory& history = m_link.history();
  const auto step = history.steps.empty() ? std::uint64_t{0} : history.steps.back().step.step;
  const QString place = tr("step %1 of %2").arg(step).arg(history.stepsInAll());
  switch (m_link.state()) {
    case TrainingState::Idle: return {};
    case TrainingState::Preparing: return tr("Reading text and model");
    case TrainingState::Paused: return tr("Paused at %1. %2").arg(place, estimateText());
    case TrainingState::Ended: return tr("Ended at %1. Keep the model to write with it").arg(place);
    case TrainingState::Training: break;
  }
  if (history.stepsInAll() == 0) return tr("Timing the first steps");
  return tr("Training, %1. %2").arg(place, estimateText());
}

/// How long it takes on this machine, in words.
QString TrainPanel::estimateText() const {
  const TrainingHistory& history = m_link.history();
  if (history.fitted)
    return tr("A step takes %1 s here: %2 passes over the text fit")
        .arg(history.fitted->secondsPerStep, 0, 'g', 2)
        .arg(history.fitted->passes, 0, 'f', 1);
  if (history.steps.empty()) return {};
  const TrainingStepped& last = history.steps.back();
  const double pass = static_cast<double>(history.started->tokens) / last.tokensPerSecond;
  return tr("One pass over the text takes %1 here").arg(duration(pass));
}

QString TrainPanel::hintText() const {
  if (m_link.state() == TrainingState::Preparing) return tr("Reading text and model…");
  if (m_unfinished)
    return tr("The training on %1 ended at step %2 of %3. Resume goes on with it, or choose a "
              "text and begin another.")
        .arg(m_unfinished->text)
        .arg(m_unfinished->step)
        .arg(m_unfinished->steps);
  return tr(
      "Choose a text: the model learns from it while you watch what it writes. On a CPU use "
      "short texts and a few minutes.");
}

}  // namespace mb::ui
