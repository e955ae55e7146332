// The contract of the command line: exit status, what goes to which stream, what files hold.
#include <QtTest>
#include <csignal>
#include <nlohmann/json.hpp>
#include <pty.h>
#include <unistd.h>

#include "engine/model/devices.h"
#include "tests/support/program.h"
#include "tests/support/test_models.h"

using namespace mb;
using namespace mb::test;
using nlohmann::json;

namespace {

const QString kPrompt = "It was a dark and stormy night";

QString draftFolder() {
  return path(test::bundledFolder("books-draft"));
}

QString excerpt() {
  return path(std::filesystem::path(MB_TEST_DATA) / "books-valid-200000.txt");
}

QByteArray contents(const std::filesystem::path& file) {
  return QByteArray::fromStdString(test::readFile(file));
}

json parsed(const std::filesystem::path& file) {
  return json::parse(test::readFile(file), nullptr, false);
}

/// Whether the process has a handler for Ctrl+C by now.
bool catchesInterrupt(qint64 process) {
  QFile status("/proc/" + QString::number(process) + "/status");
  if (!status.open(QIODevice::ReadOnly)) return false;
  for (const QByteArray& line : status.readAll().split('\n')) {
    if (!line.startsWith("SigCgt:")) continue;
    return line.mid(7).trimmed().toULongLong(nullptr, 16) >> (SIGINT - 1) & 1;
  }
  return false;
}

void interrupt(const QProcess& process) {
  ::kill(static_cast<pid_t>(process.processId()), SIGINT);
}

/// A terminal that a program's standard error can be connected to.
class Terminal {
 public:
  Terminal() { m_opened = ::openpty(&m_master, &m_slave, nullptr, nullptr, nullptr) == 0; }
  ~Terminal() {
    ::close(m_master);
    ::close(m_slave);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  bool opened() const { return m_opened; }
  void connectStandardError(QProcess& process) {
    process.setChildProcessModifier([slave = m_slave] { ::dup2(slave, STDERR_FILENO); });
  }
  /// What was shown so far.
  QByteArray shown() const {
    QByteArray text(1 << 16, '\0');
    const ssize_t count = ::read(m_master, text.data(), static_cast<std::size_t>(text.size()));
    return text.first(std::max<ssize_t>(count, 0));
  }

 private:
  int m_master = -1;
  int m_slave = -1;
  bool m_opened = false;
};

}  // namespace

class CliTest : public QObject {
  Q_OBJECT

 private slots:
  void generateWritesTheTextToStandardOutputAndExactlyItsBytesToTheFile() {
    const test::TemporaryFolder folder;
    const Result result =
        run({"generate", "--prompt", kPrompt, "--bytes", "60", "--output", path(folder / "text")});
    QCOMPARE(result.status, 0);
    QCOMPARE(result.text().size(), 60);
    QCOMPARE(contents(folder / "text"), result.text());
    QVERIFY2(isOneLine(result.err), result.err);  // the summary
    QVERIFY(result.err.contains("bytes/s"));
  }

  void generateOfNoBytesWritesAnEmptyFile() {
    const test::TemporaryFolder folder;
    const Result result = run({"generate", "--prompt", kPrompt, "--bytes", "0", "--output",
                               path(folder / "text"), "--json", path(folder / "run.json")});
    QCOMPARE(result.status, 0);
    QCOMPARE(result.text(), QByteArray());
    QVERIFY(std::filesystem::exists(folder / "text"));
    QCOMPARE(contents(folder / "text"), QByteArray());
    QCOMPARE(parsed(folder / "run.json").at("bytes"), 0);
  }

