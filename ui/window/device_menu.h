// The menu of processors that models can run on.
#pragma once

#include <QMenu>
#include <vector>

#include "engine/model/devices.h"

class QActionGroup;
class QSettings;

namespace mb::ui {

class DeviceMenu : public QMenu {
  Q_OBJECT

 public:
  explicit DeviceMenu(QWidget* parent = nullptr);

  /// Shows what this machine has, once that is known.
  void setDevices(const std::vector<DeviceEntry>& devices);
  /// What the user has chosen: Auto until then.
  const DeviceOptions& chosen() const { return m_chosen; }
  void choose(DeviceKind kind, int cudaDevice);

  void save(QSettings& settings) const;
  void restore(const QSettings& settings);

 signals:
  void changed();

 private:
  void fill();
  void add(const QString& text, const QKeySequence& keys, DeviceKind kind, int cudaDevice);

  QActionGroup* m_group;
  std::vector<DeviceEntry> m_devices;
  DeviceOptions m_chosen;
};

}  // namespace mb::ui
