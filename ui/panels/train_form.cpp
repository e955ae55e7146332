#include "ui/panels/train_form.h"

#include <QFileDialog>
#include <QFileInfo>
#include <QHBoxLayout>
#include <QLabel>
#include <QSpinBox>
#include <QToolButton>
#include <algorithm>

#include "engine/error.h"
#include "engine/model/random_weights.h"
#include "engine/resources.h"
#include "ui/widgets/choice.h"
#include "ui/widgets/model_names.h"

namespace mb::ui {

namespace {

/// New models, by width and layers.
constexpr std::pair<std::size_t, std::size_t> kShapes[] = {{96, 2}, {192, 4}, {256, 6}, {512, 8}};
/// Highest learning rates to choose from; a model that has learned something wants a lower one.
constexpr double kRates[] = {1e-4, 3e-4, 1e-3, 3e-3};
constexpr double kRateOfOpenModels = 1e-3;
constexpr double kRateOfNewModels = 3e-3;
constexpr double kHeldOut = 0.1;
constexpr std::size_t kValidationTokens = 2048;
/// Least seconds between two validations, with a sample each; a run has about this many.
constexpr double kReportSeconds = 5;
constexpr double kReports = 12;
constexpr double kReportSecondsOfSteps = 15;
constexpr double kCheckpointSeconds = 30;
constexpr std::size_t kStreamsOfOpenModels = 2;
constexpr int kWidestChoice = 210;

enum class Budget { Minutes, Steps };

/// The folder of the texts that come with the program, or nothing.
QString sampleTexts() {
  try {
    return QString::fromStdString(findResource("texts").string());
  } catch (const Error&) {
    return {};
  }
}

}  // namespace

TrainForm::TrainForm(QWidget* parent)
    : QWidget(parent),
      m_text(new QToolButton(this)),
      m_model(new Choice(this)),
      m_device(new Choice(this)),
      m_budget(new QSpinBox(this)),
      m_unit(new Choice(this)),
      m_rate(new Choice(this)) {
  m_text->setSizePolicy(QSizePolicy::Expanding, QSizePolicy::Fixed);
  m_text->setAccessibleName(tr("Text to train on"));
  m_model->setAccessibleName(tr("Model to train"));
  m_model->setToolTip(tr("Go on with an open model, or begin a new one"));
  m_model->setMaximumWidth(kWidestChoice);
  m_device->setAccessibleName(tr("Processor to train on"));
  m_device->setToolTip(tr("The processor that trains"));
  m_device->setMaximumWidth(kWidestChoice / 2);
  m_budget->setRange(1, 1'000'000);
  m_budget->setValue(2);
  m_budget->setAccessibleName(tr("Budget"));
  m_budget->setToolTip(tr("How long to train (minutes, or steps of the optimiser)"));
  m_unit->addItem(tr("minutes"), static_cast<int>(Budget::Minutes));
  m_unit->addItem(tr("steps"), static_cast<int>(Budget::Steps));
  m_unit->setAccessibleName(tr("Unit of the budget"));
  m_unit->setToolTip(
      tr("Of minutes, the first steps are timed, and as many planned as fit into the rest"));
  m_rate->setAccessibleName(tr("Learning rate"));
  m_rate->setToolTip(tr("The highest learning rate; lower it when the loss jumps"));
  for (const double rate : kRates) m_rate->addItem(QString::number(rate, 'g', 1), rate);
  connect(m_text, &QToolButton::clicked, this, &TrainForm::chooseFiles);
  connect(m_model, &QComboBox::currentIndexChanged, this, &TrainForm::suggestRate);
  buildRows();
  fillModels();
  fillDevices({{DeviceKind::Cpu, 0, "CPU", {}}});
  setFiles({});
}

void TrainForm::buildRows() {
  auto* column = new QVBoxLayout(this);
  column->setContentsMargins(0, 0, 0, 0);
  column->setSpacing(6);
  auto* what = new QHBoxLayout;
  addTo(*what, tr("Text"), m_text);
  addTo(*what, tr("Model"), m_model);
  auto* how = new QHBoxLayout;
  addTo(*how, tr("Budget"), m_budget);
  how->addWidget(m_unit);
  addTo(*how, tr("Rate"), m_rate);
  addTo(*how, tr("Device"), m_device);
  how->addStretch(1);
  for (QHBoxLayout* row : {what, how}) {
    row->setSpacing(6);
    column->addLayout(row);
  }
}

void TrainForm::addTo(QHBoxLayout& row, const QString& name, QWidget* editor) {
  auto* label = new QLabel(name, this);
  label->setProperty("role", "dim");
  row.addWidget(label);
  row.addWidget(editor);
}

void TrainForm::setModels(const ModelsLoaded& models) {
  m_models = {models.verifier};
  if (models.drafter) m_models.push_back(*models.drafter);
  fillModels();
  fillDevices(models.devices);
}

void TrainForm::fillModels() {
  const int chosen = m_model->currentIndex();
  m_model->clear();
  for (const DescribedModel& model : m_models)
    m_model->addItem(tr("fine-tune %1").arg(titleOf(model)));
  for (const auto& [width, layers] : kShapes)
    m_model->addItem(
        tr("new, %1 parameters")
            .arg(parameterText(shapeOf(width, layers, kByteVocabulary).parameterCount())));
  m_model->setCurrentIndex(std::clamp(chosen, 0, m_model->count() - 1));
  suggestRate();
}

/// A GPU is taken by itself, the first time that there is one to choose.
void TrainForm::fillDevices(const std::vector<DeviceEntry>& devices) {
  const bool offersGpu = m_devices.size() < 2 && devices.size() > 1;
  const int chosen = offersGpu ? 1 : m_device->currentIndex();
  m_devices = devices;
  m_device->clear();
  for (const DeviceEntry& device : devices) m_device->addItem(QString::fromStdString(device.name));
  m_device->setCurrentIndex(std::clamp(chosen, 0, m_device->count() - 1));
}

void TrainForm::suggestRate() {
  const bool isOpen = m_model->currentIndex() < static_cast<int>(m_models.size());
  m_rate->setCurrentIndex(m_rate->findData(isOpen ? kRateOfOpenModels : kRateOfNewModels));
}

void TrainForm::chooseFiles() {
  const QStringList files = QFileDialog::getOpenFileNames(
      this, tr("Texts to train on (also .xz or .zst)"),
      m_files.isEmpty() ? sampleTexts() : QFileInfo(m_files.constFirst()).path());
  if (!files.isEmpty()) setFiles(files);
}

void TrainForm::setFiles(const QStringList& files) {
  m_files = files;
  const QString first = files.isEmpty() ? QString() : QFileInfo(files.constFirst()).fileName();
  m_text->setText(files.isEmpty()     ? tr("Choose…")
                  : files.size() == 1 ? first
                                      : tr("%1 and %2 more").arg(first).arg(files.size() - 1));
  m_text->setToolTip(files.isEmpty() ? tr("One or more files to train on; .xz and .zst too")
                                     : files.join(u'\n'));
  emit changed();
}

QString TrainForm::summary() const {
  return tr("%1 · %2").arg(m_text->text(), m_model->currentText());
}

TrainingPlan TrainForm::plan() const {
  TrainingPlan plan;
  for (const QString& file : m_files) plan.files.emplace_back(file.toStdString());
  plan.heldOut = kHeldOut;
  plan.validationTokens = kValidationTokens;
  const auto model = static_cast<std::size_t>(m_model->currentIndex());
  if (model < m_models.size()) {
    plan.model = m_models[model].info.folder;
    plan.options.streams = kStreamsOfOpenModels;
  } else {
    const auto& [width, layers] = kShapes[model - m_models.size()];
    plan.shape = shapeOf(width, layers, kByteVocabulary);
  }
  const DeviceEntry& device = m_devices[static_cast<std::size_t>(m_device->currentIndex())];
  plan.device.kind = device.kind;
  plan.device.cudaDevice = device.cudaDevice;
  plan.memory = (device.memory.total - device.memory.used) / 2;  // models write on it, too
  plan.options.learningRate = m_rate->currentData().toDouble();
  double reports = kReportSecondsOfSteps;
  if (static_cast<Budget>(m_unit->currentData().toInt()) == Budget::Minutes) {
    plan.minutes = m_budget->value();
    plan.fitSteps = true;
    reports = std::max(kReportSeconds, 60 * plan.minutes / kReports);
  } else {
    plan.options.steps = static_cast<std::uint64_t>(m_budget->value());
    plan.options.warmUp = std::min(plan.options.warmUp, plan.options.steps / 10);
  }
  plan.validations = plan.samples = {.seconds = reports};
  plan.checkpoints = {.seconds = kCheckpointSeconds};
  plan.reportAtStart = true;
  return plan;
}

}  // namespace mb::ui
