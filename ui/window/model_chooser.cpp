#include "ui/window/model_chooser.h"

#include <QDir>
#include <QFileDialog>
#include <QMenu>
#include <QSettings>
#include <QToolButton>

#include "engine/error.h"
#include "engine/resources.h"
#include "ui/widgets/model_names.h"
#include "ui/window/device_menu.h"

namespace mb::ui {

namespace {

constexpr int kMostRecent = 8;

QString bundled(const char* name) {
  try {
    return QString::fromStdString(findResource(std::string("models/") + name).string());
  } catch (const Error&) {
    return {};
  }
}

std::filesystem::path toPath(const QString& text) {
  return text.toStdString();
}

QString nameOfFolder(const QString& folder) {
  return QDir(folder).dirName();
}

}  // namespace

ModelChooser::ModelChooser(EngineLink& link, QWidget* window)
    : QObject(window),
      m_link(link),
      m_window(window),
      m_verifierButton(new QToolButton(window)),
      m_drafterButton(new QToolButton(window)),
      m_recentMenu(new QMenu(tr("Open recent"), window)),
      m_deviceMenu(new DeviceMenu(window)) {
  m_verifierButton->setAccessibleName(tr("Verifier model"));
  m_verifierButton->setToolTip(tr("The byte model that writes and verifies"));
  m_drafterButton->setAccessibleName(tr("Drafter model"));
  m_drafterButton->setToolTip(tr("The small subword model that drafts"));
  for (QToolButton* button : {m_verifierButton, m_drafterButton}) {
    button->setPopupMode(QToolButton::InstantPopup);
    button->setMenu(new QMenu(button));
    button->setText(tr("none ▾"));
  }
  connect(m_verifierButton->menu(), &QMenu::aboutToShow, this, &ModelChooser::fillVerifierMenu);
  connect(m_drafterButton->menu(), &QMenu::aboutToShow, this, &ModelChooser::fillDrafterMenu);
  connect(m_recentMenu, &QMenu::aboutToShow, this, &ModelChooser::fillRecentMenu);
  connect(m_deviceMenu, &DeviceMenu::changed, this, [this] {
    if (m_models) open(m_verifier, m_drafter);
  });
  connect(&link, &EngineLink::modelsLoaded, this, &ModelChooser::finishLoading);
  connect(&link, &EngineLink::deviceLost, this, &ModelChooser::followDevice);
  connect(&link, &EngineLink::taskFailed, this, [this](Task task, const QString& problem) {
    if (task != Task::Load) return;
    --m_loads;
    emit loadingChanged();
    if (!problem.isEmpty()) emit failed(problem);
  });
}

void ModelChooser::populate(QMenu& menu) {
  menu.addAction(tr("Open the bundled pair"), QKeySequence(tr("Ctrl+B")), this,
                 &ModelChooser::openBundled);
  menu.addSeparator();
  menu.addAction(tr("Open verifier…"), QKeySequence(tr("Ctrl+O")), this, [this] {
    const QString folder = askForFolder(tr("Open a byte-level Mamba (its folder)"));
    if (!folder.isEmpty()) openVerifier(folder);
  });
  menu.addAction(tr("Open drafter…"), QKeySequence(tr("Ctrl+Shift+O")), this, [this] {
    const QString folder = askForFolder(tr("Open a subword Mamba (its folder)"));
    if (!folder.isEmpty()) openDrafter(folder);
  });
  menu.addAction(tr("No drafter"), QKeySequence(tr("Ctrl+Shift+B")), this,
                 [this] { openDrafter({}); });
  menu.addMenu(m_recentMenu);
  menu.addMenu(m_deviceMenu);
  menu.addSeparator();
  menu.addAction(tr("Details…"), QKeySequence(tr("Ctrl+I")), this, &ModelChooser::detailsWanted);
}

QString ModelChooser::askForFolder(const QString& title) {
  return QFileDialog::getExistingDirectory(m_window, title, m_verifier);
}

void ModelChooser::open(const QString& verifier, const QString& drafter) {
  ++m_loads;
  m_link.load(toPath(verifier), toPath(drafter), m_deviceMenu->chosen());
  emit loadingChanged();
}

void ModelChooser::openBundled() {
  const QString verifier = bundled("books");
  if (verifier.isEmpty())
    return emit failed(tr("The bundled model is missing from this installation"));
  open(verifier, bundled("books-draft"));
}

void ModelChooser::openNamed(const QString& verifier, const QString& drafter) {
  const QString second = drafter == QLatin1String("none") ? QString()
                         : drafter.isEmpty()              ? bundled("books-draft")
                                                          : drafter;
  open(verifier.isEmpty() ? bundled("books") : verifier, second);
}

void ModelChooser::finishLoading(const ModelsLoaded& models) {
  --m_loads;
  m_models = models;
  m_verifier = QString::fromStdString(models.verifier.info.folder.string());
  m_drafter =
      models.drafter ? QString::fromStdString(models.drafter->info.folder.string()) : QString();
  remember(m_verifier, m_drafter);
  m_verifierButton->setText(tr("%1 ▾").arg(titleOf(models.verifier)));
  m_drafterButton->setText(models.drafter ? tr("%1 ▾").arg(titleOf(*models.drafter))
                                          : tr("none ▾"));
  m_deviceMenu->setDevices(models.devices);
  emit loadingChanged();
  emit opened(models);
  if (models.gaveUp)
    emit deviceGivenUp(
        tr("%1. The models run on the CPU.").arg(QString::fromStdString(models.deviceReason)));
}

void ModelChooser::followDevice(const DeviceLost& lost) {
  m_models = lost.now;
  m_deviceMenu->setDevices(lost.now.devices);
  emit deviceGivenUp(
      tr("%1. The work continues on the CPU.").arg(QString::fromStdString(lost.problem)));
}

void ModelChooser::remember(const QString& verifier, const QString& drafter) {
  const QString entry = verifier + u'\n' + drafter;
  m_recent.removeAll(entry);
  m_recent.prepend(entry);
  while (m_recent.size() > kMostRecent) m_recent.removeLast();
}

void ModelChooser::fillRecentMenu() {
  m_recentMenu->clear();
  for (const QString& entry : m_recent) {
    const QStringList folders = entry.split(u'\n');
    const QString verifier = folders.value(0);
    const QString drafter = folders.value(1);
    const QString name = drafter.isEmpty()
                             ? nameOfFolder(verifier)
                             : tr("%1 with %2").arg(nameOfFolder(verifier), nameOfFolder(drafter));
    QAction* action = m_recentMenu->addAction(name, this, [=, this] { open(verifier, drafter); });
    action->setToolTip(verifier);
  }
  if (m_recent.isEmpty()) m_recentMenu->addAction(tr("Nothing yet"))->setEnabled(false);
}

void ModelChooser::fillVerifierMenu() {
  QMenu& menu = *m_verifierButton->menu();
  menu.clear();
  menu.addAction(tr("books (bundled)"), this, [this] { openVerifier(bundled("books")); });
  menu.addAction(tr("Open folder…"), this, [this] {
    const QString folder = askForFolder(tr("Open a byte-level Mamba (its folder)"));
    if (!folder.isEmpty()) openVerifier(folder);
  });
}

void ModelChooser::fillDrafterMenu() {
  QMenu& menu = *m_drafterButton->menu();
  menu.clear();
  menu.addAction(tr("books-draft (bundled)"), this,
                 [this] { openDrafter(bundled("books-draft")); });
  menu.addAction(tr("None"), this, [this] { openDrafter({}); });
  menu.addAction(tr("Open folder…"), this, [this] {
    const QString folder = askForFolder(tr("Open a subword Mamba (its folder)"));
    if (!folder.isEmpty()) openDrafter(folder);
  });
}

void ModelChooser::save(QSettings& settings) const {
  settings.setValue("models/recent", m_recent);
  settings.setValue("models/verifier", m_verifier);
  settings.setValue("models/drafter", m_drafter);
  m_deviceMenu->save(settings);
}

/// The last pair, if its folders still exist; else the bundled one.
void ModelChooser::restore(const QSettings& settings) {
  m_recent = settings.value("models/recent").toStringList();
  const QString verifier = settings.value("models/verifier").toString();
  const QString drafter = settings.value("models/drafter").toString();
  const bool there = QDir(verifier).exists() && (drafter.isEmpty() || QDir(drafter).exists());
  if (verifier.isEmpty() || !there) return openBundled();
  open(verifier, drafter);
}

}  // namespace mb::ui
