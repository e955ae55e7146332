// A device that fails: the work goes on on the CPU, from the same text, and the window says why.
#include <QSignalSpy>
#include <QtTest>
#include <atomic>

#include "engine/error.h"
#include "tests/support/engine_talk.h"
#include "tests/support/playground.h"
#include "tests/support/thrown.h"
#include "ui/window/device_menu.h"

using namespace mb;
using namespace mb::test;
using mb::ui::DeviceLost;
using mb::ui::ModelsLoaded;
using mb::ui::RunFinished;
using mb::ui::TaskFailed;

#define TRY(talk, condition) QTRY_VERIFY_WITH_TIMEOUT((talk).listen() && (condition), 60'000)

namespace {

/// A CPU model that claims to be a CUDA device and breaks after some chunks.
class BreakingModel : public Model {
 public:
  BreakingModel(std::shared_ptr<const Model> model, int chunks)
      : m_model(std::move(model)), m_left(chunks) {}
  const ModelConfig& config() const override { return m_model->config(); }
  const ModelInfo& info() const override { return m_model->info(); }
  std::unique_ptr<Runner> newRunner() const override {
    return std::make_unique<BreakingRunner>(m_model->newRunner(), m_left);
  }

 private:
  class BreakingRunner : public Runner {
   public:
    BreakingRunner(std::unique_ptr<Runner> runner, std::atomic<int>& left)
        : m_runner(std::move(runner)), m_left(left) {}
    std::size_t maxChunk() const override { return m_runner->maxChunk(); }
    void advance(const State& from, State& to, TokenView tokens,
                 const ChunkRequest& request) override {
      if (m_left-- <= 0) throw DeviceError("CUDA device 0 failed: a loose plug");
      m_runner->advance(from, to, tokens, request);
    }
    void rewind(const State& from, State& to, std::size_t kept) override {
      m_runner->rewind(from, to, kept);
    }
    std::span<const float> logits(std::size_t index) const override {
      return m_runner->logits(index);
    }
    const TapBlock& taps() const override { return m_runner->taps(); }

   private:
    std::unique_ptr<Runner> m_runner;
    std::atomic<int>& m_left;
  };

  std::shared_ptr<const Model> m_model;
  mutable std::atomic<int> m_left;
};

/// Opens models of which those for CUDA break after `chunks` chunks.
ui::OpenModels breakingAfter(int chunks) {
  return [chunks](const ui::LoadModels& command, std::stop_token stop) {
    ui::LoadModels onCpu = command;
    onCpu.device.kind = DeviceKind::Cpu;
    ui::OpenedModels opened = ui::openModels(onCpu, stop);
    if (command.device.kind == DeviceKind::Cpu) return opened;
    opened.verifier = std::make_shared<BreakingModel>(opened.verifier, chunks);
    opened.device = DeviceKind::Cuda;
    return opened;
  };
}

constexpr std::size_t kWritten = 40;
const std::string kPrompt = "The rain had stopped, and in the street a door was opened and shut.";

}  // namespace

class DeviceLossTest : public QObject {
  Q_OBJECT

 private slots:
  void aRunGoesOnAsIfNothingHadHappened_data() {
    QTest::addColumn<int>("chunks");
    // While the prompt is scored, at the first byte, and in the middle.
    for (const int chunks : {0, 1, 2, 3, 25})
      QTest::addRow("breaks after %d chunks", chunks) << chunks;
  }
  void aRunGoesOnAsIfNothingHadHappened() {
    QFETCH(int, chunks);
    EngineTalk whole;
    const Bytes expected = write(whole, DeviceKind::Cpu);
    if (QTest::currentTestFailed()) return;
    EngineTalk broken(breakingAfter(chunks));
    const Bytes text = write(broken, DeviceKind::Cuda);
    if (QTest::currentTestFailed()) return;
    QVERIFY(text == expected);
    const auto lost = broken.all<DeviceLost>();
    QCOMPARE(lost.size(), std::size_t{1});
    QVERIFY2(mentions(lost.front().problem, "CUDA device 0", "a loose plug"),
             lost.front().problem.c_str());
    QCOMPARE(lost.front().now.device, DeviceKind::Cpu);
    QVERIFY(broken.all<TaskFailed>().empty());
    for (std::size_t i = 1; i < text.size(); ++i)
      QCOMPARE(broken.heard.records[i].surprisal, whole.heard.records[i].surprisal);
  }

