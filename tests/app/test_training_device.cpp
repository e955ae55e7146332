// mambabyte train and bench train, run from outside: which device they take, and what they say.
#include <QtTest>
#include <nlohmann/json.hpp>

#include "engine/model/devices.h"
#include "tests/support/program.h"
#include "tests/support/test_models.h"

using namespace mb;
using namespace mb::test;

namespace {

/// A run of a few seconds that trains a small model.
QStringList training(const TemporaryFolder& folder, const QString& device) {
  return {"train",
          "--file",
          QString(MB_TEST_DATA) + "/books-test-excerpt.txt",
          "--out",
          path(folder / "run"),
          "--width",
          "16",
          "--layers",
          "1",
          "--segment",
          "32",
          "--streams",
          "2",
          "--steps",
          "3",
          "--threads",
          "1",
          "--device",
          device};
}

}  // namespace

class TrainingDeviceTest : public QObject {
  Q_OBJECT

 private slots:
  void trainsOnTheCpuWhenAsked() {
    const TemporaryFolder folder;
    const Result result = run(training(folder, "cpu"));
    QCOMPARE(result.status, 0);
    QVERIFY2(result.err.contains("on CPU, 1 thread (as chosen)"), result.err);
    const auto described = nlohmann::json::parse(readFile(folder / "run/run.json"));
    QCOMPARE(described.at("device"), "CPU, 1 thread (as chosen)");
  }

  void goesToTheCpuAndSaysWhy() {
    const DeviceChoice choice = chooseDevice();
    if (choice.hasCuda()) QSKIP("this machine has a CUDA device");
    const TemporaryFolder folder;
    const Result result = run(training(folder, "auto"));
    QCOMPARE(result.status, 0);
    QVERIFY2(result.err.contains("on CPU, 1 thread (" + QByteArray(choice.reason.c_str()) + ")"),
             result.err);
  }

  void refusesADeviceThatIsNotThere() {
    if (chooseDevice().hasCuda()) QSKIP("this machine has a CUDA device");
    const TemporaryFolder folder;
    const Result result = run(training(folder, "cuda"));
    QCOMPARE(result.status, kFailed);
    QVERIFY2(result.err.contains("CUDA is not usable here"), result.err);
    QVERIFY(!std::filesystem::exists(folder / "run"));
    QCOMPARE(run({"bench", "train", "--device", "cuda"}).status, kFailed);
  }

  void measuresTraining() {
    const TemporaryFolder folder;
    const Result result =
        run({"bench", "train", "--device", "cpu", "--shape", "4M", "--batch", "1", "--length", "4",
             "--threads", "1", "--json", path(folder / "bench.json")});
    QCOMPARE(result.status, 0);
    QVERIFY2(result.out.contains("4M on CPU, 1 thread (as chosen), 1 streams of 4 tokens a step"),
             result.out);
    QVERIFY2(result.out.contains("\ntrain "), result.out);
    const auto report = nlohmann::json::parse(readFile(folder / "bench.json"));
    const auto& train = report.at("train");
    QCOMPARE(train.at("samples").size(), std::size_t{5});
    QVERIFY(train.at("min") > 0 && train.at("min") <= train.at("median"));
    QCOMPARE(report.at("manifest").at("shape"), "4M");
  }
};

QTEST_GUILESS_MAIN(TrainingDeviceTest)
#include "test_training_device.moc"