  void generateRecordsTheRunAsJson() {
    const test::TemporaryFolder folder;
    const Result result = run({"generate", "--prompt", kPrompt, "--bytes", "120", "--draft",
                               draftFolder(), "--json", path(folder / "run.json")});
    QCOMPARE(result.status, 0);
    const json report = parsed(folder / "run.json");
    QVERIFY(report.is_object());
    const json& summary = report.at("summary");
    for (const char* name :
         {"bytes", "seconds", "bytes_per_second", "rounds", "drafted", "tested", "accepted",
          "rejected", "ignored", "corrected", "bonus", "bytes_per_round", "acceptance"}) {
      QVERIFY2(summary.contains(name), name);
      QVERIFY2(report.contains(name) && report.at(name) == summary.at(name), name);
    }
    QCOMPARE(summary.at("bytes"), 120);
    QVERIFY(summary.at("bytes_per_second") > 0);
    const json& manifest = report.at("manifest");
    QCOMPARE(manifest.at("prompt_bytes"), kPrompt.size());
    QCOMPARE(manifest.at("settings").at("speculate"), "exact");
    QCOMPARE(manifest.at("settings").at("cuts_drafts"), true);
    QVERIFY(manifest.at("draft").is_object());
  }

  void byteRecordsHoldThePromptAndTheText() {
    const test::TemporaryFolder folder;
    const Result result = run(
        {"generate", "--prompt", kPrompt, "--bytes", "50", "--json", path(folder / "run.json")});
    QCOMPARE(result.status, 0);
    const json records = parsed(folder / "run.json").at("byte_records");
    const QByteArray all = kPrompt.toUtf8() + result.text();
    QCOMPARE(records.size(), static_cast<std::size_t>(all.size()));
    for (qsizetype i = 0; i < all.size(); ++i) {
      const json& record = records[static_cast<std::size_t>(i)];
      QCOMPARE(record.at("index"), i);
      QCOMPARE(record.at("byte"), static_cast<unsigned char>(all[i]));
      QCOMPARE(record.at("origin"), i < kPrompt.size() ? "prompt" : "plain");
      QCOMPARE(record.at("rank").is_null(), i == 0);  // nothing predicts the first byte
    }
  }

  void roundRecordsAddUpToTheSummary() {
    const test::TemporaryFolder folder;
    const Result result =
        run({"generate", "--prompt", kPrompt, "--bytes", "150", "--draft", draftFolder(),
             "--draft-tokens", "3", "--whole-drafts", "--json", path(folder / "run.json")});
    QCOMPARE(result.status, 0);
    const json report = parsed(folder / "run.json");
    const json& rounds = report.at("round_records");
    const json& summary = report.at("summary");
    QVERIFY(!rounds.empty());
    QCOMPARE(report.at("manifest").at("settings").at("cuts_drafts"), false);
    QCOMPARE(summary.at("rounds"), rounds.size());
    for (const char* name :
         {"drafted", "tested", "accepted", "rejected", "ignored", "corrected", "bonus"}) {
      std::uint64_t sum = 0;
      for (const json& round : rounds) sum += round.at(name).get<std::uint64_t>();
      QVERIFY2(summary.at(name) == sum, name);
    }
    for (const json& round : rounds) {
      const auto count = [&](const char* name) { return round.at(name).get<int>(); };
      QCOMPARE(count("drafted"), count("accepted") + count("rejected") + count("ignored"));
      QCOMPARE(count("tested"), count("accepted") + count("rejected"));
      QCOMPARE(round.at("draft").size(), static_cast<std::size_t>(count("drafted")));
      QVERIFY(round.at("tokens").size() <= 3);
    }
    const double emitted = summary.at("accepted").get<double>() +
                           summary.at("corrected").get<double>() +
                           summary.at("bonus").get<double>();
    QCOMPARE(summary.at("bytes_per_round").get<double>(),
             emitted / summary.at("rounds").get<double>());
  }

  void exactSpeculationWritesWhatPlainDecodingWrites_data() {
    QTest::addColumn<QStringList>("sampling");
    QTest::newRow("greedy") << QStringList();
    QTest::newRow("sampled") << QStringList{"--temperature", "0.9",    "--top-p",
                                            "0.95",          "--seed", "4"};
  }
  void exactSpeculationWritesWhatPlainDecodingWrites() {
    QFETCH(QStringList, sampling);
    const QStringList common =
        QStringList{"generate", "--prompt", kPrompt, "--bytes", "120"} + sampling;
    const Result plain = run(common);
    const Result drafted = run(common + QStringList{"--draft", draftFolder()});
    const Result explicitly =
        run(common + QStringList{"--draft", draftFolder(), "--speculate", "exact", "--draft-tokens",
                                 "7", "--no-healing"});
    QCOMPARE(plain.status, 0);
    QCOMPARE(drafted.status, 0);
    QCOMPARE(drafted.out, plain.out);
    QCOMPARE(explicitly.out, plain.out);
    QVERIFY(drafted.err.contains("rounds"));
    QVERIFY(!plain.err.contains("rounds"));
  }

