// The window on a CUDA device: chosen in its menu, writing with every panel open, stopped,
// training. Skipped where there is no such device. With MB_PICTURES=FOLDER it leaves pictures
// there.
#include <QAbstractButton>
#include <QtTest>
#include <algorithm>

#include "tests/support/model_files.h"
#include "tests/support/playground.h"
#include "ui/panels/train_form.h"
#include "ui/window/device_menu.h"

using namespace mb;
using namespace mb::test;

namespace {

constexpr int kPatience = 60'000;  // milliseconds; only a hang takes so long
constexpr std::size_t kEndless = 50'000'000;

void keepPicture(Playground& p, const QString& name) {
  const QString folder = qEnvironmentVariable("MB_PICTURES");
  if (!folder.isEmpty()) QVERIFY(p.window.grab().save(folder + '/' + name + ".png"));
}

}  // namespace

class CudaWindowTest : public QObject {
  Q_OBJECT

 private slots:
  void initTestCase() {
    const auto choice = chooseDevice();
    if (!choice.hasCuda()) QSKIP(choice.reason.c_str());
  }

  void theMenuNamesTheDeviceAndMovesTheModelsThere() {
    Playground p(m_memory);
    p.window.models().openBundled();
    QTRY_VERIFY_WITH_TIMEOUT(isOpenOn(p, DeviceKind::Cuda), kPatience);  // by itself
    const ui::DeviceMenu& menu = p.window.models().deviceMenu();
    QVERIFY(menu.actions().size() >= 3);
    const QString entry = menu.actions().at(2)->text();
    const QString device = QString::fromStdString(deviceOf(p));
    QVERIFY2(entry.startsWith(device) && entry.endsWith("GB free"), qPrintable(entry));
    p.type("It was a dark");
    QTRY_VERIFY_WITH_TIMEOUT(p.isUpToDate(), kPatience);
    const float there = p.document().record(5).surprisal;
    p.action("CPU").trigger();
    QTRY_VERIFY_WITH_TIMEOUT(isOpenOn(p, DeviceKind::Cpu), kPatience);
    p.type(" n");
    QTRY_VERIFY_WITH_TIMEOUT(p.isUpToDate(), kPatience);
    QVERIFY(std::abs(p.document().record(5).surprisal - there) < 0.1f);
    menu.actions().at(2)->trigger();
    QTRY_VERIFY_WITH_TIMEOUT(isOpenOn(p, DeviceKind::Cuda), kPatience);
    QTRY_VERIFY(p.shows(device));
  }

  void everyPanelFollowsARunUntilItIsStopped() {
    Playground p(m_memory, {1920, 1080});
    p.window.models().openBundled();
    p.type("It was a dark and stormy night; ");
    QTRY_VERIFY_WITH_TIMEOUT(isOpenOn(p, DeviceKind::Cuda) && p.isUpToDate(), kPatience);
    p.setBytes(kEndless);
    p.click("Generate");
    QTRY_VERIFY_WITH_TIMEOUT(p.document().size() > 3000, kPatience);
    p.click("Stop");
    QTRY_VERIFY_WITH_TIMEOUT(p.isIdle() && p.isUpToDate(), kPatience);
    const auto& rounds = p.document().rounds();
    QVERIFY(std::ranges::any_of(rounds, [](const auto& round) { return round.accepted > 0; }));
    QVERIFY(p.window.perplexity().bitsPerByte() > 0);
    keepPicture(p, "run");
  }

  void theDockTrainsOnTheDevice() {
    const TemporaryFolder folder;
    Playground p(m_memory, {1920, 1080});
    p.window.models().openBundled();
    p.window.train().setRuns(ui::TrainingRuns(folder / "runs"));
    p.window.train().raise();
    const std::string words =
        readFile(std::filesystem::path(MB_TEST_DATA) / "books-test-excerpt.txt");
    writeFile(folder / "text", words.substr(0, 5000));
    p.window.train().form().setFiles({QString::fromStdString((folder / "text").string())});
    QTRY_VERIFY_WITH_TIMEOUT(isOpenOn(p, DeviceKind::Cuda), kPatience);
    QVERIFY(press(p, "Start training"));
    const auto& steps = p.window.train().link().history().steps;
    QTRY_VERIFY_WITH_TIMEOUT(steps.size() >= 200, kPatience);
    press(p, "Pause training");
    QTRY_COMPARE_WITH_TIMEOUT(p.window.train().link().state(), ui::TrainingState::Paused,
                              kPatience);
    keepPicture(p, "training");
    const std::string& trainsOn = p.window.train().link().history().started->device;
    QVERIFY2(trainsOn.starts_with(deviceOf(p)), trainsOn.c_str());
    const auto mean = [&](std::size_t first) {
      double sum = 0;
      for (std::size_t i = first; i < first + 20; ++i) sum += steps[i].bitsPerByte;
      return sum / 20;
    };
    QVERIFY2(mean(steps.size() - 20) < mean(0), "the loss does not fall");
    press(p, "Stop training");
    QTRY_COMPARE_WITH_TIMEOUT(p.window.train().link().state(), ui::TrainingState::Ended, kPatience);
  }

 private:
  static bool isOpenOn(const Playground& p, DeviceKind kind) {
    const auto& models = p.window.models().models();
    return models && !p.window.models().isLoading() && models->device == kind;
  }
  static const std::string& deviceOf(const Playground& p) {
    return p.window.models().models()->verifier.info.device;
  }
  /// Whether there is such a button in the dock to press.
  static bool press(Playground& p, const QString& name) {
    for (auto* found : p.window.train().findChildren<QAbstractButton*>()) {
      if (found->accessibleName() != name || !found->isEnabled()) continue;
      QTest::mouseClick(found, Qt::LeftButton);
      return true;
    }
    return false;
  }

  Memory m_memory;
};

QTEST_MAIN(CudaWindowTest)
#include "test_cuda_window.moc"