  void aCpuThatFailsIsNotReplaced() {
    EngineTalk talk([](const ui::LoadModels& command, std::stop_token stop) {
      ui::OpenedModels opened = ui::openModels(command, stop);
      opened.verifier = std::make_shared<BreakingModel>(opened.verifier, 0);
      return opened;
    });
    talk.load(goldenFolder("tiny-byte"));
    TRY(talk, talk.last<ModelsLoaded>());
    talk.setText(toBytes(kPrompt));
    TRY(talk, talk.last<TaskFailed>());
    QVERIFY(mentions(talk.last<TaskFailed>()->problem, "a loose plug"));
    QVERIFY(talk.all<DeviceLost>().empty());
  }

  void modelsOpenOnTheCpuWhereThereIsNoCuda() {
    if (chooseDevice().hasCuda()) QSKIP("this machine has a CUDA device");
    EngineTalk talk;
    talk.load(goldenFolder("tiny-byte"), {}, DeviceKind::Cuda);
    TRY(talk, talk.last<ModelsLoaded>());
    QCOMPARE(talk.last<ModelsLoaded>()->device, DeviceKind::Cpu);
    QVERIFY(mentions(talk.last<ModelsLoaded>()->deviceReason, "CUDA"));
    talk.load(goldenFolder("tiny-byte"), {}, DeviceKind::Auto);
    TRY(talk, talk.all<ModelsLoaded>().size() == 2);
    QCOMPARE(talk.last<ModelsLoaded>()->device, DeviceKind::Cpu);
  }

  void theWindowSaysWhyAndShowsTheNewDevice() {
    Memory memory;
    Playground p(memory);
    p.openTiny();
    QTRY_VERIFY_WITH_TIMEOUT(p.window.models().models(), 60'000);
    DeviceLost lost{"CUDA device 0 failed: a loose plug", *p.window.models().models()};
    lost.now.deviceReason = lost.problem;
    emit p.window.link().deviceLost(lost);
    QVERIFY(p.shows("CUDA device 0 failed: a loose plug. The work goes on on the CPU."));
  }

  void theDeviceMenuReopensTheModelsOnWhatIsChosen() {
    Memory memory;
    {
      Playground p(memory);
      p.openTiny();
      QTRY_VERIFY_WITH_TIMEOUT(p.window.models().models(), 60'000);
      ui::DeviceMenu& menu = p.window.models().deviceMenu();
      QCOMPARE(menu.actions().front()->text(), QString("Automatic"));
      QVERIFY(menu.actions().front()->isChecked());
      menu.setDevices({{DeviceKind::Cpu, 0, "CPU", {}},
                       {DeviceKind::Cuda, 0, "NVIDIA H100", {1'500'000'000, 80'000'000'000}}});
      QCOMPARE(menu.actions().size(), 3);
      QCOMPARE(menu.actions().back()->text(), QString("NVIDIA H100 · 78.5 of 80.0 GB free"));
      QSignalSpy opened(&p.window.models(), &ui::ModelChooser::opened);
      p.action("CPU").trigger();
      QTRY_COMPARE_WITH_TIMEOUT(opened.size(), 1, 60'000);
      QCOMPARE(menu.chosen().kind, DeviceKind::Cpu);
      QVERIFY(p.action("CPU").isChecked() && !menu.actions().front()->isChecked());
      p.window.close();
    }
    Playground again(memory);
    QCOMPARE(again.window.models().deviceMenu().chosen().kind, DeviceKind::Cpu);
  }

 private:
  Bytes write(EngineTalk& talk, DeviceKind kind) {
    talk.load(goldenFolder("tiny-byte"), {}, kind);
    [&] { TRY(talk, talk.last<ModelsLoaded>()); }();
    talk.setText(toBytes(kPrompt));
    const auto run = talk.generate(kWritten, {});
    [&] { TRY(talk, talk.finished(run) && talk.isUpToDate()); }();
    const auto finished = talk.finished(run);
    [&] { QVERIFY(finished && finished->bytes == kWritten && !finished->stopped); }();
    return talk.text;
  }
};

QTEST_MAIN(DeviceLossTest)
#include "test_device_loss.moc"
