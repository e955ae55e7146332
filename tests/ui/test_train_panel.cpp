// Training in the window, driven by its widgets: from choosing a text to writing with what was
// learned.
#include <QAbstractButton>
#include <QComboBox>
#include <QLabel>
#include <QPlainTextEdit>
#include <QSpinBox>
#include <QtTest>
#include <qcustomplot.h>

#include "tests/support/file_size_limit.h"
#include "tests/support/model_files.h"
#include "tests/support/playground.h"
#include "ui/panels/train_form.h"
#include "ui/widgets/message_strip.h"

using namespace mb::test;
using mb::ui::TrainingRuns;
using mb::ui::TrainingState;
using mb::ui::TrainPanel;

namespace {

constexpr int kPatience = 60'000;  // milliseconds; only a hang takes so long
constexpr int kManySteps = 1'000'000;

/// A window with a small model open, a text to train on, and a folder for the runs.
struct Trainer {
  explicit Trainer(const std::filesystem::path& model = goldenFolder("tiny-byte"))
      : Trainer(std::make_shared<TemporaryFolder>(), model) {}
  /// In a folder that an earlier window used.
  explicit Trainer(std::shared_ptr<TemporaryFolder> place,
                   const std::filesystem::path& model = goldenFolder("tiny-byte"))
      : shared(std::move(place)), folder(*shared), p(memory) {
    const std::string words =
        readFile(std::filesystem::path(MB_TEST_DATA) / "books-test-excerpt.txt");
    writeFile(folder / "text", words.substr(0, 5000));
    panel().setRuns(TrainingRuns(folder / "runs"));
    p.open(model);
    panel().raise();
  }

  TrainPanel& panel() { return p.window.train(); }
  bool isOpen() { return p.window.models().models() && !p.window.models().isLoading(); }
  std::filesystem::path verifier() { return p.window.models().models()->verifier.info.folder; }
  TrainingState state() { return panel().link().state(); }
  std::size_t steps() { return panel().link().history().steps.size(); }

  QAbstractButton& button(const QString& name) {
    for (auto* found : panel().findChildren<QAbstractButton*>())
      if (found->accessibleName() == name) return *found;
    qFatal("no button %s", qPrintable(name));
  }
  void click(const QString& name) { QTest::mouseClick(&button(name), Qt::LeftButton); }
  QComboBox& choice(const QString& name) {
    for (auto* found : panel().findChildren<QComboBox*>())
      if (found->accessibleName() == name) return *found;
    qFatal("no choice %s", qPrintable(name));
  }
  QString sample(const QString& name) {
    for (auto* found : panel().findChildren<QPlainTextEdit*>())
      if (found->accessibleName() == name) return found->toPlainText();
    qFatal("no sample %s", qPrintable(name));
  }
  QCustomPlot& plot() { return *panel().findChild<QCustomPlot*>(); }
  int points(int graph) { return plot().graph(graph)->data()->size(); }
  QString message() {
    return panel().messages().isVisible() ? panel().messages().text() : QString();
  }

  void choose(const std::filesystem::path& file) {
    panel().form().setFiles({QString::fromStdString(file.string())});
  }
  void setSteps(int steps) {
    choice("Unit of the budget").setCurrentIndex(1);
    panel().findChild<QSpinBox*>()->setValue(steps);
  }
  /// Trains the open model on the text.
  void start(int steps) {
    choose(folder / "text");
    setSteps(steps);
    click("Start training");
  }

  std::shared_ptr<TemporaryFolder> shared;
  TemporaryFolder& folder;
  Memory memory;
  Playground p;
};

}  // namespace

class TrainPanelTest : public QObject {
  Q_OBJECT

 private slots:
  void anEmptyPanelSaysWhatToDo() {
    Trainer t;
    QTRY_VERIFY_WITH_TIMEOUT(t.p.shows("Choose a text"), kPatience);
    for (const char* name :
         {"Start training", "Pause training", "Stop training", "Keep the trained model"})
      QVERIFY2(!t.button(name).isEnabled(), name);
    t.choose(t.folder / "text");
    QVERIFY(t.button("Start training").isEnabled());
    QCOMPARE(t.button("Text to train on").text(), QString("text"));
  }

  void filesAreChosenInADialog() {
    if (!kFileDialogs) QSKIP("see kFileDialogs");
    Trainer t;
    answerWithFile(t.folder / "text");
    t.click("Text to train on");
    QCOMPARE(t.panel().form().files().size(), 1);
    QVERIFY(t.panel().form().files()[0].endsWith("/text"));
  }

