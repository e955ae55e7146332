// Keys and names for everything, and nothing cut off, in both themes.
#include <QAbstractSpinBox>
#include <QAccessible>
#include <QComboBox>
#include <QLineEdit>
#include <QPushButton>
#include <QSignalSpy>
#include <QtTest>

#include "tests/support/playground.h"
#include "ui/text/find_bar.h"
#include "ui/widgets/elided_label.h"
#include "ui/widgets/message_strip.h"

using namespace mb::test;
using mb::ui::ElidedLabel;
using mb::ui::ThemeMode;

namespace {

/// Border and padding of a button, above and below together.
constexpr int kButtonFrame = 6;
/// Arrow and padding beside the text of a choice.
constexpr int kChoiceArrow = 24;

QString describe(const QWidget& widget) {
  QStringList path;
  for (const QWidget* w = &widget; w; w = w->parentWidget())
    path.prepend(QString("%1(%2)").arg(w->metaObject()->className(), w->objectName()));
  return path.join(" > ");
}

/// What a screen reader says of a widget. Qt calls a combo box by its current text on Linux.
QString spoken(QWidget& widget) {
  if (!widget.accessibleName().isEmpty() || qobject_cast<QComboBox*>(&widget))
    return widget.accessibleName();
  const QAccessibleInterface* interface = QAccessible::queryAccessibleInterface(&widget);
  return interface ? interface->text(QAccessible::Name) : QString();
}

/// Parts that Qt puts inside its own widgets.
bool isInternal(const QWidget& widget) {
  return widget.objectName().startsWith("qt_") || widget.inherits("QLineEditIconButton") ||
         (widget.parentWidget() && (widget.parentWidget()->inherits("QComboBoxPrivateContainer") ||
                                    widget.parentWidget()->inherits("QTabBar")));
}

/// Why a widget's text does not fit into it; empty when it does.
QString clipped(const QWidget& widget) {
  const auto tooSmall = [&](QSize needed) {
    return needed.width() > widget.width() || needed.height() > widget.height()
               ? QString("needs %1x%2, has %3x%4: %5")
                     .arg(needed.width())
                     .arg(needed.height())
                     .arg(widget.width())
                     .arg(widget.height())
                     .arg(describe(widget))
               : QString();
  };
  if (const auto* label = qobject_cast<const QLabel*>(&widget)) {
    if (qobject_cast<const ElidedLabel*>(label) || label->text().isEmpty()) return {};
    if (label->wordWrap()) return tooSmall({0, label->heightForWidth(label->width())});
    return tooSmall(label->sizeHint());
  }
  if (const auto* button = qobject_cast<const QAbstractButton*>(&widget))
    return button->text().isEmpty() ? QString()
                                    : tooSmall({button->sizeHint().width(),
                                                button->fontMetrics().height() + kButtonFrame});
  if (const auto* choice = qobject_cast<const QComboBox*>(&widget))
    return tooSmall({choice->fontMetrics().horizontalAdvance(choice->currentText()) + kChoiceArrow,
                     choice->sizeHint().height()});
  if (const auto* box = qobject_cast<const QAbstractSpinBox*>(&widget)) {
    const auto* field = box->findChild<QLineEdit*>();
    const int needed = box->fontMetrics().horizontalAdvance(box->text());
    return needed > field->width() ? QString("“%1” needs %2, has %3: %4")
                                         .arg(box->text())
                                         .arg(needed)
                                         .arg(field->width())
                                         .arg(describe(widget))
                                   : QString();
  }
  return {};
}

QStringList allClipped(Playground& p) {
  QStringList problems;
  for (const QWidget* widget : p.window.findChildren<QWidget*>()) {
    if (!widget->isVisible() || widget->visibleRegion().isEmpty() || isInternal(*widget)) continue;
    const QString problem = clipped(*widget);
    if (!problem.isEmpty()) problems += problem;
  }
  return problems;
}

}  // namespace

class AccessibilityTest : public QObject {
  Q_OBJECT

 private slots:
  void everyFocusableWidgetHasAName() {
    Memory memory;
    Playground p(memory);
    for (mb::ui::MessageStrip* strip : {&p.window.text().messages(), &p.window.train().messages()})
      strip->showError("A message", "What to do");
    QStringList nameless;
    for (QWidget* widget : p.window.findChildren<QWidget*>()) {
      if (widget->focusPolicy() == Qt::NoFocus || isInternal(*widget)) continue;
      if (spoken(*widget).isEmpty()) nameless += describe(*widget);
    }
    QVERIFY2(nameless.isEmpty(), qPrintable(nameless.join('\n')));
  }