  void topBetaSpeculationRunsAndIsRecorded() {
    const test::TemporaryFolder folder;
    const Result result =
        run({"generate", "--prompt", kPrompt, "--bytes", "100", "--draft", draftFolder(),
             "--speculate", "topb", "--beta", "2", "--json", path(folder / "run.json")});
    QCOMPARE(result.status, 0);
    QCOMPARE(result.text().size(), 100);
    const json report = parsed(folder / "run.json");
    QCOMPARE(report.at("manifest").at("settings").at("speculate"), "topb");
    QCOMPARE(report.at("manifest").at("settings").at("beta"), 2);
    for (const json& record : report.at("byte_records"))
      if (record.at("origin") == "accepted") QVERIFY(record.at("rank") < 2);
  }

  void samplingRepeatsWithItsSeedAndDiffersWithAnother() {
    const QStringList common = {"generate", "--prompt",      kPrompt, "--bytes",
                                "80",       "--temperature", "1",     "--seed"};
    const Result first = run(common + QStringList{"7"});
    QCOMPARE(first.status, 0);
    QCOMPARE(run(common + QStringList{"7"}).out, first.out);
    QVERIFY(run(common + QStringList{"8"}).out != first.out);
  }

  void everyByteOfAPromptFileCounts() {
    const test::TemporaryFolder folder;
    std::string prompt;
    for (int byte = 255; byte >= 0; --byte) prompt += static_cast<char>(byte);
    test::writeFile(folder / "prompt", prompt);
    const Result result =
        run({"generate", "--prompt-file", path(folder / "prompt"), "--bytes", "20", "--draft",
             draftFolder(), "--json", path(folder / "run.json")});
    QCOMPARE(result.status, 0);
    const json report = parsed(folder / "run.json");
    QCOMPARE(report.at("manifest").at("prompt_bytes"), prompt.size());
    for (std::size_t i = 0; i < prompt.size(); ++i)
      QCOMPARE(report.at("byte_records")[i].at("byte"), static_cast<unsigned char>(prompt[i]));
  }

  void everyPrecisionRuns_data() {
    QTest::addColumn<QString>("dtype");
    QTest::newRow("bf16") << "bf16";
    QTest::newRow("f32") << "f32";
  }
  void everyPrecisionRuns() {
    QFETCH(QString, dtype);
    const test::TemporaryFolder folder;
    const Result result = run({"generate", "--prompt", kPrompt, "--bytes", "30", "--dtype", dtype,
                               "--json", path(folder / "run.json")});
    QCOMPARE(result.status, 0);
    QCOMPARE(result.text().size(), 30);
    QCOMPARE(parsed(folder / "run.json").at("manifest").at("model").at("dtype"),
             dtype.toStdString());
  }

  void oneThreadWritesWhatManyWrite() {
    const QStringList common = {"generate", "--prompt", kPrompt, "--bytes", "60", "--threads"};
    const Result one = run(common + QStringList{"1"});
    QCOMPARE(one.status, 0);
    QCOMPARE(run(common + QStringList{"3"}).out, one.out);
  }

  void everyInstructionSetRuns() {
    const Result info = run({"info"});
    QCOMPARE(info.status, 0);
    const QByteArray line = info.out.mid(info.out.indexOf("\nsimd") + 5);
    const QList<QByteArray> names = line.left(line.indexOf('\n')).trimmed().split(',');
    for (const QByteArray& name : names) {
      const Result result = run({"generate", "--prompt", "The ", "--bytes", "5", "--simd",
                                 QString::fromUtf8(name.trimmed())});
      QVERIFY2(result.status == 0, name);
    }
  }