  void trainsPausesGoesOnStopsKeepsAndWrites() {
    Trainer t;
    QTRY_VERIFY_WITH_TIMEOUT(t.isOpen(), kPatience);
    QCOMPARE(t.choice("Model to train").currentText().left(19), QString("fine-tune tiny-byte"));
    t.start(kManySteps);
    QTRY_VERIFY_WITH_TIMEOUT(t.points(0) > 5 && t.points(1) >= 1, kPatience);
    QVERIFY(t.p.shows("Training, step "));
    QVERIFY(t.sample("Newest sample").size() > 100);
    QVERIFY(!t.panel().form().isVisible());  // which made room

    t.click("Pause training");
    QTRY_VERIFY_WITH_TIMEOUT(t.state() == TrainingState::Paused, kPatience);
    QTRY_VERIFY_WITH_TIMEOUT(t.p.shows("Paused at step"), kPatience);
    const std::size_t paused = t.steps();
    const auto inPause = t.folder / "in-pause";
    t.panel().link().keep(inPause);  // which the thread that trains does
    QTRY_VERIFY_WITH_TIMEOUT(t.isOpen() && t.verifier() == inPause, kPatience);
    QCOMPARE(t.steps(), paused);

    t.click("Resume training");
    QTRY_VERIFY_WITH_TIMEOUT(t.steps() > paused + 3, kPatience);
    const auto& steps = t.panel().link().history().steps;
    for (std::size_t i = 0; i < steps.size(); ++i) QCOMPARE(steps[i].step.step, i + 1);

    t.click("Stop training");
    QTRY_VERIFY_WITH_TIMEOUT(t.state() == TrainingState::Ended, kPatience);
    QTRY_VERIFY_WITH_TIMEOUT(t.p.shows("Ended at step"), kPatience);

    const auto kept = t.folder / "kept";
    t.panel().link().keep(kept);
    QTRY_VERIFY_WITH_TIMEOUT(t.isOpen() && t.verifier() == kept, kPatience);
    QVERIFY2(t.message().isEmpty(), qPrintable(t.message()));
    t.p.type("The ");
    t.p.setBytes(20);
    QTRY_VERIFY_WITH_TIMEOUT(t.p.isUpToDate(), kPatience);
    t.p.click("Generate");
    QTRY_VERIFY_WITH_TIMEOUT(t.p.isIdle() && t.p.document().size() == 24, kPatience);
  }

  void keepingAsksForAFolder() {
    if (!kFileDialogs) QSKIP("see kFileDialogs");
    Trainer t;
    QTRY_VERIFY_WITH_TIMEOUT(t.isOpen(), kPatience);
    t.start(3);
    QTRY_VERIFY_WITH_TIMEOUT(t.state() == TrainingState::Ended, kPatience);
    answerWithFile(t.folder / "chosen");
    t.click("Keep the trained model");
    QTRY_VERIFY_WITH_TIMEOUT(std::filesystem::exists(t.folder / "chosen/model.safetensors"),
                             kPatience);
  }

  void figuresAndAxesAreThoseOfTheRun() {
    Trainer t;
    QTRY_VERIFY_WITH_TIMEOUT(t.isOpen(), kPatience);
    t.start(4);
    QTRY_VERIFY_WITH_TIMEOUT(t.state() == TrainingState::Ended, kPatience);
    const auto& history = t.panel().link().history();
    QCOMPARE(history.steps.size(), std::size_t{4});
    QCOMPARE(history.validations.size(), std::size_t{2});  // before and after
    t.p.window.refreshAll();
    QCOMPARE(t.points(0), 4);
    QCOMPARE(t.plot().xAxis->label(), QString("step"));
    QCOMPARE(t.plot().yAxis->label(), QString("bits/byte"));
    QCOMPARE(t.plot().xAxis->range().upper, 4.0);
    QCOMPARE(t.plot().graph(0)->data()->at(3)->value, history.steps[3].bitsPerByte);
    QVERIFY(t.p.shows(QString::number(history.steps[3].bitsPerByte, 'f', 3)));
    QVERIFY(t.p.shows(QString::number(history.validations[1].bitsPerByte, 'f', 3)));
    QVERIFY(t.plot().yAxis->range().contains(history.validations[0].bitsPerByte));
    auto& earlier = t.choice("Earlier sample to compare with");
    QCOMPARE(earlier.count(), 2);
    QCOMPARE(earlier.itemText(0), QString("before training"));
    const QString before = t.sample("Earlier sample");
    QVERIFY(before != t.sample("Newest sample"));
    earlier.setCurrentIndex(1);
    QCOMPARE(t.sample("Earlier sample"), t.sample("Newest sample"));
  }

