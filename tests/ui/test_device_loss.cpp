// A device that fails: the work continues on the CPU, from the same text, and the window says why.
#include <QSignalSpy>
#include <QtTest>
#include <atomic>

#include "engine/error.h"
#include "tests/support/engine_talk.h"
#include "tests/support/forwarding_model.h"
#include "tests/support/playground.h"
#include "tests/support/thrown.h"
#include "ui/window/device_menu.h"

using namespace mb;
using namespace mb::test;
using mb::ui::DeviceLost;
using mb::ui::ModelsLoaded;
using mb::ui::RunFinished;
using mb::ui::TaskFailed;

namespace {

/// A device that breaks after some chunks.
struct Device {
  std::atomic<int> chunks;
  bool handsStatesOut = false;  ///< also when broken

  void use() const {
    if (chunks <= 0) throw DeviceError("CUDA device 0 failed: a loose plug");
  }
};

/// Values that go with the device.
class PluggedValues : public DeviceValues {
 public:
  PluggedValues(std::shared_ptr<const Device> device, std::span<const float> values)
      : m_device(std::move(device)), m_values(values.begin(), values.end()) {}
  std::unique_ptr<DeviceValues> clone() const override {
    m_device->use();
    return std::make_unique<PluggedValues>(m_device, m_values);
  }
  void download(std::span<float> values) const override {
    if (!m_device->handsStatesOut) m_device->use();
    std::ranges::copy(m_values, values.begin());
  }

 private:
  std::shared_ptr<const Device> m_device;
  std::vector<float> m_values;
};

/// A CPU model that claims to be on that device, and leaves states there.
class BreakingModel : public ForwardingModel {
 public:
  BreakingModel(std::shared_ptr<const Model> model, std::shared_ptr<Device> device)
      : ForwardingModel(std::move(model)), m_device(std::move(device)) {}
  std::unique_ptr<Runner> newRunner() const override {
    return std::make_unique<BreakingRunner>(ForwardingModel::newRunner(), m_device);
  }

 private:
  class BreakingRunner : public ForwardingRunner {
   public:
    BreakingRunner(std::unique_ptr<Runner> runner, std::shared_ptr<Device> device)
        : ForwardingRunner(std::move(runner)), m_device(std::move(device)) {}
    void advance(const State& from, State& to, TokenView tokens,
                 const ChunkRequest& request) override {
      m_device->use();
      --m_device->chunks;
      ForwardingRunner::advance(from, to, tokens, request);
      leaveOnDevice(to);
    }
    void rewind(const State& from, State& to, std::size_t kept) override {
      ForwardingRunner::rewind(from, to, kept);
      leaveOnDevice(to);
    }

   private:
    void leaveOnDevice(State& state) {
      const auto values = std::as_const(state).values();
      state.moveToDevice(std::make_unique<PluggedValues>(m_device, values));
    }

    std::shared_ptr<Device> m_device;
  };

  std::shared_ptr<Device> m_device;
};

/// Opens models of which those for CUDA are on `device`.
ui::OpenModels openOn(std::shared_ptr<Device> device) {
  return [device](const ui::LoadModels& command, std::stop_token stop) {
    ui::LoadModels onCpu = command;
    onCpu.device.kind = DeviceKind::Cpu;
    ui::OpenedModels opened = ui::openModels(onCpu, stop);
    if (command.device.kind == DeviceKind::Cpu) return opened;
    opened.verifier = std::make_shared<BreakingModel>(opened.verifier, device);
    opened.device = DeviceKind::Cuda;
    return opened;
  };
}

constexpr int kNever = 1'000'000;
constexpr std::size_t kWritten = 40;
const std::string kPrompt = "The rain had stopped, and in the street a door was opened and shut.";

}  // namespace

class DeviceLossTest : public QObject {
  Q_OBJECT

