// mambabyte train killed in the middle: what is left is whole, and going on loses nothing.
#include <QtTest>
#include <csignal>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/support/program.h"
#include "tests/support/test_models.h"

using namespace mb;
using namespace mb::test;
using nlohmann::json;

namespace {

constexpr int kSteps = 240;
constexpr int kKills = 3;

/// A run of some hundred milliseconds, with a checkpoint every few steps.
QStringList arguments(const std::filesystem::path& out) {
  return {"train",
          "--file",
          path(std::filesystem::path(MB_TEST_DATA) / "books-test-excerpt.txt"),
          "--width",
          "32",
          "--layers",
          "2",
          "--segment",
          "100",
          "--streams",
          "2",
          "--threads",
          "2",
          "--steps",
          QString::number(kSteps),
          "--out",
          path(out),
          "--checkpoint-every",
          "7"};
}

qsizetype linesOf(const std::filesystem::path& log) {
  return std::filesystem::exists(log) ? QByteArray::fromStdString(readFile(log)).count('\n') : 0;
}

/// Loss and gradient of every step of a log, each of which must be there once, in order.
std::vector<std::pair<double, double>> stepsOf(const std::filesystem::path& log) {
  std::vector<std::pair<double, double>> steps;
  std::istringstream lines(readFile(log));
  for (std::string line; std::getline(lines, line);) {
    const json entry = json::parse(line, nullptr, false);
    if (!entry.is_object() || entry.at("step") != steps.size() + 1)
      qFatal("line %zu of the log is not step %zu: %s", steps.size() + 1, steps.size() + 1,
             line.c_str());
    steps.emplace_back(entry.at("bits_per_token"), entry.at("gradient_norm"));
  }
  return steps;
}

}  // namespace

class TrainResumeTest : public QObject {
  Q_OBJECT

 private slots:
  void aKilledRunGoesOnAsIfNothingHadHappened() {
    const TemporaryFolder folder;
    const Result whole = run(arguments(folder / "whole"));
    QVERIFY2(whole.status == 0, whole.err);
    const std::filesystem::path log = folder / "killed/log.jsonl";
    QStringList command = arguments(folder / "killed");
    for (int kill = 1; kill <= kKills; ++kill) {
      QProcess process;
      process.start(MB_TEST_PROGRAM, command);
      // Somewhere behind the first checkpoint, and far from the end.
      QTRY_VERIFY_WITH_TIMEOUT(linesOf(log) > 30 * kill, kPatience);
      ::kill(static_cast<pid_t>(process.processId()), SIGKILL);
      QVERIFY(process.waitForFinished(kPatience));
      QCOMPARE(process.exitStatus(), QProcess::CrashExit);
      QVERIFY(linesOf(log) < kSteps);
      if (kill == 1) command << "--resume";
    }
    // What a kill in the middle of a write leaves.
    writeFile(log, readFile(log) + "{\"step\": 12, \"bits_per");
    const Result rest = run(command);
    QVERIFY2(rest.status == 0, rest.err);
    const auto expected = stepsOf(folder / "whole/log.jsonl");
    QCOMPARE(expected.size(), std::size_t{kSteps});
    QVERIFY(stepsOf(log) == expected);
    for (const char* file : {"model.safetensors", "trainer.bin"})
      QVERIFY2(readFile(folder / "whole/checkpoint" / file) ==
                   readFile(folder / "killed/checkpoint" / file),
               file);
  }

  void aFittedRunKeepsItsStepsWhenItGoesOn() {
    const TemporaryFolder folder;
    const std::filesystem::path log = folder / "run/log.jsonl";
    QStringList command = arguments(folder / "run");
    command.remove(command.indexOf("--steps"), 2);
    command << "--minutes"
            << "5";
    QProcess process;
    process.start(MB_TEST_PROGRAM, command);
    QTRY_VERIFY_WITH_TIMEOUT(linesOf(log) > 10, kPatience);
    ::kill(static_cast<pid_t>(process.processId()), SIGKILL);
    const QByteArray said = resultOf(process).err;
    const QRegularExpression fit("step \\d+ of (\\d+):");
    const QString steps = fit.match(said).captured(1);
    QVERIFY2(!steps.isEmpty() && steps != "1000", said);
    command << "--resume";
    process.start(MB_TEST_PROGRAM, command);
    QByteArray shown;
    QTRY_VERIFY_WITH_TIMEOUT((shown += process.readAllStandardError()).contains("step "),
                             kPatience);
    ::kill(static_cast<pid_t>(process.processId()), SIGKILL);
    resultOf(process);
    QVERIFY2(shown.contains(" of " + steps.toUtf8() + ":"), shown);
  }
};

QTEST_GUILESS_MAIN(TrainResumeTest)
#include "test_train_resume.moc"
