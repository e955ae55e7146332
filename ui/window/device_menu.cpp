#include "ui/window/device_menu.h"

#include <QActionGroup>
#include <QSettings>
#include <utility>

namespace mb::ui {

DeviceMenu::DeviceMenu(QWidget* parent) : QMenu(parent), m_group(new QActionGroup(this)) {
  setTitle(tr("Device"));
  setToolTip(tr("The processor that models run on"));
  m_chosen.kind = DeviceKind::Auto;
  m_devices = {{DeviceKind::Cpu, 0, "CPU", {}}};
  fill();
}

void DeviceMenu::setDevices(const std::vector<DeviceEntry>& devices) {
  m_devices = devices;
  fill();
}

void DeviceMenu::choose(DeviceKind kind, int cudaDevice) {
  if (m_chosen.kind == kind && m_chosen.cudaDevice == cudaDevice) return;
  m_chosen.kind = kind;
  m_chosen.cudaDevice = cudaDevice;
  fill();
  emit changed();
}

void DeviceMenu::fill() {
  clear();
  add(tr("Automatic"), tr("Ctrl+Alt+A"), DeviceKind::Auto, 0);
  const auto gigabytes = [](std::size_t bytes) {
    return QString::number(static_cast<double>(bytes) * 1e-9, 'f', 1);
  };
  bool first = true;
  for (const DeviceEntry& device : m_devices) {
    const QString name = QString::fromStdString(device.name);
    if (device.kind == DeviceKind::Cpu) {
      add(name, tr("Ctrl+Alt+P"), DeviceKind::Cpu, 0);
      continue;
    }
    const DeviceMemory& memory = device.memory;
    add(tr("%1 · %2 of %3 GB free")
            .arg(name, gigabytes(memory.total - memory.used), gigabytes(memory.total)),
        std::exchange(first, false) ? QKeySequence(tr("Ctrl+Alt+G")) : QKeySequence(),
        DeviceKind::Cuda, device.cudaDevice);
  }
}

void DeviceMenu::add(const QString& text, const QKeySequence& keys, DeviceKind kind,
                     int cudaDevice) {
  QAction* action = addAction(text, keys, this, [=, this] { choose(kind, cudaDevice); });
  action->setCheckable(true);
  action->setActionGroup(m_group);
  action->setChecked(m_chosen.kind == kind &&
                     (kind != DeviceKind::Cuda || m_chosen.cudaDevice == cudaDevice));
}

void DeviceMenu::save(QSettings& settings) const {
  settings.setValue("models/device", static_cast<int>(m_chosen.kind));
  settings.setValue("models/cuda", m_chosen.cudaDevice);
}

void DeviceMenu::restore(const QSettings& settings) {
  const int kind = settings.value("models/device", static_cast<int>(DeviceKind::Auto)).toInt();
  if (kind < 0 || kind > static_cast<int>(DeviceKind::Auto)) return;
  m_chosen.kind = static_cast<DeviceKind>(kind);
  m_chosen.cudaDevice = settings.value("models/cuda", 0).toInt();
  fill();
}

}  // namespace mb::ui
