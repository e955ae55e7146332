// mambabyte tokenizer train from outside: what it writes, what it says, what it refuses.
#include <QtTest>
#include <cmath>

#include "engine/tokenizer/tokenizer.h"
#include "tests/support/program.h"
#include "tests/support/test_models.h"

using namespace mb;
using namespace mb::test;

namespace {

QString excerpt() {
  return path(std::filesystem::path(MB_TEST_DATA) / "books-test-excerpt.txt");
}

Result train(const QStringList& arguments) {
  return run(QStringList{"tokenizer", "train"} + arguments);
}

}  // namespace

class TokenizerCommandTest : public QObject {
  Q_OBJECT

 private slots:
  void trainingWritesATokenizerThatLoads() {
    const test::TemporaryFolder folder;
    const auto file = folder / "tokenizer.json";
    const Result result = train({"--file", excerpt(), "--vocabulary", "600", "--out", path(file)});
    QVERIFY2(result.status == 0, result.err);
    QCOMPARE(result.err, QByteArray());  // no terminal watches
    const Tokenizer tokenizer(file);
    QCOMPARE(tokenizer.vocabularySize(), std::size_t{600});
    const Bytes text = toBytes(test::readFile(excerpt().toStdString()));
    const auto tokens = tokenizer.encode(text);
    QVERIFY(tokenizer.decode(tokens) == text);
    QCOMPARE(figure(result.out, "tokens"), 600.0);
    QCOMPARE(figure(result.out, "bytes"), static_cast<double>(text.size()));
    const double bytesPerToken =
        static_cast<double>(text.size()) / static_cast<double>(tokens.size());
    QVERIFY(bytesPerToken > 1.5);
    QVERIFY(std::abs(figure(result.out, "bytes_per_token") - bytesPerToken) < 1e-4);
    QVERIFY(!std::isnan(figure(result.out, "seconds")));
  }

  void filesCountTogether() {
    const test::TemporaryFolder folder;
    test::writeFile(folder / "a", "xyz xyz");
    test::writeFile(folder / "b", "abc");
    const auto file = folder / "tokenizer.json";
    const Result result =
        train({"--file", path(folder / "a"), "--file", path(folder / "b"), "--file",
               path(folder / "b"), "--vocabulary", "260", "--out", path(file)});
    QVERIFY2(result.status == 0, result.err);
    QCOMPARE(figure(result.out, "bytes"), 13.0);
    const Tokenizer tokenizer(file);
    for (const char* token : {"abc", "xyz"}) QVERIFY(tokenizer.find(toBytes(token)) >= 256);
  }

  void tooLittleTextIsSaidAndGivesWhatThereIs() {
    const test::TemporaryFolder folder;
    test::writeFile(folder / "text", "abcabc abcabc xy xy");
    const auto tokensWith = [&](const QStringList& options) {
      const Result result = train(QStringList{"--file", path(folder / "text"), "--force", "--out",
                                              path(folder / "tokenizer.json")} +
                                  options);
      return result.status == 0 && isOneLine(result.err) && result.err.contains("4096") &&
                     result.err.contains(QByteArray::number(figure(result.out, "tokens")))
                 ? figure(result.out, "tokens")
                 : -1;
    };
    QCOMPARE(tokensWith({}), 261.0);                        // ab, abc, xy, abcabc, " xy"
    QCOMPARE(tokensWith({"--longest-token", "5"}), 260.0);  // no abcabc
    QCOMPARE(tokensWith({"--least-count", "3"}), 258.0);    // ab and abc
    QCOMPARE(tokensWith({"--least-count", "100"}), 256.0);
  }

  void anExistingFileIsReplacedOnlyByForce() {
    const test::TemporaryFolder folder;
    const auto file = folder / "tokenizer.json";
    test::writeFile(file, "precious");
    const QStringList arguments = {"--file", excerpt(), "--vocabulary", "300", "--out", path(file)};
    const Result refused = train(arguments);
    QCOMPARE(refused.status, kFailed);
    QVERIFY2(isOneLine(refused.err) && refused.err.contains("--force") &&
                 refused.err.contains(path(file).toUtf8()),
             refused.err);
    QCOMPARE(test::readFile(file), std::string("precious"));
    QCOMPARE(train(arguments + QStringList{"--force"}).status, 0);
    QCOMPARE(Tokenizer(file).vocabularySize(), std::size_t{300});
  }

