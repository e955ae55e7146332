// Command line of the playground.
#pragma once

#include <QSize>
#include <QString>
#include <optional>

#include "engine/model/devices.h"
#include "ui/theme/theme.h"
#include "ui/window/run_settings.h"

class QCoreApplication;

namespace mb::app {

struct Arguments {
  bool headless = false;
  QString model;
  QString draft;
  bool noDraft = false;
  std::optional<DeviceKind> device;
  std::optional<QByteArray> prompt;
  std::optional<std::size_t> bytes;
  std::optional<Speculation> speculation;
  std::optional<double> temperature;
  std::optional<std::size_t> topK;
  std::optional<std::size_t> draftTokens;
  std::optional<std::uint64_t> seed;
  std::optional<ui::ThemeMode> theme;
  std::optional<QSize> size;
  QString screenshot;
  QString train;  ///< text, or empty

  /// Overrides what the command line names.
  void applyTo(ui::RunSettings& settings) const;
};

/// Parses the application's arguments. Prints help or the version and exits when they are asked
/// for; on a bad argument prints one line and exits with status 2.
Arguments parseArguments(const QCoreApplication& application);

}  // namespace mb::app