  void evalPrintsAndWritesTheFiguresOfAnExcerpt() {
    const test::TemporaryFolder folder;
    const Result result = run({"eval", "--file", excerpt(), "--json", path(folder / "eval.json")});
    QCOMPARE(result.status, 0);
    QCOMPARE(result.err, QByteArray());  // no terminal watches
    const double bits = figure(result.out, "bits_per_byte");
    QVERIFY2(std::abs(bits - 1.2472) < 0.002, result.out);
    const json report = parsed(folder / "eval.json");
    for (const char* name :
         {"bits_per_byte", "standard_error", "word_perplexity", "bytes", "bytes_per_second"}) {
      const double printed = figure(result.out, name);
      const double written = report.at(name).get<double>();
      QVERIFY2(std::abs(printed - written) <= 0.05 + 1e-4 * written, name);
    }
    QCOMPARE(report.at("bytes"), 16383);  // nothing predicts the first byte
    QVERIFY(report.at("standard_error") > 0);
    const double words = report.at("words").get<double>();
    QCOMPARE(report.at("word_perplexity").get<double>(),
             std::exp(report.at("bits_per_byte").get<double>() * std::log(2.0) * 16383 / words));
    QCOMPARE(report.at("manifest").at("range_bytes"), 16384);
  }

  void evalScoresTheRangeItIsGiven() {
    const test::TemporaryFolder folder;
    const std::string text = test::readFile(excerpt().toStdString());
    test::writeFile(folder / "part", text.substr(1000, 2000));
    const Result range = run({"eval", "--file", excerpt(), "--offset", "1000", "--bytes", "2000"});
    const Result part = run({"eval", "--file", path(folder / "part")});
    QCOMPARE(range.status, 0);
    QCOMPARE(figure(range.out, "bytes"), 1999.0);
    QCOMPARE(figure(range.out, "bits_per_byte"), figure(part.out, "bits_per_byte"));
    const Result tail = run({"eval", "--file", excerpt(), "--offset", "16000"});
    QCOMPARE(figure(tail.out, "bytes"), 383.0);
  }

  void evalOfASubwordModelCountsItsBytes() {
    const Result result = run({"eval", "--model", draftFolder(), "--file", excerpt()});
    QCOMPARE(result.status, 0);
    QVERIFY(figure(result.out, "bytes") > 16300);
    QVERIFY(figure(result.out, "bits_per_byte") < 2.5);
  }

  void benchPrintsAndWritesRates() {
    const test::TemporaryFolder folder;
    const Result result =
        run({"bench", "decode", "--repeat", "5", "--json", path(folder / "bench.json")});
    QCOMPARE(result.status, 0);
    QVERIFY2(result.out.contains("\ndecode "), result.out);
    const json report = parsed(folder / "bench.json");
    QVERIFY(report.at("memory_read_bytes_per_second") > 0);
    const json& decode = report.at("decode");
    QCOMPARE(decode.at("samples").size(), std::size_t{5});
    QCOMPARE(decode.at("bytes_per_second"), decode.at("median"));
    QVERIFY(decode.at("min") <= decode.at("median") && decode.at("median") <= decode.at("max"));
    QVERIFY(decode.at("ratio_to_floor") > 0);
    QVERIFY(!report.contains("prefill"));
  }

  void infoDescribesTheModelAndTheMachine() {
    const test::TemporaryFolder folder;
    const Result result = run({"info", "--json", path(folder / "info.json")});
    QCOMPARE(result.status, 0);
    for (const char* word : {"books", "13693440", "byte-level", "simd", "cuda", "hash"})
      QVERIFY2(result.out.contains(word), word);
    QCOMPARE(parsed(folder / "info.json").at("parameters"), 13693440);
    QVERIFY(run({"info", "--model", draftFolder()}).out.contains("subword"));
  }

