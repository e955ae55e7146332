#include "ui/window/run_settings.h"

#include <QCheckBox>
#include <QDoubleSpinBox>
#include <QGridLayout>
#include <QHBoxLayout>
#include <QLabel>
#include <QSettings>
#include <QSpinBox>
#include <limits>

#include "ui/widgets/choice.h"

namespace mb::ui {

RunSettings RunSettings::defaults() {
  RunSettings settings;
  settings.generation.speculation = Speculation::Exact;
  settings.generation.leastConfidence = 0.3;
  settings.generation.sampler.temperature = 0.8;
  settings.generation.sampler.topK = 40;
  settings.generation.sampler.seed = 7;
  return settings;
}

void RunSettings::save(QSettings& settings) const {
  const SamplerSettings& sampler = generation.sampler;
  settings.setValue("run/speculation", static_cast<int>(generation.speculation));
  settings.setValue("run/draftTokens", static_cast<int>(generation.draftTokens));
  settings.setValue("run/beta", static_cast<int>(generation.beta));
  settings.setValue("run/healing", generation.healing);
  settings.setValue("run/confidence", generation.leastConfidence);
  settings.setValue("run/cutsDrafts", generation.cutsDrafts);
  settings.setValue("run/temperature", sampler.temperature);
  settings.setValue("run/topK", static_cast<int>(sampler.topK));
  settings.setValue("run/topP", sampler.topP);
  settings.setValue("run/minP", sampler.minP);
  settings.setValue("run/repetitionPenalty", sampler.repetitionPenalty);
  settings.setValue("run/seed", static_cast<qulonglong>(sampler.seed));
  settings.setValue("run/bytes", static_cast<qulonglong>(bytes));
}

RunSettings RunSettings::load(const QSettings& settings) {
  RunSettings run = defaults();
  GenerationSettings& generation = run.generation;
  SamplerSettings& sampler = generation.sampler;
  const auto integer = [&](const char* key, std::size_t fallback) {
    return static_cast<std::size_t>(
        settings.value(key, static_cast<qulonglong>(fallback)).toULongLong());
  };
  const auto real = [&](const char* key, double fallback) {
    return settings.value(key, fallback).toDouble();
  };
  generation.speculation = static_cast<Speculation>(std::min<std::size_t>(
      integer("run/speculation", static_cast<std::size_t>(generation.speculation)),
      static_cast<std::size_t>(Speculation::TopBeta)));
  generation.draftTokens = integer("run/draftTokens", generation.draftTokens);
  generation.beta = integer("run/beta", generation.beta);
  generation.healing = settings.value("run/healing", generation.healing).toBool();
  generation.leastConfidence = real("run/confidence", generation.leastConfidence);
  generation.cutsDrafts = settings.value("run/cutsDrafts", generation.cutsDrafts).toBool();
  sampler.temperature = real("run/temperature", sampler.temperature);
  sampler.topK = integer("run/topK", sampler.topK);
  sampler.topP = real("run/topP", sampler.topP);
  sampler.minP = real("run/minP", sampler.minP);
  sampler.repetitionPenalty = real("run/repetitionPenalty", sampler.repetitionPenalty);
  sampler.seed = integer("run/seed", sampler.seed);
  run.bytes = integer("run/bytes", run.bytes);
  return run;
}

RunSettingsEditor::RunSettingsEditor(QWidget* parent)
    : QObject(parent), m_row(new QWidget(parent)), m_grid(new QWidget(parent)) {
  buildRow();
  buildGrid();
  setSettings(RunSettings::defaults());
}

QSpinBox* RunSettingsEditor::integer(int least, int most, const QString& name,
                                     const QString& meaning) {
  auto* box = new QSpinBox;
  box->setRange(least, most);
  box->setAccessibleName(name);
  box->setToolTip(meaning);
  connect(box, &QSpinBox::valueChanged, this, &RunSettingsEditor::changed);
  return box;
}

QDoubleSpinBox* RunSettingsEditor::real(double least, double most, double step, const QString& name,
                                        const QString& meaning) {
  auto* box = new QDoubleSpinBox;
  box->setRange(least, most);
  box->setSingleStep(step);
  box->setDecimals(2);
  box->setAccessibleName(name);
  box->setToolTip(meaning);
  connect(box, &QDoubleSpinBox::valueChanged, this, &RunSettingsEditor::changed);
  return box;
}

QCheckBox* RunSettingsEditor::flag(const QString& name, const QString& meaning) {
  auto* box = new QCheckBox(name);
  box->setAccessibleName(name);
  box->setToolTip(meaning);
  connect(box, &QCheckBox::toggled, this, &RunSettingsEditor::changed);
  return box;
}

void RunSettingsEditor::addToRow(const QString& label, QWidget* editor) {
  auto* name = new QLabel(label, m_row);
  name->setProperty("role", "dim");
  name->setBuddy(editor);
  m_row->layout()->addWidget(name);
  m_row->layout()->addWidget(editor);
}

void RunSettingsEditor::addToGrid(const QString& label, QWidget* editor) {
  auto* grid = static_cast<QGridLayout*>(m_grid->layout());
  const int row = grid->rowCount();
  auto* name = new QLabel(label, m_grid);
  name->setProperty("role", "dim");
  name->setBuddy(editor);
  grid->addWidget(name, row, 0);
  grid->addWidget(editor, row, 1);
}

void RunSettingsEditor::buildRow() {
  auto* row = new QHBoxLayout(m_row);
  row->setContentsMargins(0, 0, 0, 0);
  row->setSpacing(6);
  m_speculation = new Choice;
  m_speculation->addItem(tr("Off"), static_cast<int>(Speculation::Off));
  m_speculation->addItem(tr("Exact"), static_cast<int>(Speculation::Exact));
  m_speculation->addItem(tr("Top-β"), static_cast<int>(Speculation::TopBeta));
  m_speculation->setAccessibleName(tr("Speculation"));
  m_speculation->setToolTip(
      tr("Exact: byte for byte what plain decoding writes · Top-β: a drafted "
         "byte stands while it ranks within the verifier's top β"));
  connect(m_speculation, &QComboBox::currentIndexChanged, this, [this] {
    updateEnabled();
    emit changed();
  });
  m_draftTokens = integer(1, 16, tr("Tokens drafted a round"), tr("m: tokens drafted a round"));
  m_draftTokens->setPrefix(tr("m "));
  m_temperature = real(0, 5, 0.1, tr("Temperature"), tr("Temperature; 0 is greedy"));
  m_topK = integer(0, 256, tr("Top k"), tr("Keep the k most probable bytes; 0 keeps all"));
  m_seed = integer(0, std::numeric_limits<int>::max(), tr("Seed"), tr("Same seed, same bytes"));
  const std::pair<QWidget*, int> widths[] = {
      {m_draftTokens, 46}, {m_temperature, 48}, {m_topK, 40}, {m_seed, 56}};
  for (const auto& [editor, width] : widths) editor->setFixedWidth(width);
  addToRow(tr("Speculation"), m_speculation);
  row->addWidget(m_draftTokens);
  addToRow(tr("T"), m_temperature);
  addToRow(tr("top-k"), m_topK);
  addToRow(tr("Seed"), m_seed);
}

void RunSettingsEditor::buildGrid() {
  auto* grid = new QGridLayout(m_grid);
  grid->setContentsMargins(12, 10, 12, 12);
  grid->setColumnStretch(1, 1);
  m_bytes =
      integer(1, 100'000'000, tr("Bytes to write"), tr("Bytes that one press of Generate writes"));
  m_beta = integer(1, 256, tr("Beta"), tr("β: rank within which Top-β accepts a drafted byte"));
  m_confidence = real(0, 1, 0.05, tr("Least draft confidence"),
                      tr("Draft a byte only while the drafter expects the draft up to it to be "
                         "kept with at least this probability; 0 always drafts whole tokens"));
  m_cutsDrafts =
      flag(tr("Cut long exact drafts"), tr("End an exact draft where verifying one more byte takes "
                                           "much longer; the text is the same"));
  m_healing =
      flag(tr("Token healing"), tr("Resume drafting in mid-word after a correction, instead of "
                                   "letting the verifier write up to the next space"));
  m_topP =
      real(0, 1, 0.05, tr("Top p"), tr("Keep the smallest set of bytes with this probability"));
  m_minP = real(0, 1, 0.01, tr("Min p"),
                tr("Keep bytes with at least this share of the best probability"));
  m_penalty = real(0.1, 5, 0.05, tr("Repetition penalty"),
                   tr("Divides the logits of the last 64 bytes; 1 is off"));
  addToGrid(tr("Bytes to write"), m_bytes);
  addToGrid(tr("β of Top-β"), m_beta);
  addToGrid(tr("Least draft confidence"), m_confidence);
  addToGrid(QString(), m_cutsDrafts);
  addToGrid(QString(), m_healing);
  addToGrid(tr("top-p"), m_topP);
  addToGrid(tr("min-p"), m_minP);
  addToGrid(tr("Repetition penalty"), m_penalty);
}

void RunSettingsEditor::setHasDrafter(bool hasDrafter) {
  m_hasDrafter = hasDrafter;
  updateEnabled();
}

void RunSettingsEditor::updateEnabled() {
  const auto mode = static_cast<Speculation>(m_speculation->currentData().toInt());
  const bool speculates = m_hasDrafter && mode != Speculation::Off;
  m_speculation->setEnabled(m_hasDrafter);
  for (QWidget* editor : std::initializer_list<QWidget*>{m_draftTokens, m_confidence, m_healing})
    editor->setEnabled(speculates);
  m_beta->setEnabled(speculates && mode == Speculation::TopBeta);
  m_cutsDrafts->setEnabled(speculates && mode == Speculation::Exact);
}

RunSettings RunSettingsEditor::settings() const {
  RunSettings run = chosen();
  if (!m_hasDrafter) run.generation.speculation = Speculation::Off;
  return run;
}

RunSettings RunSettingsEditor::chosen() const {
  RunSettings run;
  GenerationSettings& generation = run.generation;
  generation.speculation = static_cast<Speculation>(m_speculation->currentData().toInt());
  generation.draftTokens = static_cast<std::size_t>(m_draftTokens->value());
  generation.beta = static_cast<std::size_t>(m_beta->value());
  generation.healing = m_healing->isChecked();
  generation.leastConfidence = m_confidence->value();
  generation.cutsDrafts = m_cutsDrafts->isChecked();
  generation.sampler.temperature = m_temperature->value();
  generation.sampler.topK = static_cast<std::size_t>(m_topK->value());
  generation.sampler.topP = m_topP->value();
  generation.sampler.minP = m_minP->value();
  generation.sampler.repetitionPenalty = m_penalty->value();
  generation.sampler.seed = static_cast<std::uint64_t>(m_seed->value());
  run.bytes = static_cast<std::size_t>(m_bytes->value());
  return run;
}

void RunSettingsEditor::setSettings(const RunSettings& run) {
  const GenerationSettings& generation = run.generation;
  m_speculation->setCurrentIndex(static_cast<int>(generation.speculation));
  m_draftTokens->setValue(static_cast<int>(generation.draftTokens));
  m_beta->setValue(static_cast<int>(generation.beta));
  m_healing->setChecked(generation.healing);
  m_confidence->setValue(generation.leastConfidence);
  m_cutsDrafts->setChecked(generation.cutsDrafts);
  m_temperature->setValue(generation.sampler.temperature);
  m_topK->setValue(static_cast<int>(generation.sampler.topK));
  m_topP->setValue(generation.sampler.topP);
  m_minP->setValue(generation.sampler.minP);
  m_penalty->setValue(generation.sampler.repetitionPenalty);
  m_seed->setValue(static_cast<int>(generation.sampler.seed));
  m_bytes->setValue(static_cast<int>(run.bytes));
  updateEnabled();
}

}  // namespace mb::ui