  void failuresNameTheirReasonInOneLine_data() {
    QTest::addColumn<QStringList>("files");
    QTest::addColumn<QString>("out");
    QTest::addColumn<QByteArray>("reason");
    QTest::newRow("no such file") << QStringList{"--file", "/nonexistent/text"} << "t.json"
                                  << QByteArray("/nonexistent/text");
    QTest::newRow("an empty file")
        << QStringList{"--file", "empty"} << "t.json" << QByteArray("an empty file");
    QTest::newRow("an empty file after another")
        << QStringList{"--file", excerpt(), "--file", "empty"} << "t.json" << QByteArray("empty:");
    QTest::newRow("a folder to learn from")
        << QStringList{"--file", MB_TEST_DATA} << "t.json" << QByteArray(MB_TEST_DATA);
    QTest::newRow("no folder to write to")
        << QStringList{"--file", excerpt()} << "/nonexistent/t.json"
        << QByteArray("/nonexistent/t.json");
    QTest::newRow("a folder in place of the file")
        << QStringList{"--file", excerpt()} << MB_TEST_DATA << QByteArray("folder");
  }
  void failuresNameTheirReasonInOneLine() {
    QFETCH(QStringList, files);
    QFETCH(QString, out);
    QFETCH(QByteArray, reason);
    const test::TemporaryFolder folder;
    test::writeFile(folder / "empty", "");
    files.replaceInStrings(QRegularExpression("^empty$"), path(folder / "empty"));
    const QString place = out == "t.json" ? path(folder / "t.json") : out;
    const Result result = train(files + QStringList{"--out", place});
    QCOMPARE(result.status, kFailed);
    QVERIFY2(isOneLine(result.err), result.err);
    QVERIFY2(result.err.contains(reason), result.err);
    QCOMPARE(result.out, QByteArray());
    QVERIFY(!std::filesystem::exists(folder / "t.json"));
  }

  void badArgumentsAreRefusedInOneLine_data() {
    QTest::addColumn<QStringList>("arguments");
    const QStringList good = {"--file", excerpt(), "--out", "/nonexistent/t.json"};
    QTest::newRow("nothing") << QStringList();
    QTest::newRow("no file") << QStringList{"--out", "/nonexistent/t.json"};
    QTest::newRow("no output") << QStringList{"--file", excerpt()};
    QTest::newRow("stray word") << good + QStringList{"more"};
    QTest::newRow("two files at once")
        << QStringList{"--file", excerpt(), excerpt(), "--out", "/nonexistent/t.json"};
    for (const char* size : {"256", "65537", "-1", "300.5", "many"})
      QTest::addRow("vocabulary: %s", size) << good + QStringList{"--vocabulary", size};
    QTest::newRow("least count: 0") << good + QStringList{"--least-count", "0"};
    QTest::newRow("longest token: 1") << good + QStringList{"--longest-token", "1"};
  }
  void badArgumentsAreRefusedInOneLine() {
    QFETCH(QStringList, arguments);
    const Result result = train(arguments);
    QCOMPARE(result.status, kBadArguments);
    QVERIFY2(isOneLine(result.err), result.err);
    QCOMPARE(result.out, QByteArray());
  }

  void helpGoesToStandardOutput() {
    const Result result = train({"--help"});
    QCOMPARE(result.status, 0);
    for (const char* option : {"Usage:", "--file", "--vocabulary", "--out", "--least-count"})
      QVERIFY2(result.out.contains(option), option);
    QCOMPARE(result.err, QByteArray());
  }
};

QTEST_GUILESS_MAIN(TokenizerCommandTest)
#include "test_tokenizer_command.moc"