  void anotherTrainingCanFollow() {
    Trainer t;
    QTRY_VERIFY_WITH_TIMEOUT(t.isOpen(), kPatience);
    t.start(2);
    QTRY_VERIFY_WITH_TIMEOUT(t.state() == TrainingState::Ended, kPatience);
    QTRY_VERIFY_WITH_TIMEOUT(t.button("New training").isVisible(), kPatience);
    t.click("New training");
    QVERIFY(t.panel().form().isVisible());
    t.start(3);
    QTRY_VERIFY_WITH_TIMEOUT(t.state() == TrainingState::Ended && t.steps() == 3, kPatience);
    t.p.window.refreshAll();
    QCOMPARE(t.points(0), 3);
    QCOMPARE(t.choice("Earlier sample to compare with").count(), 2);
  }

  void theEngineWritesWhileTrainingGoesOn() {
    Trainer t;
    QTRY_VERIFY_WITH_TIMEOUT(t.isOpen(), kPatience);
    t.start(kManySteps);
    QTRY_VERIFY_WITH_TIMEOUT(t.steps() > 0, kPatience);
    t.p.type("The ");
    t.p.setBytes(200);
    QTRY_VERIFY_WITH_TIMEOUT(t.p.isUpToDate(), kPatience);
    t.p.click("Generate");
    QTRY_VERIFY_WITH_TIMEOUT(t.p.isIdle() && t.p.document().size() == 204, kPatience);
    QCOMPARE(t.state(), TrainingState::Training);
    const std::size_t before = t.steps();
    QTRY_VERIFY_WITH_TIMEOUT(t.steps() > before, kPatience);
  }

  void minutesAreTurnedIntoSteps() {
    Trainer t;
    QTRY_VERIFY_WITH_TIMEOUT(t.isOpen(), kPatience);
    t.choose(t.folder / "text");
    QCOMPARE(t.choice("Unit of the budget").currentText(), QString("minutes"));
    t.click("Start training");
    QTRY_VERIFY_WITH_TIMEOUT(t.panel().link().history().fitted, kPatience);
    QTRY_VERIFY_WITH_TIMEOUT(t.p.shows("A step takes "), kPatience);
    QVERIFY(t.panel().link().history().fitted->steps > 10);
  }

  void aRunThatWasCutOffIsOffered() {
    const auto folder = std::make_shared<TemporaryFolder>();
    std::uint64_t done = 0;
    {
      Trainer first(folder);
      QTRY_VERIFY_WITH_TIMEOUT(first.isOpen(), kPatience);
      first.start(kManySteps);
      QTRY_VERIFY_WITH_TIMEOUT(first.steps() > 2, kPatience);
      done = first.panel().link().history().steps.back().step.step;
    }  // closed in the middle
    Trainer second(folder);
    QTRY_VERIFY_WITH_TIMEOUT(second.isOpen(), kPatience);
    QTRY_VERIFY_WITH_TIMEOUT(second.p.shows("The training on text ended at step "), kPatience);
    second.click("Resume training");
    QTRY_VERIFY_WITH_TIMEOUT(second.steps() > done + 20, kPatience);
    const auto& history = second.panel().link().history();
    for (std::size_t i = 0; i < history.steps.size(); ++i)
      QCOMPARE(history.steps[i].step.step, i + 1);
    QCOMPARE(history.samples[0].step, std::uint64_t{0});
  }

  void aFullDiskIsExplainedAndCostsNothing() {
    Trainer t;
    QTRY_VERIFY_WITH_TIMEOUT(t.isOpen(), kPatience);
    t.start(kManySteps);
    QTRY_VERIFY_WITH_TIMEOUT(t.steps() > 2, kPatience);
    {
      const FileSizeLimit limit(500);
      QTRY_VERIFY_WITH_TIMEOUT(t.message().contains("disk"), kPatience);
      QCOMPARE(t.state(), TrainingState::Ended);
    }
    const std::size_t before = t.steps();
    t.click("Resume training");
    QTRY_VERIFY_WITH_TIMEOUT(t.steps() > before + 2, kPatience);
    QVERIFY(t.message().isEmpty());
  }

  /// A step of it takes seconds.
  void theBundledModelPausesInTheMiddleOfAStep() {
    Trainer t(bundledFolder("books"));
    QTRY_VERIFY_WITH_TIMEOUT(t.isOpen(), kPatience);
    t.start(kManySteps);
    QTRY_VERIFY_WITH_TIMEOUT(!t.panel().link().history().samples.empty(), kPatience);
    QElapsedTimer clock;
    clock.start();
    t.click("Pause training");
    QTRY_VERIFY_WITH_TIMEOUT(t.state() == TrainingState::Paused, kPatience);
    qInfo("paused after %lld ms, as the window sees it", clock.elapsed());
    t.click("Stop training");
    QTRY_VERIFY_WITH_TIMEOUT(t.state() == TrainingState::Ended, kPatience);
    QVERIFY(t.button("Resume training").isEnabled());
  }

