// What the window remembers, and the files it writes.
#include <QMessageBox>
#include <QTableWidget>
#include <QtTest>
#include <nlohmann/json.hpp>

#include "tests/support/playground.h"
#include "ui/widgets/message_strip.h"
#include "ui/window/dialogs.h"

using namespace mb::test;
using mb::Speculation;
using mb::ui::DetailsDialog;
using mb::ui::Panel;
using mb::ui::RunSettings;
using mb::ui::ShortcutsDialog;
using mb::ui::StateView;
using mb::ui::TextColoring;
using mb::ui::ThemeMode;

namespace {

QList<Panel*> panelsOf(Playground& p) {
  return {&p.window.nextByte(), &p.window.speculation(), &p.window.state(), &p.window.perplexity(),
          &p.window.train()};
}

}  // namespace

class WindowMemoryTest : public QObject {
  Q_OBJECT

 private slots:
  void settingsOfARunAreRemembered() {
    Memory memory;
    RunSettings run;
    run.bytes = 1234;
    run.generation.speculation = Speculation::Exact;
    run.generation.draftTokens = 6;
    run.generation.beta = 5;
    run.generation.healing = false;
    run.generation.leastConfidence = 0.25;
    run.generation.cutsDrafts = false;
    run.generation.sampler = {.temperature = 1.5,
                              .topK = 17,
                              .topP = 0.9,
                              .minP = 0.05,
                              .repetitionPenalty = 1.25,
                              .seed = 4711};
    {
      Playground p(memory);
      p.window.settingsEditor().setSettings(run);
      p.window.close();
    }
    Playground p(memory);
    const RunSettings again = p.window.settingsEditor().settings();
    QCOMPARE(again.bytes, run.bytes);
    QCOMPARE(again.generation.speculation, run.generation.speculation);
    QCOMPARE(again.generation.draftTokens, run.generation.draftTokens);
    QCOMPARE(again.generation.beta, run.generation.beta);
    QCOMPARE(again.generation.healing, run.generation.healing);
    QCOMPARE(again.generation.leastConfidence, run.generation.leastConfidence);
    QCOMPARE(again.generation.cutsDrafts, run.generation.cutsDrafts);
    QCOMPARE(again.generation.sampler.temperature, run.generation.sampler.temperature);
    QCOMPARE(again.generation.sampler.topK, run.generation.sampler.topK);
    QCOMPARE(again.generation.sampler.topP, run.generation.sampler.topP);
    QCOMPARE(again.generation.sampler.minP, run.generation.sampler.minP);
    QCOMPARE(again.generation.sampler.repetitionPenalty, run.generation.sampler.repetitionPenalty);
    QCOMPARE(again.generation.sampler.seed, run.generation.sampler.seed);
  }

  void theModeSurvivesASessionWithoutADrafter() {
    Memory memory;
    {
      Playground p(memory);
      p.openTiny();
      QTRY_VERIFY(p.window.models().models());
      QCOMPARE(p.window.settingsEditor().settings().generation.speculation, Speculation::Off);
      p.window.close();
    }
    Playground p(memory);
    QCOMPARE(p.window.settingsEditor().settings().generation.speculation, Speculation::Exact);
  }

  void damagedSettingsFallBackToWhatIsPossible() {
    Memory memory;
    memory.settings().setValue("run/temperature", "warm");
    memory.settings().setValue("run/speculation", 99);
    memory.settings().setValue("run/seed", -5);
    memory.settings().setValue("window/layout", QByteArray("nonsense"));
    memory.settings().setValue("window/geometry", QByteArray("nonsense"));
    memory.settings().setValue("text/coloring", 77);
    memory.settings().setValue("state/kind", 77);
    Playground p(memory);
    for (const Panel* panel : panelsOf(p)) QVERIFY(panel->isVisible());
    QVERIFY(p.window.settingsEditor().settings().bytes > 0);
    QCOMPARE(p.view().coloring(), TextColoring::Origin);
  }

  void theViewIsRemembered() {
    Memory memory;
    {
      Playground p(memory);
      p.view().setHex(true);
      p.view().setZoom(1.5);
      p.view().setShowRejected(false);
      p.view().setColoring(TextColoring::Surprisal);
      p.window.state().setView(StateView::LayersByBytes);
      p.window.close();
    }
    Playground p(memory);
    QVERIFY(p.view().showsHex());
    QCOMPARE(p.view().zoom(), 1.5);
    QVERIFY(!p.view().showsRejected());
    QCOMPARE(p.view().coloring(), TextColoring::Surprisal);
    QCOMPARE(p.window.state().view(), StateView::LayersByBytes);
  }