  void trainMakesAModelAndGoesOnWithIt() {
    const test::TemporaryFolder folder;
    const QString text = path(folder / "text");
    test::writeFile(folder / "text", test::readFile(excerpt().toStdString()).substr(0, 2000));
    const auto train = [&](const char* out, const char* steps, const QStringList& more = {}) {
      return run(QStringList{"train", "--file", text, "--validation", text, "--width", "16",
                             "--layers", "2", "--segment", "50", "--streams", "2", "--steps", steps,
                             "--out", path(folder / out), "--checkpoint-every", "4"} +
                 more);
    };
    const Result whole = train("whole", "12");
    QVERIFY2(whole.status == 0, whole.err);
    QCOMPARE(figure(whole.out, "steps"), 12.0);
    const double bits = figure(whole.out, "validation_bits_per_token");
    QVERIFY2(bits > 4 && bits < 8, whole.out);
    QVERIFY(whole.err.contains("step 12 of 12"));
    QCOMPARE(contents(folder / "whole" / "log.jsonl").count('\n'), 13);  // steps and a validation
    const auto model = folder / "whole" / "checkpoint";
    const Result evaluated =
        run({"eval", "--model", path(model), "--file", text, "--dtype", "f32"});
    QVERIFY(std::abs(figure(evaluated.out, "bits_per_byte") - bits) < 0.001);

    const Result again = train("whole", "12");
    QCOMPARE(again.status, 1);
    QVERIFY2(isOneLine(again.err) && again.err.contains("--resume"), again.err);
    const Result other = train("whole", "13", {"--resume"});
    QCOMPARE(other.status, 1);
    QVERIFY2(other.err.contains("options"), other.err);
    const Result nothingThere = train("new", "12", {"--resume"});
    QCOMPARE(nothingThere.status, 1);
    QVERIFY2(nothingThere.err.contains("no checkpoint"), nothingThere.err);
    const Result ended = train("whole", "12", {"--resume"});  // nothing is left to do
    QVERIFY2(ended.status == 0, ended.err);
    QCOMPARE(figure(ended.out, "validation_bits_per_token"), bits);
  }

  void trainGoesOnAfterAnInterruption() {
    const test::TemporaryFolder folder;
    QStringList arguments{"train",    "--file", excerpt(),           "--width", "64",
                          "--layers", "2",      "--segment",         "100",     "--steps",
                          "1000000",  "--out",  path(folder / "run")};
    QProcess process;
    const auto interruptWhenItSteps = [&] {
      process.start(MB_TEST_PROGRAM, arguments);
      QByteArray shown;
      QTRY_VERIFY_WITH_TIMEOUT((shown += process.readAllStandardError()).contains("step "),
                               kPatience);
      interrupt(process);
    };
    interruptWhenItSteps();
    const Result result = resultOf(process);
    QCOMPARE(result.status, 130);
    QVERIFY2(result.err.contains("--resume"), result.err);
    const auto steps = [&] { return contents(folder / "run" / "log.jsonl").count('\n'); };
    const auto before = steps();
    QVERIFY(before > 0);
    arguments << "--resume";
    interruptWhenItSteps();
    QCOMPARE(resultOf(process).status, 130);
    const QByteArray log = contents(folder / "run" / "log.jsonl");
    QVERIFY(steps() > before);
    const auto lines = log.split('\n');
    for (qsizetype i = 0; i + 1 < lines.size(); ++i)  // none twice, none left out
      QCOMPARE(json::parse(lines[i].toStdString()).at("step"), i + 1);
  }

  void trainRefusesWhatItCannotRead() {
    const test::TemporaryFolder folder;
    test::writeFile(folder / "empty", "");
    test::writeFile(folder / "short", "abc");
    const QString out = path(folder / "run");
    const auto refused = [&](const QStringList& more, const char* why) {
      const Result result = run(QStringList{"train", "--out", out} + more);
      return result.status == 1 && isOneLine(result.err) && result.err.contains(why) &&
             !std::filesystem::exists(folder / "run");
    };
    QVERIFY(refused({"--file", path(folder / "none")}, "none"));
    QVERIFY(refused({"--file", path(folder / "empty")}, "at least one byte"));
    QVERIFY(refused({"--file", path(folder / "short")}, "257 tokens"));
    test::writeFile(folder / "one", "a");
    QVERIFY(refused({"--file", excerpt(), "--validation", path(folder / "one")}, "2 tokens"));
    QVERIFY(refused({"--file", excerpt(), "--model", path(folder / "none")}, "none"));
    QVERIFY(refused({"--file", excerpt(), "--tokenizer", path(folder / "short")}, "short"));
  }

  void aByteModelIsNoDrafter() {
    const QString books = path(test::bundledFolder("books"));
    const Result benched = run({"bench", "speculate", "--device", "cpu", "--draft", books});
    const Result generated = run({"generate", "--prompt", "It was", "--draft", books});
    for (const Result& result : {benched, generated}) {
      QCOMPARE(result.status, kFailed);
      QVERIFY2(result.err.contains("expected a subword model with a tokenizer.json"), result.err);
    }
  }

