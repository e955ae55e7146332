// The window used as people use it: keys, clicks, and what then shows.
#include <QComboBox>
#include <QListView>
#include <QPushButton>
#include <QSignalSpy>
#include <QtTest>
#include <cmath>

#include "tests/support/playground.h"
#include "ui/text/find_bar.h"
#include "ui/widgets/message_strip.h"

using namespace mb::test;
using mb::Byte;
using mb::Origin;
using mb::toBytes;
using mb::ui::CandidateModel;
using mb::ui::MainWindow;
using mb::ui::ModelChooser;
using mb::ui::RunState;

namespace {

/// More than any test lets a run write.
constexpr std::size_t kEndless = 50'000'000;

}  // namespace

class MainWindowTest : public QObject {
  Q_OBJECT

 private slots:
  void typedTextIsScoredAndGoesOn() {
    Playground p(m_memory);
    QVERIFY(p.active);
    p.openTiny();
    p.type("The rain");
    QTRY_VERIFY(p.isUpToDate());
    QVERIFY(p.window.perplexity().bitsPerByte() > 0);
    p.setBytes(40);
    p.key(Qt::Key_Return, Qt::ControlModifier);
    QTRY_VERIFY(p.isIdle() && p.document().size() == 48);
    QVERIFY(textOf(p.document()).startsWith("The rain"));
    QCOMPARE(p.document().record(8).origin, Origin::Plain);
    QTRY_VERIFY(p.isUpToDate());
    QVERIFY(p.shows("generated 40 bytes"));
  }

  void typingWhileModelsAreReadLosesNeither() {
    Playground p(m_memory);
    p.open(bundledFolder("books"));
    QVERIFY(p.window.models().isLoading());
    p.type("typed early");
    QTRY_VERIFY(p.isUpToDate());
    QCOMPARE(textOf(p.document()), QString("typed early"));
    QVERIFY(p.window.models().models());
  }

  void nothingRunsWithoutATextOrAModel() {
    Playground p(m_memory);
    QVERIFY(!p.action("Generate").isEnabled());
    p.openTiny();
    QTRY_VERIFY(p.window.models().models());
    QVERIFY(!p.action("Generate").isEnabled());
    p.type("x");
    QVERIFY(p.action("Generate").isEnabled());
    QVERIFY(!p.action("Pause").isEnabled());
    QVERIFY(!p.action("Stop").isEnabled());
  }

  void generateAndStopButtons() {
    Playground p(m_memory);
    start(p, kEndless);
    p.click("Generate");
    QCOMPARE(p.window.runs().state(), RunState::Running);
    QTRY_VERIFY(p.document().size() > 100);
    QVERIFY(!p.action("Generate").isEnabled());
    p.click("Stop");
    QTRY_VERIFY(p.isIdle() && p.isUpToDate());
    const std::size_t size = p.document().size();
    QSignalSpy ticks(&p.window.link(), &mb::ui::EngineLink::ticked);
    QTRY_VERIFY(ticks.count() > 4);
    QCOMPARE(p.document().size(), size);
    QVERIFY(p.action("Generate").isEnabled());
  }

  void escapeStopsAndKeepsWhatIsWritten() {
    Playground p(m_memory);
    start(p, kEndless);
    p.key(Qt::Key_Return, Qt::ControlModifier);
    QTRY_VERIFY(p.document().size() > 100);
    p.key(Qt::Key_Escape);
    QTRY_VERIFY(p.isIdle() && p.isUpToDate());
    QVERIFY(p.document().size() > 100);
    QCOMPARE(p.document().scoredTo(), p.document().size());
  }

  void pauseKeepsWhatIsLeftStepTakesOneOffAndContinueWritesOn() {
    Playground p(m_memory);
    start(p, kEndless);
    const auto total = [&] { return p.document().size() + p.window.runs().remaining(); };
    p.key(Qt::Key_Return, Qt::ControlModifier);
    QTRY_VERIFY(p.document().size() > 50);
    p.key(Qt::Key_P, Qt::ControlModifier);
    QTRY_COMPARE(p.window.runs().state(), RunState::Paused);
    QTRY_VERIFY(p.isUpToDate());
    const std::size_t size = p.document().size();
    QCOMPARE(total(), 8 + kEndless);
    QVERIFY(p.shows("Paused"));
    QCOMPARE(p.button("Continue").text(), QString::fromUtf8("▶ Continue"));
    p.key(Qt::Key_Period, Qt::ControlModifier);
    QTRY_VERIFY(p.document().size() == size + 1 && p.window.runs().state() == RunState::Paused);
    QCOMPARE(total(), 8 + kEndless);
    p.click("Continue");
    QTRY_VERIFY(p.document().size() > size + 50);
    p.click("Pause");
    QTRY_COMPARE(p.window.runs().state(), RunState::Paused);
    QTRY_VERIFY(p.isUpToDate());
    QCOMPARE(total(), 8 + kEndless);
    p.type("x");
    QVERIFY(p.isIdle());
    QCOMPARE(p.button("Generate").text(), QString::fromUtf8("▶ Generate"));
  }

