// The program itself: first start, headless runs, refusals.
#include <QImage>
#include <QProcess>
#include <QtTest>

#include "tests/support/test_models.h"

using namespace mb::test;

namespace {

constexpr const char* kSampleStart = "It was a dark and stormy night; the rain fell in torrents";

struct Ran {
  int status = -1;
  QByteArray output;
  QByteArray errors;
};

Ran run(const QStringList& arguments) {
  QProcess process;
  process.start(QStringLiteral(MB_TEST_PLAYGROUND), arguments);
  Ran ran;
  if (!process.waitForFinished(120'000)) return ran;
  ran.status = process.exitStatus() == QProcess::NormalExit ? process.exitCode() : -1;
  ran.output = process.readAllStandardOutput();
  ran.errors = process.readAllStandardError();
  return ran;
}

}  // namespace

class PlaygroundTest : public QObject {
  Q_OBJECT

 private slots:
  void startsWithTheSamplePromptAndWritesAScreenshot() {
    const TemporaryFolder folder;
    const QString picture = QString::fromStdString((folder / "window.png").string());
    const Ran ran =
        run({"--headless", "--bytes", "24", "--size", "1280x800", "--screenshot", picture});
    QVERIFY2(ran.status == 0, ran.errors.constData());
    QVERIFY(ran.output.startsWith(kSampleStart));
    QVERIFY(ran.output.size() > 110);
    QCOMPARE(QImage(picture).size(), QSize(1280, 800));
    QVERIFY2(ran.errors.contains("24 bytes in "), ran.errors.constData());
    QVERIFY(ran.errors.contains("rounds: drafted"));
  }

  void theSamePromptAndSeedWriteTheSame() {
    const TemporaryFolder folder;
    const QString picture = QString::fromStdString((folder / "window.png").string());
    const QStringList arguments = {
        "--headless", "--model",      QString::fromStdString(goldenFolder("tiny-byte").string()),
        "--no-draft", "--prompt",     "abc",
        "--bytes",    "32",           "--seed",
        "5",          "--screenshot", picture};
    const Ran first = run(arguments);
    QVERIFY2(first.status == 0, first.errors.constData());
    QVERIFY(first.output.startsWith("abc"));
    QCOMPARE(first.output.size(), 3 + 32 + 1);
    QCOMPARE(run(arguments).output, first.output);
  }

  void aModelThatCannotBeOpenedEndsWithAMessage() {
    const Ran ran = run({"--headless", "--model", "/nowhere/at/all", "--no-draft"});
    QCOMPARE(ran.status, 1);
    QVERIFY(ran.errors.contains("/nowhere/at/all"));
  }

  void aMessageBehindTextBeginsALine() {
    const QString tiny = QString::fromStdString(goldenFolder("tiny-byte").string());
    const Ran ran = run({"--headless", "--model", tiny, "--no-draft", "--prompt", "abc", "--bytes",
                         "4", "--seed", "5", "--train", "/nowhere"});
    QCOMPARE(ran.status, 1);
    QCOMPARE(ran.output.size(), 3 + 4);
    QVERIFY(!ran.output.endsWith('\n'));
    QVERIFY2(ran.errors.contains("\nmambabyte-playground: /nowhere"), ran.errors.constData());
  }

  void badArgumentsAreRefused_data() {
    QTest::addColumn<QStringList>("arguments");
    QTest::addColumn<QByteArray>("expected");
    QTest::newRow("unknown") << QStringList{"--frobnicate"} << QByteArray("frobnicate");
    QTest::newRow("number") << QStringList{"--bytes", "many"} << QByteArray("expects a number");
    QTest::newRow("word") << QStringList{"--speculate", "maybe"} << QByteArray("off or exact");
    QTest::newRow("size") << QStringList{"--size", "10x10"} << QByteArray("at least 400x300");
    QTest::newRow("file") << QStringList{"--prompt-file", "/nowhere"} << QByteArray("/nowhere");
    QTest::newRow("stray") << QStringList{"stray"} << QByteArray("stray");
  }

  void badArgumentsAreRefused() {
    QFETCH(QStringList, arguments);
    QFETCH(QByteArray, expected);
    const Ran ran = run(QStringList{"--headless"} + arguments);
    QCOMPARE(ran.status, 2);
    QVERIFY2(ran.errors.contains(expected), ran.errors.constData());
  }

  void theVersionIsThatOfTheProgram() {
    const Ran ran = run({"--headless", "--version"});
    QCOMPARE(ran.status, 0);
    QVERIFY2(QString(ran.output).contains(QRegularExpression("^mambabyte-playground [0-9.]+\\n$")),
             ran.output.constData());
  }

  void aDeviceIsChosenByName() {
    const TemporaryFolder folder;
    const QString picture = QString::fromStdString((folder / "window.png").string());
    const QString tiny = QString::fromStdString(goldenFolder("tiny-byte").string());
    const Ran ran = run({"--headless", "--model", tiny, "--no-draft", "--device", "cpu", "--bytes",
                         "4", "--screenshot", picture});
    QVERIFY2(ran.status == 0, ran.errors.constData());
    QCOMPARE(run({"--headless", "--device", "abacus"}).status, 2);
  }

  void helpNamesEveryOption() {
    const Ran ran = run({"--headless", "--help"});
    QCOMPARE(ran.status, 0);
    for (const char* option : {"--model", "--draft", "--prompt", "--seed", "--screenshot"})
      QVERIFY2(ran.output.contains(option), option);
  }
};

QTEST_GUILESS_MAIN(PlaygroundTest)
#include "test_playground.moc"