  void everyControlHasATip() {
    Memory memory;
    Playground p(memory);
    QStringList silent;
    for (QWidget* widget : p.window.findChildren<QWidget*>()) {
      const bool control = qobject_cast<QAbstractButton*>(widget) ||
                           qobject_cast<QComboBox*>(widget) ||
                           qobject_cast<QAbstractSpinBox*>(widget);
      if (!control || isInternal(*widget) || !widget->toolTip().isEmpty()) continue;
      if (!qobject_cast<mb::ui::MessageStrip*>(widget->parentWidget())) silent += describe(*widget);
    }
    QVERIFY2(silent.isEmpty(), qPrintable(silent.join('\n')));
  }

  void everyActionHasAKeyOfItsOwnAndATip() {
    Memory memory;
    Playground p(memory);
    QHash<QKeySequence, QString> owners;
    QStringList problems;
    for (const QAction* action : p.actions()) {
      if (action->text() == "Nothing yet") continue;
      if (action->shortcut().isEmpty()) problems += action->text() + ": no key";
      if (action->toolTip().isEmpty() && action->statusTip().isEmpty())
        problems += action->text() + ": no tip";
      for (const QKeySequence& keys : action->shortcuts()) {
        if (owners.contains(keys))
          problems += action->text() + " and " + owners[keys] + ": " + keys.toString();
        owners[keys] = action->text();
      }
    }
    QVERIFY(p.actions().size() > 35);
    QVERIFY2(problems.isEmpty(), qPrintable(problems.join('\n')));
  }

  void everyMenuOpensByKey() {
    Memory memory;
    Playground p(memory);
    QSet<QChar> letters;
    for (const QAction* menu : p.window.menuBar()->actions()) {
      const QKeySequence keys = QKeySequence::mnemonic(menu->text());
      QVERIFY2(!keys.isEmpty(), qPrintable(menu->text()));
      QVERIFY(!letters.contains(keys.toString().back()));
      letters.insert(keys.toString().back());
    }
  }

  void theTabKeyReachesTextToolBarAndPanels() {
    Memory memory;
    Playground p(memory);
    p.openTiny();
    p.type("x");
    QTRY_VERIFY(p.isUpToDate());
    QSet<QWidget*> reached;
    for (int i = 0; i < 80; ++i) {
      QTest::keyClick(QApplication::focusWidget(), Qt::Key_Backtab, Qt::ShiftModifier);
      reached.insert(QApplication::focusWidget());
    }
    const auto reaches = [&](const QString& name) {
      for (QWidget* widget : reached)
        if (spoken(*widget) == name) return true;
      return false;
    };
    for (const char* name : {"Generate", "Step", "Verifier model", "Temperature", "Seed", "Text",
                             "Candidates for the next byte", "Layer", "More settings"})
      QVERIFY2(reaches(name), name);
    QCOMPARE(textOf(p.document()), QString("x"));
  }

  void nothingIsCutOff_data() {
    QTest::addColumn<ThemeMode>("theme");
    QTest::addColumn<QSize>("size");
    QTest::newRow("light, 1280x800") << ThemeMode::Light << QSize(1280, 800);
    QTest::newRow("dark, 1280x800") << ThemeMode::Dark << QSize(1280, 800);
    QTest::newRow("light, 1600x1000") << ThemeMode::Light << QSize(1600, 1000);
    QTest::newRow("dark, 1600x1000") << ThemeMode::Dark << QSize(1600, 1000);
    QTest::newRow("light, 3840x2160") << ThemeMode::Light << QSize(3840, 2160);
  }

  void nothingIsCutOff() {
    QFETCH(ThemeMode, theme);
    QFETCH(QSize, size);
    Memory memory;
    Playground p(memory, size);
    p.theme().apply(theme);
    p.window.models().openBundled();
    p.type("It was a dark and stormy night; the rain fell in torrents");
    QTRY_VERIFY(p.isUpToDate());
    p.setBytes(40);
    p.click("Generate");
    QTRY_VERIFY_WITH_TIMEOUT(p.isIdle() && p.isUpToDate() && p.window.runs().timesPlain() > 0,
                             30'000);
    p.view().setCaret(10);
    p.type("!");
    p.window.text().findBar().open();
    p.window.text().messages().showError(
        "A message of some length that has to wrap on a small "
        "window but must not be cut off anywhere at all, whatever "
        "its width",
        "Open the bundled pair");
    QTRY_VERIFY(p.isUpToDate());
    QCOMPARE(p.window.size(), size);
    for (mb::ui::Panel* panel : QList<mb::ui::Panel*>{&p.window.nextByte(), &p.window.speculation(),
                                                      &p.window.state(), &p.window.train()}) {
      panel->raise();
      QTRY_VERIFY(panel->isSeen());
      p.window.refreshAll();
      QCoreApplication::processEvents();
      const QStringList problems = allClipped(p);
      QVERIFY2(problems.isEmpty(), qPrintable(problems.join('\n')));
    }
  }
};

QTEST_MAIN(AccessibilityTest)
#include "test_accessibility.moc"