  void panelsCloseFloatAndComeBackAsTheyWere() {
    Memory memory;
    {
      Playground p(memory);
      for (const Panel* panel : panelsOf(p)) QVERIFY(panel->isVisible());
      p.click("Close Perplexity");
      QVERIFY(!p.window.perplexity().isVisible());
      p.window.speculation().setFloating(true);
      p.window.close();
    }
    Playground p(memory, {});
    QVERIFY(!p.window.perplexity().isVisible());
    QVERIFY(p.window.speculation().isFloating());
    QVERIFY(p.window.nextByte().isVisible());
    p.action("Perplexity").trigger();
    QVERIFY(p.window.perplexity().isVisible());
    p.action("Reset layout").trigger();
    for (const Panel* panel : panelsOf(p)) {
      QVERIFY(panel->isVisible());
      QVERIFY(!panel->isFloating());
    }
  }

  void everyPanelHasAKey() {
    Memory memory;
    Playground p(memory);
    const Qt::Key keys[] = {Qt::Key_1, Qt::Key_2, Qt::Key_3, Qt::Key_4, Qt::Key_5};
    const QList<Panel*> panels = panelsOf(p);
    for (int i = 0; i < panels.size(); ++i) {
      p.key(keys[i], Qt::ControlModifier);
      for (int k = 0; k < panels.size(); ++k) QCOMPARE(panels[k]->isHidden(), k == i);
      p.key(keys[i], Qt::ControlModifier);
      QTRY_VERIFY(panels[i]->isSeen());
    }
  }

  void aNarrowWindowShowsTabsAndRemembersTheRaisedOne() {
    Memory memory;
    {
      Playground p(memory, {1280, 800});
      QVERIFY(p.window.isNarrow());
      QTRY_VERIFY(p.window.speculation().isSeen());
      QVERIFY(!p.window.nextByte().isSeen());
      p.window.nextByte().raise();
      QTRY_VERIFY(p.window.nextByte().isSeen());
      QVERIFY(!p.window.speculation().isSeen());
      p.window.close();
    }
    Playground p(memory, {});
    QVERIFY(p.window.isNarrow());
    QTRY_VERIFY(p.window.nextByte().isSeen());
    QCoreApplication::processEvents();
    QVERIFY(!p.window.speculation().isSeen());
  }

  void growingAndShrinkingArrangesAnew() {
    Memory memory;
    Playground p(memory, {1280, 800});
    QVERIFY(p.window.isNarrow());
    p.window.resize(1700, 1000);
    QTRY_VERIFY(!p.window.isNarrow());
    for (const Panel* panel : panelsOf(p))
      if (panel != &p.window.train()) QTRY_VERIFY(panel->isSeen());
    p.window.train().raise();  // from behind the state
    QTRY_VERIFY(p.window.train().isSeen() && !p.window.state().isSeen());
    p.window.resize(1000, 700);
    QTRY_VERIFY(p.window.isNarrow());
    QTRY_VERIFY(!p.window.nextByte().isSeen());
  }

  void modelsAreRememberedAndReopened() {
    Memory memory;
    {
      Playground p(memory);
      p.openTiny();
      QTRY_VERIFY(p.window.models().models());
      p.window.close();
    }
    Playground p(memory);
    p.window.openModels();
    QTRY_VERIFY(p.window.models().models());
    QCOMPARE(QString::fromStdString(p.window.models().models()->verifier.info.name),
             QString("tiny-byte"));
    QVERIFY(p.window.models().recent().first().contains("tiny-byte"));
  }

  void aModelThatIsGoneMakesRoomForTheBundledPair() {
    Memory memory;
    memory.settings().setValue("models/verifier", "/nowhere/at/all");
    Playground p(memory);
    p.window.openModels();
    QTRY_VERIFY(p.window.models().models());
    QCOMPARE(QString::fromStdString(p.window.models().models()->verifier.info.name),
             QString("books"));
    QVERIFY(p.window.models().models()->drafter);
  }

  void theThemeIsSwitchedLiveAndRemembered() {
    Memory memory;
    Playground p(memory);
    p.action("Dark").trigger();
    QVERIFY(p.theme().isDark());
    QCOMPARE(memory.settings().value("window/theme").toInt(), static_cast<int>(ThemeMode::Dark));
    QCOMPARE(QApplication::palette().color(QPalette::Window), p.theme().colors().background);
    p.action("Light").trigger();
    QVERIFY(!p.theme().isDark());
  }