  void helpGoesToStandardOutput_data() {
    QTest::addColumn<QStringList>("arguments");
    QTest::newRow("program") << QStringList{"--help"};
    for (const char* command : {"generate", "eval", "info", "bench", "train"})
      QTest::newRow(command) << QStringList{command, "--help"};
  }
  void helpGoesToStandardOutput() {
    QFETCH(QStringList, arguments);
    const Result result = run(arguments);
    QCOMPARE(result.status, 0);
    QVERIFY(result.out.contains("Usage:"));
    QCOMPARE(result.err, QByteArray());
  }

  void versionGoesToStandardOutput() {
    const Result result = run({"--version"});
    QCOMPARE(result.status, 0);
    QVERIFY(isOneLine(result.out));
    QCOMPARE(result.err, QByteArray());
  }

  void badArgumentsAreRefusedInOneLine_data() {
    QTest::addColumn<QStringList>("arguments");
    const QStringList prompt = {"generate", "--prompt", "a"};
    QTest::newRow("no subcommand") << QStringList();
    QTest::newRow("unknown subcommand") << QStringList{"sing"};
    QTest::newRow("two subcommands") << prompt + QStringList{"info"};
    QTest::newRow("unknown option") << prompt + QStringList{"--frob"};
    QTest::newRow("stray word") << prompt + QStringList{"more"};
    QTest::newRow("no prompt") << QStringList{"generate", "--bytes", "5"};
    QTest::newRow("two prompts") << prompt + QStringList{"--prompt-file", excerpt()};
    QTest::newRow("prompt without text") << QStringList{"generate", "--prompt"};
    QTest::newRow("bytes: a word") << prompt + QStringList{"--bytes", "many"};
    QTest::newRow("bytes: negative") << prompt + QStringList{"--bytes", "-1"};
    QTest::newRow("bytes: a fraction") << prompt + QStringList{"--bytes", "1.5"};
    QTest::newRow("bytes: too many") << prompt + QStringList{"--bytes", "99999999999999999999"};
    QTest::newRow("draft tokens: 0") << prompt + QStringList{"--draft-tokens", "0"};
    QTest::newRow("beta: 0") << prompt + QStringList{"--beta", "0"};
    QTest::newRow("speculate without draft") << prompt + QStringList{"--speculate", "exact"};
    QTest::newRow("speculate: unknown")
        << prompt + QStringList{"--draft", draftFolder(), "--speculate", "maybe"};
    QTest::newRow("temperature: negative") << prompt + QStringList{"--temperature", "-1"};
    QTest::newRow("temperature: not a number") << prompt + QStringList{"--temperature", "nan"};
    QTest::newRow("top p: above 1") << prompt + QStringList{"--top-p", "1.5"};
    QTest::newRow("top p: not a number") << prompt + QStringList{"--top-p", "nan"};
    QTest::newRow("top k: negative") << prompt + QStringList{"--top-k", "-1"};
    QTest::newRow("seed: a word") << prompt + QStringList{"--seed", "lucky"};
    QTest::newRow("dtype: unknown") << prompt + QStringList{"--dtype", "q8"};
    QTest::newRow("device: unknown") << prompt + QStringList{"--device", "abacus"};
    QTest::newRow("threads: negative") << prompt + QStringList{"--threads", "-2"};
    QTest::newRow("eval without file") << QStringList{"eval"};
    QTest::newRow("eval of no bytes") << QStringList{"eval", "--file", excerpt(), "--bytes", "0"};
    QTest::newRow("eval: negative offset")
        << QStringList{"eval", "--file", excerpt(), "--offset", "-1"};
    QTest::newRow("bench: unknown") << QStringList{"bench", "everything"};
    QTest::newRow("bench: few repeats") << QStringList{"bench", "decode", "--repeat", "4"};
    QTest::newRow("bench: unknown shape") << QStringList{"bench", "decode", "--shape", "7B"};
    QTest::newRow("bench: model and shape")
        << QStringList{"bench", "--shape", "14M", "--model", draftFolder()};
  }
  void badArgumentsAreRefusedInOneLine() {
    QFETCH(QStringList, arguments);
    const Result result = run(arguments);
    QCOMPARE(result.status, kBadArguments);
    QVERIFY2(isOneLine(result.err), result.err);
    QVERIFY2(result.err.size() < 300, result.err);
    QCOMPARE(result.out, QByteArray());
  }

