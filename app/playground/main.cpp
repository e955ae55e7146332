// mambabyte-playground: the window, or with no display the same window off screen.
#include <QApplication>
#include <QFontDatabase>
#include <QSettings>
#include <QTimer>
#include <cstdio>
#include <memory>

#include "app/playground/arguments.h"
#include "app/playground/headless_run.h"
#include "engine/export/run_export.h"
#include "kernels/memory.h"
#include "ui/text/text_panel.h"
#include "ui/theme/theme.h"
#include "ui/window/device_menu.h"
#include "ui/window/main_window.h"
#include "ui/window/model_chooser.h"

namespace {

using mb::app::Arguments;
using mb::ui::MainWindow;

constexpr const char* kSamplePrompt =
    "It was a dark and stormy night; the rain fell in torrents, and the wind\n"
    "swept up the streets. The old captain";

/// Without a window Qt's remarks about one would stand in the middle of the written text.
void hideRemarks(QtMsgType type, const QMessageLogContext&, const QString& message) {
  if (type == QtCriticalMsg || type == QtFatalMsg)
    std::fprintf(stderr, "%s\n", qPrintable(message));
}

/// Qt chooses a platform before it parses arguments, and fails without a display.
bool wantsHeadless(int argc, char** argv) {
  for (int i = 1; i < argc; ++i)
    if (qstrcmp(argv[i], "--headless") == 0) return true;
  return qEnvironmentVariableIsEmpty("DISPLAY") && qEnvironmentVariableIsEmpty("WAYLAND_DISPLAY") &&
         qEnvironmentVariableIsEmpty("QT_QPA_PLATFORM");
}

/// Remembers between starts, but not what a headless run happened to use.
std::unique_ptr<QSettings> openSettings(bool headless) {
  if (!headless) return std::make_unique<QSettings>();
  return std::make_unique<QSettings>(QStringLiteral("/dev/null"), QSettings::IniFormat);
}

void openModels(MainWindow& window, const Arguments& arguments) {
  if (arguments.device) window.models().deviceMenu().choose(*arguments.device, 0);
  if (arguments.model.isEmpty() && arguments.draft.isEmpty() && !arguments.noDraft)
    return window.openModels();
  mb::ui::ModelChooser& models = window.models();
  models.openNamed(arguments.model, arguments.noDraft ? QStringLiteral("none") : arguments.draft);
}

void setText(MainWindow& window, const Arguments& arguments) {
  const QByteArray text = arguments.prompt.value_or(QByteArray(kSamplePrompt));
  window.document().setText(
      {reinterpret_cast<const mb::Byte*>(text.constData()), static_cast<std::size_t>(text.size())});
  window.text().view().setCaret(window.document().size());
}

/// The very first start writes by itself, so that there is something to see.
void generateOnFirstStart(MainWindow& window, QSettings& settings) {
  if (settings.value("window/started").toBool()) return;
  settings.setValue("window/started", true);
  QObject::connect(&window.link(), &mb::ui::EngineLink::ready, &window.runs(),
                   &mb::ui::RunController::generate, Qt::SingleShotConnection);
}

}  // namespace

int main(int argc, char** argv) {
  mb::keepLargeBlocksApart();
  const bool headless = wantsHeadless(argc, argv);
  if (headless) qInstallMessageHandler(hideRemarks);
  if (headless && qEnvironmentVariableIsEmpty("QT_QPA_PLATFORM"))
    qputenv("QT_QPA_PLATFORM", "offscreen");
  QApplication application(argc, argv);
  QCoreApplication::setOrganizationName(QStringLiteral("mambabyte"));
  QCoreApplication::setApplicationName(QStringLiteral("playground"));
  QCoreApplication::setApplicationVersion(QString::fromStdString(mb::programVersion()));
  QGuiApplication::setApplicationDisplayName(QStringLiteral("MambaByte Playground"));
  QGuiApplication::setDesktopFileName(QStringLiteral("mambabyte-playground"));  // and its icon
  Arguments arguments = mb::app::parseArguments(application);

  const std::unique_ptr<QSettings> settings = openSettings(headless);
  mb::ui::Theme theme;
  theme.apply(arguments.theme.value_or(
      static_cast<mb::ui::ThemeMode>(settings->value("window/theme", 0).toInt())));
  mb::ui::Workspace workspace;
  MainWindow window(theme, workspace, *settings);
  if (arguments.size) window.resize(*arguments.size);
  mb::ui::RunSettings run = window.settingsEditor().settings();
  arguments.applyTo(run);
  window.settingsEditor().setSettings(run);
  setText(window, arguments);

  std::unique_ptr<mb::app::HeadlessRun> headlessRun;
  if (headless) {
    const QString name = arguments.screenshot.isEmpty() ? QStringLiteral("mambabyte-playground.png")
                                                        : arguments.screenshot;
    headlessRun = std::make_unique<mb::app::HeadlessRun>(window, name, arguments.train);
  } else {
    generateOnFirstStart(window, *settings);
  }
  window.show();
  openModels(window, arguments);
  return QApplication::exec();
}