  void exportsARunAsJson() {
    if (!kFileDialogs) QSKIP("The file dialog's thread cannot be followed");
    Memory memory;
    const TemporaryFolder folder;
    Playground p(memory);
    p.window.models().openBundled();
    p.type("It was a dark and stormy night");
    QTRY_VERIFY(p.isUpToDate());
    p.setBytes(40);
    p.click("Generate");
    QTRY_VERIFY_WITH_TIMEOUT(p.isIdle() && p.document().size() == 70, 30'000);
    const auto file = folder / "run.json";
    answerWithFile(file);
    p.action(QString::fromUtf8("Export run as JSON…")).trigger();
    QTRY_VERIFY(std::filesystem::exists(file));
    const auto json = nlohmann::json::parse(readFile(file));
    QCOMPARE(json.at("byte_records").size(), std::size_t{70});
    QCOMPARE(json.at("round_records").size(), p.document().rounds().size());
    QCOMPARE(json.at("bytes").get<std::size_t>(), std::size_t{40});
    const auto& manifest = json.at("manifest");
    QCOMPARE(manifest.at("prompt_bytes").get<std::size_t>(), std::size_t{30});
    QVERIFY(manifest.at("model").is_object() && manifest.at("draft").is_object());
    QVERIFY(!manifest.at("version").get<std::string>().empty());
    QCOMPARE(manifest.at("settings").at("seed").get<int>(), 7);
    QVERIFY(json.at("byte_records").at(35).at("surprisal_bits").get<double>() >= 0);
  }

  void exportsAfterTheRunWasDeletedToo() {
    if (!kFileDialogs) QSKIP("The file dialog's thread cannot be followed");
    Memory memory;
    const TemporaryFolder folder;
    Playground p(memory);
    p.openTiny();
    p.type("The rain");
    p.setBytes(40);
    QTRY_VERIFY(p.isUpToDate());
    p.click("Generate");
    QTRY_VERIFY(p.isIdle() && p.document().size() == 48);
    p.view().selectAll();
    p.type("x");
    const auto file = folder / "run.json";
    answerWithFile(file);
    p.action(QString::fromUtf8("Export run as JSON…")).trigger();
    QTRY_VERIFY(std::filesystem::exists(file));
    const auto json = nlohmann::json::parse(readFile(file));
    QVERIFY(json.at("manifest").at("prompt_bytes").get<std::size_t>() <= 1);
  }

  void savesAndOpensAnyBytes() {
    if (!kFileDialogs) QSKIP("The file dialog's thread cannot be followed");
    Memory memory;
    const TemporaryFolder folder;
    Playground p(memory);
    mb::Bytes all;
    for (int i = 0; i < 512; ++i) all.push_back(static_cast<mb::Byte>(i * 7));
    p.document().setText(all);
    const auto file = folder / "text.txt";
    answerWithFile(file);
    p.action(QString::fromUtf8("Save text…")).trigger();
    QTRY_VERIFY(std::filesystem::exists(file));
    QCOMPARE(std::filesystem::file_size(file), std::uintmax_t{512});
    p.document().setText({});
    answerWithFile(file);
    p.action(QString::fromUtf8("Open text…")).trigger();
    QTRY_COMPARE(p.document().size(), std::size_t{512});
    QVERIFY(p.document().bytes() == all);
  }

  void aFileThatCannotBeWrittenIsExplained() {
    if (!kFileDialogs) QSKIP("The file dialog's thread cannot be followed");
    Memory memory;
    const TemporaryFolder folder;
    const auto file = folder / "text.txt";
    std::filesystem::create_symlink("/nowhere/at/all.txt", file);
    Playground p(memory);
    p.document().setText(mb::toBytes("text"));
    answerWithFile(file);
    p.action(QString::fromUtf8("Save text…")).trigger();
    QTRY_VERIFY(p.window.text().messages().isVisible());
    QVERIFY(p.window.text().messages().text().contains("cannot be written"));
  }

  void savesAScreenshot() {
    if (!kFileDialogs) QSKIP("The file dialog's thread cannot be followed");
    Memory memory;
    const TemporaryFolder folder;
    Playground p(memory);
    const auto file = folder / "window.png";
    answerWithFile(file);
    p.action(QString::fromUtf8("Save screenshot…")).trigger();
    QTRY_VERIFY(std::filesystem::exists(file));
    QCOMPARE(QImage(QString::fromStdString(file.string())).size(), p.window.size());
  }

  void shortcutsAndDetailsAreListed() {
    Memory memory;
    Playground p(memory);
    int rows = 0;
    answer<ShortcutsDialog>([&](ShortcutsDialog& dialog) {
      rows = dialog.findChild<QTableWidget*>()->rowCount();
      dialog.reject();
    });
    p.key(Qt::Key_F1);
    QVERIFY(rows > 25);
    p.openTiny();
    QTRY_VERIFY(p.window.models().models());
    QStringList cells;
    answer<DetailsDialog>([&](DetailsDialog& dialog) {
      auto* table = dialog.findChild<QTableWidget*>();
      for (int row = 0; row < table->rowCount(); ++row) cells += table->item(row, 1)->text();
      dialog.reject();
    });
    p.action(QString::fromUtf8("Details…")).trigger();
    QVERIFY(cells.contains("tiny-byte"));
    QVERIFY(cells.contains("256"));
  }
};

QTEST_MAIN(WindowMemoryTest)
#include "test_window_memory.moc"