  void anUnknownSubcommandIsNamed() {
    const Result result = run({"sing"});
    QVERIFY2(result.err.contains("sing"), result.err);
  }

  void failuresNameTheirReasonInOneLine_data() {
    QTest::addColumn<QStringList>("arguments");
    QTest::addColumn<QByteArray>("reason");
    const QStringList prompt = {"generate", "--prompt", "a", "--bytes", "4"};
    const QString nowhere = "/nonexistent/folder/file";
    QTest::newRow("no model folder")
        << prompt + QStringList{"--model", nowhere} << QByteArray("/nonexistent/folder/file");
    QTest::newRow("no model in the folder")
        << prompt + QStringList{"--model", path(MB_TEST_DATA)} << QByteArray("config.json");
    QTest::newRow("subword verifier")
        << prompt + QStringList{"--model", draftFolder()} << QByteArray("books-draft");
    QTest::newRow("byte model as drafter")
        << prompt + QStringList{"--draft", path(test::bundledFolder("books"))}
        << QByteArray("books");
    QTest::newRow("no drafter folder")
        << prompt + QStringList{"--draft", nowhere} << QByteArray("/nonexistent/folder/file");
    QTest::newRow("empty prompt") << QStringList{"generate", "--prompt", ""}
                                  << QByteArray("prompt");
    QTest::newRow("no prompt file")
        << QStringList{"generate", "--prompt-file", nowhere} << QByteArray(nowhere.toUtf8());
    QTest::newRow("unwritable output")
        << prompt + QStringList{"--output", nowhere} << QByteArray(nowhere.toUtf8());
    QTest::newRow("output is a folder")
        << prompt + QStringList{"--output", path(MB_TEST_DATA)} << QByteArray(MB_TEST_DATA);
    QTest::newRow("unwritable report")
        << prompt + QStringList{"--json", nowhere} << QByteArray(nowhere.toUtf8());
    QTest::newRow("unknown instruction set")
        << prompt + QStringList{"--simd", "mmx"} << QByteArray("mmx");
    QTest::newRow("no file to score")
        << QStringList{"eval", "--file", nowhere} << QByteArray(nowhere.toUtf8());
    QTest::newRow("a folder to score")
        << QStringList{"eval", "--file", path(MB_TEST_DATA)} << QByteArray(MB_TEST_DATA);
    QTest::newRow("offset behind the end")
        << QStringList{"eval", "--file", excerpt(), "--offset", "16384"} << QByteArray("16384");
    QTest::newRow("range behind the end")
        << QStringList{"eval", "--file", excerpt(), "--offset", "9", "--bytes", "16376"}
        << excerpt().toUtf8();
    QTest::newRow("range around the end of numbers") << QStringList{"eval",
                                                                    "--file",
                                                                    excerpt(),
                                                                    "--offset",
                                                                    "9",
                                                                    "--bytes",
                                                                    "18446744073709551610"}
                                                     << excerpt().toUtf8();
    QTest::newRow("subword model without tokenizer")
        << QStringList{"eval", "--file", excerpt(), "--model", path(test::goldenFolder("subword"))}
        << QByteArray("tokenizer.json");
    QTest::newRow("no model to describe")
        << QStringList{"info", "--model", nowhere} << QByteArray(nowhere.toUtf8());
  }
  void failuresNameTheirReasonInOneLine() {
    QFETCH(QStringList, arguments);
    QFETCH(QByteArray, reason);
    const Result result = run(arguments);
    QCOMPARE(result.status, kFailed);
    QVERIFY2(isOneLine(result.err), result.err);
    QVERIFY2(result.err.contains(reason), result.err);
  }

