// Which models are open, which could be, and the buttons and menus to choose them.
#pragma once

#include <QObject>
#include <QStringList>
#include <optional>

#include "ui/bridge/engine_link.h"

class QMenu;
class QSettings;
class QToolButton;
class QWidget;

namespace mb::ui {

class DeviceMenu;

class ModelChooser : public QObject {
  Q_OBJECT

 public:
  ModelChooser(EngineLink& link, QWidget* window);

  /// Fills the Model menu.
  void populate(QMenu& menu);
  QToolButton* verifierButton() const { return m_verifierButton; }
  QToolButton* drafterButton() const { return m_drafterButton; }

  /// Opens a pair; an empty drafter means none. The pair becomes current when it has been read.
  void open(const QString& verifier, const QString& drafter);
  void openBundled();
  /// Opens what a command line names: an empty folder means the bundled model, "none" no drafter.
  void openNamed(const QString& verifier, const QString& drafter);
  void openVerifier(const QString& folder) { open(folder, m_drafter); }
  void openDrafter(const QString& folder) { open(m_verifier, folder); }
  /// Opens the same pair on another processor.
  DeviceMenu& deviceMenu() { return *m_deviceMenu; }
  bool isLoading() const { return m_loads > 0; }
  const std::optional<ModelsLoaded>& models() const { return m_models; }

  void save(QSettings& settings) const;
  void restore(const QSettings& settings);
  const QStringList& recent() const { return m_recent; }

 signals:
  void loadingChanged();
  void opened(const mb::ui::ModelsLoaded& models);
  void failed(const QString& problem);
  /// The device asked for did not do; the models run on the CPU instead.
  void deviceGivenUp(const QString& problem);
  void detailsWanted();

 private:
  void finishLoading(const ModelsLoaded& models);
  void followDevice(const DeviceLost& lost);
  void fillVerifierMenu();
  void fillDrafterMenu();
  void fillRecentMenu();
  QString askForFolder(const QString& title);
  void remember(const QString& verifier, const QString& drafter);

  EngineLink& m_link;
  QWidget* m_window;
  QToolButton* m_verifierButton;
  QToolButton* m_drafterButton;
  QMenu* m_recentMenu;
  DeviceMenu* m_deviceMenu;
  QString m_verifier;  ///< folders of the current pair
  QString m_drafter;
  QStringList m_recent;  ///< "verifier\ndrafter", newest first
  int m_loads = 0;       ///< under way, or waiting for the one before
  std::optional<ModelsLoaded> m_models;
};

}  // namespace mb::ui