 private slots:
  void aRunGoesOnAsIfNothingHadHappened_data() {
    QTest::addColumn<int>("chunks");
    QTest::addColumn<bool>("handsStatesOut");
    // While the prompt is scored, at the first byte, and in the middle.
    for (const int chunks : {0, 1, 2, 3, 25}) {
      for (const bool handsOut : {false, true})
        QTest::addRow("breaks after %d chunks, %s its states", chunks,
                      handsOut ? "hands out" : "keeps")
            << chunks << handsOut;
    }
  }
  void aRunGoesOnAsIfNothingHadHappened() {
    QFETCH(int, chunks);
    QFETCH(bool, handsStatesOut);
    EngineTalk whole;
    const Bytes expected = write(whole, DeviceKind::Cpu);
    if (QTest::currentTestFailed()) return;
    EngineTalk broken(openOn(std::make_shared<Device>(chunks, handsStatesOut)));
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

  void whatWasReadIsScoredThoughItsSnapshotCannotBeTaken() {
    const auto model = ModelLoader({.kind = DeviceKind::Cpu}).open(bundledFolder("books"));
    const auto sound = std::make_shared<Device>(kNever, false);
    Session whole(std::make_shared<BreakingModel>(model, sound), nullptr);
    Recorder expected;
    whole.replace(0, 0, toBytes(kPrompt));
    whole.score(expected, {});
    // Breaks when all is read.
    const auto breaking = std::make_shared<Device>(kNever - sound->chunks, true);
    Session session(std::make_shared<BreakingModel>(model, breaking), nullptr);
    Recorder heard;
    session.replace(0, 0, toBytes(kPrompt));
    session.score(heard, {});
    QCOMPARE(heard.records.size(), kPrompt.size());
    for (std::size_t i = 1; i < kPrompt.size(); ++i)
      QCOMPARE(heard.records[i].surprisal, expected.records[i].surprisal);
    QVERIFY_EXCEPTION_THROWN(session.generate(2, {}, heard, {}), DeviceError);
  }

  void anEditThatMeetsABrokenDeviceIsMadeAllTheSame() {
    const auto device = std::make_shared<Device>(kNever);
    EngineTalk talk(openOn(device));
    write(talk, DeviceKind::Cuda);
    if (QTest::currentTestFailed()) return;
    device->chunks = 0;
    talk.edit(10, 3, toBytes("ZZ"));  // goes back to a snapshot on the device
    TRY(talk, talk.isUpToDate());
    QCOMPARE(talk.all<DeviceLost>().size(), std::size_t{1});
    QVERIFY(talk.heard.bytes() == talk.text);
    const auto run = talk.generate(5, {});
    TRY(talk, talk.finished(run));
    QCOMPARE(talk.finished(run)->bytes, std::size_t{5});
  }

  void timingOnABrokenDeviceIsDoneOnTheCpu() {
    const auto device = std::make_shared<Device>(kNever);
    EngineTalk talk(openOn(device));
    write(talk, DeviceKind::Cuda);
    if (QTest::currentTestFailed()) return;
    device->chunks = 0;
    talk.worker().post(ui::TimePlain{20, 60, {}});
    TRY(talk, talk.last<ui::PlainTimed>());
    QCOMPARE(talk.last<ui::PlainTimed>()->bytes, std::size_t{40});
    QCOMPARE(talk.all<DeviceLost>().size(), std::size_t{1});
  }

  void aCpuThatFailsIsNotReplaced() {
    EngineTalk talk([](const ui::LoadModels& command, std::stop_token stop) {
      ui::OpenedModels opened = ui::openModels(command, stop);
      opened.verifier =
          std::make_shared<BreakingModel>(opened.verifier, std::make_shared<Device>(0));
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
    QVERIFY(talk.last<ModelsLoaded>()->gaveUp);
    talk.load(goldenFolder("tiny-byte"), {}, DeviceKind::Auto);
    TRY(talk, talk.all<ModelsLoaded>().size() == 2);
    QCOMPARE(talk.last<ModelsLoaded>()->device, DeviceKind::Cpu);
    QVERIFY(!talk.last<ModelsLoaded>()->gaveUp);
  }

  void theWindowSaysWhyAndShowsTheNewDevice() {
    Memory memory;
    Playground p(memory);
    p.openTiny();
    QTRY_VERIFY_WITH_TIMEOUT(p.window.models().models(), 60'000);
    DeviceLost lost{"CUDA device 0 failed: a loose plug", *p.window.models().models()};
    lost.now.deviceReason = lost.problem;
    emit p.window.link().deviceLost(lost);
    QVERIFY(p.shows("CUDA device 0 failed: a loose plug. The work continues on the CPU."));
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