  void aBadFileIsExplained_data() {
    QTest::addColumn<QString>("content");
    QTest::addColumn<QString>("expected");
    QTest::newRow("missing") << QString() << "/file";
    QTest::newRow("empty") << QString("") << "expected at least one byte, found none";
    QTest::newRow("short") << QString("abc") << "at least 257 tokens";
  }
  void aBadFileIsExplained() {
    QFETCH(QString, content);
    QFETCH(QString, expected);
    Trainer t;
    QTRY_VERIFY_WITH_TIMEOUT(t.isOpen(), kPatience);
    if (!content.isNull()) writeFile(t.folder / "file", content.toStdString());
    t.choose(t.folder / "file");
    t.click("Start training");
    QTRY_VERIFY_WITH_TIMEOUT(t.message().contains(expected), kPatience);
    QCOMPARE(t.state(), TrainingState::Idle);
    QVERIFY(t.button("Start training").isEnabled());
    t.start(2);  // and the next one works
    QTRY_VERIFY_WITH_TIMEOUT(t.state() == TrainingState::Ended && t.steps() == 2, kPatience);
    QVERIFY(t.message().isEmpty());
  }

  void aFolderWithSomethingInItIsNotOverwritten() {
    Trainer t;
    QTRY_VERIFY_WITH_TIMEOUT(t.isOpen(), kPatience);
    t.start(2);
    QTRY_VERIFY_WITH_TIMEOUT(t.state() == TrainingState::Ended, kPatience);
    std::filesystem::create_directory(t.folder / "full");
    writeFile(t.folder / "full/mine", "precious");
    t.panel().link().keep(t.folder / "full");
    QTRY_VERIFY_WITH_TIMEOUT(t.message().contains("expected a new or empty folder"), kPatience);
    QCOMPARE(readFile(t.folder / "full/mine"), std::string("precious"));
  }

  void aLossThatIsNoNumberIsExplained() {
    const TemporaryFolder models;
    const mb::ModelConfig config = smallConfig();
    FileTensors tensors = randomTensors(config, 3);
    const std::vector<float> huge(config.dModel, 3e38f);
    tensors["backbone.norm_f.weight"].data = encodeValues(mb::DataType::Float32, huge);
    writeModel(models / "huge", config, tensors);
    Trainer t(models / "huge");
    QTRY_VERIFY_WITH_TIMEOUT(t.isOpen(), kPatience);
    t.start(5);
    QTRY_VERIFY_WITH_TIMEOUT(t.state() == TrainingState::Ended, kPatience);
    QTRY_VERIFY_WITH_TIMEOUT(t.message().contains("step 1 is not a number"), kPatience);
    QVERIFY(!t.button("Pause training").isEnabled());  // there is nothing to go on with
  }

  void aModelWithoutItsTokenizerIsExplained() {
    const TemporaryFolder models;
    Trainer t;
    QTRY_VERIFY_WITH_TIMEOUT(t.isOpen(), kPatience);
    mb::ui::ModelsLoaded open = *t.p.window.models().models();
    open.verifier.info.folder = goldenFolder("subword");
    t.panel().setModels(open);
    t.start(2);
    QTRY_VERIFY_WITH_TIMEOUT(t.message().contains("tokenizer"), kPatience);
    QCOMPARE(t.state(), TrainingState::Idle);
  }

  void aDeviceThatIsNotThereIsExplained() {
    Trainer t;
    QTRY_VERIFY_WITH_TIMEOUT(t.isOpen(), kPatience);
    mb::ui::ModelsLoaded open = *t.p.window.models().models();
    open.devices = {{mb::DeviceKind::Cpu, 0, "CPU", {}}, {mb::DeviceKind::Cuda, 99, "A GPU", {}}};
    t.panel().setModels(open);
    auto& device = t.choice("Processor to train on");
    QCOMPARE(device.count(), 2);
    QCOMPARE(device.currentText(), QString("A GPU"));  // by itself
    t.start(2);
    QTRY_VERIFY_WITH_TIMEOUT(t.message().contains("CUDA"), kPatience);
    QCOMPARE(t.state(), TrainingState::Idle);
    device.setCurrentIndex(0);
    t.panel().setModels(open);
    QCOMPARE(device.currentText(), QString("CPU"));  // what was chosen stays
    t.start(2);
    QTRY_VERIFY_WITH_TIMEOUT(t.state() == TrainingState::Ended, kPatience);
  }
};

QTEST_MAIN(TrainPanelTest)
#include "test_train_panel.moc"
