// Models that cannot be opened: what the worker says, and that the old ones go on.
#include <QtTest>

#include "tests/support/engine_talk.h"
#include "tests/support/model_files.h"
#include "tests/support/thrown.h"

using namespace mb;
using namespace mb::test;
using mb::ui::ModelsLoaded;
using mb::ui::Task;
using mb::ui::TaskFailed;

class EngineRefusalsTest : public QObject {
  Q_OBJECT

 private slots:
  void initTestCase() {
    m_talk.load(goldenFolder("tiny-byte"));
    TRY(m_talk, m_talk.last<ModelsLoaded>());
    m_talk.setText(toBytes("The rain"));
    TRY(m_talk, m_talk.isUpToDate());
  }

  /// Whatever was refused, the model from before still writes.
  void cleanup() {
    QCOMPARE(m_talk.all<ModelsLoaded>().size(), std::size_t{1});
    const std::size_t before = m_talk.text.size();
    const auto run = m_talk.generate(5, {});
    TRY(m_talk, m_talk.finished(run) && m_talk.isUpToDate());
    QCOMPARE(m_talk.text.size(), before + 5);
  }

  void aFolderThatIsNotThere() {
    const std::string problem = refusal("/nowhere/at/all");
    QVERIFY2(mentions(problem, "/nowhere/at/all"), problem.c_str());
  }

  void aFolderWithoutAModel() {
    const TemporaryFolder folder;
    const std::string problem = refusal(folder.path());
    QVERIFY2(mentions(problem, folder.path().string(), "config.json"), problem.c_str());
  }

  void aBrokenConfig() {
    const TemporaryFolder folder;
    writeFile(folder / "config.json", "{ not json");
    const std::string problem = refusal(folder.path());
    QVERIFY2(mentions(problem, "config.json"), problem.c_str());
  }

  void aTensorOfTheWrongShape() {
    const TemporaryFolder folder;
    const ModelConfig config = smallConfig();
    FileTensors tensors = randomTensors(config, 1);
    FileTensor& norm = tensors.at("backbone.norm_f.weight");
    norm.shape = {config.dModel / 2};
    norm.data.resize(norm.data.size() / 2);
    writeModel(folder.path(), config, tensors);
    const std::string problem = refusal(folder.path());
    QVERIFY2(mentions(problem, "backbone.norm_f.weight", "expected", "found", "16", "8"),
             problem.c_str());
  }

  void aTensorThatIsMissing() {
    const TemporaryFolder folder;
    FileTensors tensors = randomTensors(smallConfig(), 1);
    tensors.erase("backbone.layers.1.mixer.D");
    writeModel(folder.path(), smallConfig(), tensors);
    const std::string problem = refusal(folder.path());
    QVERIFY2(mentions(problem, "backbone.layers.1.mixer.D"), problem.c_str());
  }

  void aSubwordModelAsVerifier() {
    const std::string problem = refusal(goldenFolder("subword"));
    QVERIFY2(mentions(problem, "subword", "1000", "256"), problem.c_str());
  }

  void aDrafterWithoutATokenizer() {
    const std::string problem = refusal(goldenFolder("tiny-byte"), goldenFolder("subword"));
    QVERIFY2(mentions(problem, "expected a subword model with a tokenizer.json",
                      "found no tokenizer.json"),
             problem.c_str());
  }

  void aDrafterThatIsNotThere() {
    const std::string problem = refusal(goldenFolder("tiny-byte"), "/nowhere/draft");
    QVERIFY2(mentions(problem, "/nowhere/draft"), problem.c_str());
  }

 private:
  /// What the worker says when it is told to open this.
  std::string refusal(const std::filesystem::path& verifier,
                      const std::filesystem::path& drafter = {}) {
    const std::size_t before = m_talk.all<TaskFailed>().size();
    m_talk.load(verifier, drafter);
    [&] { TRY(m_talk, m_talk.all<TaskFailed>().size() > before); }();
    const auto failed = m_talk.last<TaskFailed>();
    return failed && failed->task == Task::Load ? failed->problem : std::string();
  }

  EngineTalk m_talk;
};

QTEST_GUILESS_MAIN(EngineRefusalsTest)
#include "test_engine_refusals.moc"
