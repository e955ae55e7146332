// The whole window with settings of its own, for tests that use it as people do.
#pragma once

#include <QApplication>
#include <QFileDialog>
#include <QLabel>
#include <QMenuBar>
#include <QSettings>
#include <QTest>
#include <QTimer>
#include <QToolButton>
#include <functional>

#include "tests/support/documents.h"
#include "tests/support/test_models.h"
#include "ui/panels/next_byte_panel.h"
#include "ui/panels/perplexity_panel.h"
#include "ui/panels/state_panel.h"
#include "ui/panels/train_panel.h"
#include "ui/text/text_panel.h"
#include "ui/window/main_window.h"
#include "ui/window/model_chooser.h"

namespace mb::test {

/// Settings in a file that goes away; several windows can remember in the same.
class Memory {
 public:
  QSettings& settings() { return m_settings; }

 private:
  TemporaryFolder m_folder;
  QSettings m_settings{QString::fromStdString((m_folder / "settings.ini").string()),
                       QSettings::IniFormat};
};

class Playground {
 public:
  explicit Playground(Memory& memory, QSize size = {1600, 1000})
      : window(m_theme, workspace, memory.settings()) {
    m_theme.apply(ui::ThemeMode::Light);
    if (size.isValid()) window.resize(size);
    window.show();
    window.text().view().setFocus();
    active = QTest::qWaitForWindowActive(&window);
  }

  ui::Theme& theme() { return m_theme; }
  ui::Document& document() { return workspace.document; }
  ui::ByteView& view() { return window.text().view(); }

  void open(const std::filesystem::path& verifier, const std::filesystem::path& drafter = {}) {
    window.models().open(QString::fromStdString(verifier.string()),
                         QString::fromStdString(drafter.string()));
  }
  void openTiny() { open(goldenFolder("tiny-byte")); }
  void setBytes(std::size_t bytes) {
    ui::RunSettings run = window.settingsEditor().settings();
    run.bytes = bytes;
    window.settingsEditor().setSettings(run);
  }

  void type(const QString& text) { QTest::keyClicks(&view(), text); }
  void key(Qt::Key key, Qt::KeyboardModifiers modifiers = {}) {
    QTest::keyClick(QApplication::focusWidget() ? QApplication::focusWidget() : &view(), key,
                    modifiers);
  }
  /// The button of that accessible name.
  QToolButton& button(const QString& name) {
    for (auto* found : window.findChildren<QToolButton*>())
      if (found->accessibleName() == name && found->isVisible()) return *found;
    qFatal("no button %s", qPrintable(name));
  }
  void click(const QString& name) { QTest::mouseClick(&button(name), Qt::LeftButton); }

  bool isIdle() const { return window.runs().state() == ui::RunState::Idle; }
  /// The whole text is scored and what follows is known.
  bool isUpToDate() const {
    const ui::Document& document = workspace.document;
    return document.scoredTo() == document.size() && document.next().has_value();
  }

  /// Every action of the menus that does something.
  QList<QAction*> actions() const {
    QList<QAction*> found;
    const std::function<void(QMenu*)> walk = [&](QMenu* menu) {
      for (QAction* action : menu->actions()) {
        if (action->menu())
          walk(action->menu());
        else if (!action->isSeparator())
          found.append(action);
      }
    };
    for (const QAction* action : window.menuBar()->actions()) walk(action->menu());
    return found;
  }
  QAction& action(const QString& text) const {
    for (QAction* found : actions())
      if (found->text() == text) return *found;
    qFatal("no action %s", qPrintable(text));
  }
  bool shows(const QString& text) const {
    for (const auto* label : window.findChildren<QLabel*>())
      if (label->isVisible() && label->text().contains(text)) return true;
    return false;
  }

 private:
  ui::Theme m_theme;

 public:
  ui::Workspace workspace;
  mutable ui::MainWindow window;
  bool active = false;
};

/// Once the next dialog is open, hands it to `use`; it has to close it.
template <class Dialog>
void answer(std::function<void(Dialog&)> use) {
  auto* timer = new QTimer(qApp);
  QObject::connect(timer, &QTimer::timeout, timer, [timer, use = std::move(use)] {
    auto* dialog = qobject_cast<Dialog*>(QApplication::activeModalWidget());
    if (!dialog) return;
    timer->stop();
    timer->deleteLater();
    use(*dialog);
  });
  timer->start(5);
}

/// Qt's file dialog reads folders in a thread of its own; a race detector cannot follow how Qt,
/// which is not instrumented, hands the names over.
#if defined(__SANITIZE_THREAD__)
inline constexpr bool kFileDialogs = false;
#else
inline constexpr bool kFileDialogs = true;
#endif

/// Chooses a file in the next file dialog.
inline void answerWithFile(const std::filesystem::path& file) {
  answer<QFileDialog>([file](QFileDialog& dialog) {
    dialog.selectFile(QString::fromStdString(file.string()));
    QMetaObject::invokeMethod(&dialog, "accept");
  });
}

}  // namespace mb::test