  void aPausedRunEndsWhereItWouldHaveEnded() {
    Playground p(m_memory);
    p.window.models().openBundled();
    p.type("It was a dark");
    p.setBytes(200);
    QTRY_VERIFY(p.isUpToDate());
    const auto pausing = connect(&p.document(), &mb::ui::Document::textChanged, this, [&] {
      if (p.document().size() > 20) p.window.runs().pause();
    });
    p.click("Generate");
    QTRY_VERIFY(p.window.runs().state() != RunState::Running);
    QCOMPARE(p.window.runs().state(), RunState::Paused);
    disconnect(pausing);
    p.click("Continue");
    QTRY_VERIFY_WITH_TIMEOUT(p.isIdle() && p.document().size() == 213, 30'000);
  }

  void stepWritesOneByteAtATime() {
    Playground p(m_memory);
    start(p, 10);
    for (std::size_t i = 1; i <= 3; ++i) {
      p.click("Step");
      QTRY_VERIFY(p.isIdle() && p.document().size() == 8 + i);
    }
    QTRY_VERIFY(p.isUpToDate());
  }

  void aCandidateGoesOnFromThereWithIt() {
    Playground p(m_memory);
    start(p, 30);
    p.click("Generate");
    QTRY_VERIFY(p.isIdle() && p.document().size() == 38 && p.isUpToDate());
    const QString before = textOf(p.document());
    const mb::Bytes bytes = p.document().bytes();
    p.window.refreshAll();
    QTest::mouseClick(p.view().viewport(), Qt::LeftButton, {}, placeOf(p, 12));
    QTRY_COMPARE(p.window.nextByte().position(), std::size_t{12});
    const Byte wanted = otherCandidate(p);
    QVERIFY(wanted != bytes[12]);
    QTRY_VERIFY(p.isIdle() && p.document().size() == 43);
    QCOMPARE(p.document().byte(12), wanted);
    QCOMPARE(p.document().record(12).origin, Origin::Chosen);
    QVERIFY(p.document().bytes(0, 12) == mb::Bytes(bytes.begin(), bytes.begin() + 12));
    p.key(Qt::Key_Z, Qt::ControlModifier);
    p.key(Qt::Key_Z, Qt::ControlModifier);
    QVERIFY(p.document().bytes() == bytes);
    QTRY_VERIFY(p.isUpToDate());
  }

  void anEditInTheMiddleScoresAnewAndKeepsTheOldCurve() {
    Playground p(m_memory);
    start(p, 60);
    p.click("Generate");
    QTRY_VERIFY(p.isIdle() && p.document().size() == 68 && p.isUpToDate());
    const float before = p.document().record(30).surprisal;
    p.view().setCaret(20);
    p.type("!");
    QVERIFY(p.document().hasGhost());
    QVERIFY(!p.document().isScored(40));
    QCOMPARE(p.document().ghost(31), before);
    QTRY_VERIFY(p.isUpToDate());
    QVERIFY(p.document().isScored(40));
    QCOMPARE(p.document().size(), std::size_t{69});
    QVERIFY(p.action("Dismiss old curve").isEnabled());
    p.key(Qt::Key_D, Qt::ControlModifier);
    QVERIFY(!p.document().hasGhost());
  }

  void undoWhileWritingTakesTheRunBack() {
    Playground p(m_memory);
    start(p, kEndless);
    p.click("Generate");
    QTRY_VERIFY(p.document().size() > 200);
    p.key(Qt::Key_Z, Qt::ControlModifier);
    QCOMPARE(textOf(p.document()), QString("The rain"));
    QTRY_VERIFY(p.isIdle() && p.isUpToDate());
    QCOMPARE(textOf(p.document()), QString("The rain"));
    p.key(Qt::Key_Z, Qt::ControlModifier);
    QCOMPARE(textOf(p.document()), QString("The"));
    p.key(Qt::Key_Y, Qt::ControlModifier);
    p.key(Qt::Key_Z, Qt::ControlModifier | Qt::ShiftModifier);
    QVERIFY(textOf(p.document()).startsWith("The rain"));
  }

  void whatTheEngineSaidOfAnOlderTextIsDropped() {
    Playground p(m_memory);
    start(p, kEndless);
    p.click("Generate");
    QTRY_VERIFY(p.document().size() > 100);
    p.open(bundledFolder("books"));  // keeps the engine from hearing of the edit
    const mb::Bytes before = p.document().bytes();
    p.document().replace(0, 1, toBytes("X"));
    QTRY_VERIFY(!p.window.models().isLoading() && p.isUpToDate());
    QCOMPARE(p.document().size(), before.size());
    QVERIFY(p.document().bytes(1, before.size()) == mb::Bytes(before.begin() + 1, before.end()));
  }

  void continuingFromTheCaretDropsTheTail() {
    Playground p(m_memory);
    start(p, 30);
    p.click("Generate");
    QTRY_VERIFY(p.isIdle() && p.document().size() == 38);
    p.view().setCaret(4);
    p.key(Qt::Key_Return, Qt::ControlModifier | Qt::ShiftModifier);
    QTRY_VERIFY(p.isIdle() && p.document().size() == 34);
    QVERIFY(p.document().bytes(0, 4) == toBytes("The "));
  }

  void anotherLayerShowsOtherValues() {
    Playground p(m_memory);
    start(p, 30);
    p.click("Generate");
    QTRY_VERIFY(p.isIdle() && p.document().size() == 38);
    QTRY_VERIFY(!std::isnan(p.window.state().valueAt(20, 0)));
    const double before = p.window.state().valueAt(20, 0);
    const std::size_t layer = p.workspace.traces.layer();
    for (auto* box : p.window.state().findChildren<QComboBox*>())
      if (box->accessibleName() == "Layer") QTest::keyClick(box, Qt::Key_Up);
    QCOMPARE(p.workspace.traces.layer(), layer - 1);
    QTRY_VERIFY(!std::isnan(p.window.state().valueAt(20, 0)));
    QVERIFY(p.window.state().valueAt(20, 0) != before);
  }

  void nothingIsObservedForAHiddenHeatmap() {
    Playground p(m_memory);
    p.window.state().hide();
    start(p, 30);
    p.click("Generate");
    QTRY_VERIFY(p.isIdle() && p.document().size() == 38 && p.isUpToDate());
    QVERIFY(std::isnan(p.window.state().valueAt(20, 0)));
    p.action("State").trigger();
    QTRY_VERIFY(!std::isnan(p.window.state().valueAt(20, 0)));
  }

  void aBadFolderIsExplainedAndTheOldModelGoesOn() {
    Playground p(m_memory);
    start(p, 20);
    QVERIFY(!p.window.text().messages().isVisible());
    p.open(goldenFolder("tiny-byte"), goldenFolder("subword"));
    QTRY_VERIFY(p.window.text().messages().isVisible());
    const QString message = p.window.text().messages().text();
    QVERIFY2(message.contains("expected a subword model with a tokenizer.json"),
             qPrintable(message));
    QVERIFY(message.contains("found no tokenizer.json"));
    QVERIFY(message.contains("subword"));
    QVERIFY(!p.window.models().isLoading());
    p.click("Generate");
    QTRY_VERIFY(p.isIdle() && p.document().size() == 28);
    auto* open = p.window.text().messages().findChild<QPushButton*>();
    QCOMPARE(open->text(), QString("Open the bundled pair"));
    QTest::mouseClick(open, Qt::LeftButton);
    QTRY_VERIFY(p.window.models().models()->drafter);
    QVERIFY(!p.window.text().messages().isVisible());
    QVERIFY(p.button("Verifier model").text().startsWith(QString::fromUtf8("books · 14M")));
  }

  void loadsThatFollowEachOtherAreCountedOut() {
    Playground p(m_memory);
    QSignalSpy failures(&p.window.models(), &ModelChooser::failed);
    p.open(bundledFolder("books"));
    p.open("/nowhere/at/all");
    p.openTiny();
    QTRY_VERIFY(!p.window.models().isLoading());
    QCOMPARE(QString::fromStdString(p.window.models().models()->verifier.info.name),
             QString("tiny-byte"));
    p.open("/nowhere/at/all");
    QTRY_VERIFY(failures.count() > 0 && !p.window.models().isLoading());
    p.window.models().save(m_memory.settings());
    QVERIFY(m_memory.settings().value("models/verifier").toString().endsWith("tiny-byte"));
  }

  void aBundledPairSpeculates() {
    Playground p(m_memory);
    p.window.models().openBundled();
    p.type("It was a dark and stormy night; the");
    QTRY_VERIFY(p.isUpToDate());
    p.setBytes(64);
    p.click("Generate");
    QTRY_VERIFY_WITH_TIMEOUT(p.isIdle() && p.document().size() == 99, 30'000);
    QVERIFY(!p.document().rounds().empty());
    const mb::SpeculationTotals totals = p.window.speculation().totals();
    QCOMPARE(totals.drafted, totals.accepted + totals.rejected + totals.ignored);
    QTRY_VERIFY_WITH_TIMEOUT(p.window.runs().timesPlain() > 0, 30'000);
    QVERIFY(p.window.runs().bytesPerSecond() > 0);
  }

  void aNewTextEmptiesEveryPanelAndSaysWhatToDo() {
    Playground p(m_memory);
    start(p, 20);
    p.click("Generate");
    QTRY_VERIFY(p.isIdle() && p.document().size() == 28);
    p.key(Qt::Key_N, Qt::ControlModifier);
    QVERIFY(p.document().isEmpty());
    const auto hints = [&] {
      int visible = 0;
      for (const auto* label : p.window.findChildren<QLabel*>())
        visible +=
            label->property("role") == "hint" && label->isVisible() && label->text().size() > 20;
      return visible;
    };
    QTRY_COMPARE(hints(), 4);
  }

  void shortcutsReachTheText() {
    Playground p(m_memory);
    start(p, 20);
    p.key(Qt::Key_H, Qt::ControlModifier);
    QVERIFY(p.view().showsHex());
    p.key(Qt::Key_L, Qt::ControlModifier);
    QCOMPARE(p.view().coloring(), mb::ui::TextColoring::Surprisal);
    p.key(Qt::Key_R, Qt::ControlModifier);
    QVERIFY(!p.view().showsRejected());
    p.key(Qt::Key_A, Qt::ControlModifier);
    p.key(Qt::Key_X, Qt::ControlModifier);
    QVERIFY(p.document().isEmpty());
    p.key(Qt::Key_V, Qt::ControlModifier);
    QCOMPARE(textOf(p.document()), QString("The rain"));
    p.key(Qt::Key_F, Qt::ControlModifier);
    QTest::keyClicks(QApplication::focusWidget(), "rain");
    QCOMPARE(p.view().selection().begin, std::size_t{4});
    p.key(Qt::Key_Escape);
    QVERIFY(!p.window.text().findBar().isVisible());
    QCOMPARE(QApplication::focusWidget(), static_cast<QWidget*>(&p.view()));
  }

  void editingKeysInTheFindBarDoNotChangeTheText() {
    Playground p(m_memory);
    start(p, 20);
    p.key(Qt::Key_F, Qt::ControlModifier);
    QTest::keyClicks(QApplication::focusWidget(), "rain");
    p.key(Qt::Key_A, Qt::ControlModifier);
    p.key(Qt::Key_X, Qt::ControlModifier);
    p.key(Qt::Key_Z, Qt::ControlModifier);
    QCOMPARE(textOf(p.document()), QString("The rain"));
  }

  void whatIsPointedAtIsMarkedEverywhere() {
    Playground p(m_memory);
    start(p, 30);
    p.click("Generate");
    QTRY_VERIFY(p.isIdle() && p.document().size() == 38 && p.isUpToDate());
    QTest::mouseMove(p.view().viewport(), placeOf(p, 15));
    QCOMPARE(p.workspace.linked.hovered(), std::optional<std::size_t>(15));
    QTRY_COMPARE(p.window.nextByte().position(), std::size_t{15});
  }

 private:
  /// A tiny model, "The rain", and how much to write.
  void start(Playground& p, std::size_t bytes) {
    p.openTiny();
    p.type("The rain");
    p.setBytes(bytes);
    QTRY_VERIFY(p.isUpToDate());
  }
  static QPoint placeOf(Playground& p, std::size_t byte) {
    p.view().setCaret(byte);
    const QRectF caret =
        static_cast<const QWidget&>(p.view()).inputMethodQuery(Qt::ImCursorRectangle).toRectF();
    return QPointF(caret.center().x() + 4, caret.center().y()).toPoint();
  }
  /// Clicks the first candidate that is not what stands there already, and lets 30 bytes follow.
  static Byte otherCandidate(Playground& p) {
    QListView& list = p.window.nextByte().list();
    for (int row = 0; row < 5; ++row) {
      const QModelIndex index = p.window.nextByte().candidates().index(row);
      if (index.data(CandidateModel::TakenRole).toBool()) continue;
      const int byte = index.data(CandidateModel::ByteRole).toInt();
      QTest::mouseClick(list.viewport(), Qt::LeftButton, {}, list.visualRect(index).center());
      return static_cast<Byte>(byte);
    }
    return 0;
  }

  Memory m_memory;
};

QTEST_MAIN(MainWindowTest)
#include "test_main_window.moc"