  void cudaWithoutAGpuFailsWithTheReason() {
    if (chooseDevice().hasCuda()) QSKIP("this machine has a CUDA device");
    const Result result = run({"generate", "--prompt", "a", "--device", "cuda"});
    QCOMPARE(result.status, kFailed);
    QVERIFY2(isOneLine(result.err) && result.err.contains("CUDA"), result.err);
    QCOMPARE(run({"generate", "--prompt", "a", "--bytes", "1", "--device", "auto"}).status, 0);
  }

  void aFullStandardOutputIsAFailure() {
    QProcess process;
    process.setStandardOutputFile("/dev/full");
    process.start(MB_TEST_PROGRAM, {"info"});
    const Result result = resultOf(process);
    QCOMPARE(result.status, kFailed);
    QVERIFY2(isOneLine(result.err), result.err);
  }

  void interruptingGenerateKeepsWhatWasWritten() {
    const test::TemporaryFolder folder;
    QProcess process;
    process.start(MB_TEST_PROGRAM,
                  {"generate", "--prompt", kPrompt, "--bytes", "100000000", "--output",
                   path(folder / "text"), "--json", path(folder / "run.json")});
    QVERIFY(process.waitForReadyRead(kPatience));  // text streams before the end
    interrupt(process);
    const Result result = resultOf(process);
    QCOMPARE(result.status, kInterrupted);
    QVERIFY(!result.text().isEmpty());
    QCOMPARE(contents(folder / "text"), result.text());
    const json report = parsed(folder / "run.json");
    QCOMPARE(report.at("bytes"), result.text().size());
    QCOMPARE(report.at("byte_records").size(),
             static_cast<std::size_t>(kPrompt.size() + result.text().size()));
    QVERIFY2(result.err.contains("interrupted"), result.err);
  }

  void interruptingASpeculativeRunClosesItsRound() {
    const test::TemporaryFolder folder;
    QProcess process;
    process.start(MB_TEST_PROGRAM, {"generate", "--prompt", kPrompt, "--bytes", "100000000",
                                    "--draft", draftFolder(), "--json", path(folder / "run.json")});
    QVERIFY(process.waitForReadyRead(kPatience));
    interrupt(process);
    const Result result = resultOf(process);
    QCOMPARE(result.status, kInterrupted);
    const json report = parsed(folder / "run.json");
    QCOMPARE(report.at("rounds"), report.at("round_records").size());
    std::size_t inRounds = 0;
    for (const json& record : report.at("byte_records"))
      if (record.at("origin") != "prompt" && record.at("origin") != "plain") ++inRounds;
    QCOMPARE(inRounds, report.at("accepted").get<std::size_t>() +
                           report.at("corrected").get<std::size_t>() +
                           report.at("bonus").get<std::size_t>());
  }

  void interruptingEvalLeavesNoResult() {
    const test::TemporaryFolder folder;
    test::writeFile(folder / "long", std::string(50'000'000, 'a'));
    QProcess process;
    process.start(MB_TEST_PROGRAM,
                  {"eval", "--file", path(folder / "long"), "--json", path(folder / "eval.json")});
    QVERIFY(process.waitForStarted(kPatience));
    QTRY_VERIFY_WITH_TIMEOUT(catchesInterrupt(process.processId()), kPatience);
    interrupt(process);
    const Result result = resultOf(process);
    QCOMPARE(result.status, kInterrupted);
    QCOMPARE(result.out, QByteArray());
    QVERIFY(!std::filesystem::exists(folder / "eval.json"));
  }

  void progressIsShownOnATerminalAndNeverInTheResult() {
    Terminal terminal;
    if (!terminal.opened()) QSKIP("no pseudo-terminal");
    QProcess process;
    terminal.connectStandardError(process);
    process.start(MB_TEST_PROGRAM, {"eval", "--file", excerpt(), "--bytes", "3000"});
    const Result result = resultOf(process);
    QCOMPARE(result.status, 0);
    const QByteArray shown = terminal.shown();
    QVERIFY2(shown.contains("scored: "), shown);
    QVERIFY2(shown.endsWith("\r\033[K"), shown);  // the line is wiped at the end
    QVERIFY(!result.out.contains("scored"));
    QVERIFY(!result.out.contains('\r'));
  }
};

QTEST_GUILESS_MAIN(CliTest)
#include "test_cli.moc"
