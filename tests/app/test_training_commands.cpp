// Training from the command line beyond texts: recipes, moving averages.
#include <QtTest>
#include <nlohmann/json.hpp>

#include "tests/support/program.h"
#include "tests/support/test_models.h"

using namespace mb;
using namespace mb::test;
using nlohmann::json;

namespace {

/// A run of a recipe that takes no time.
QStringList shortRun(const char* recipe, const std::filesystem::path& out, const char* steps) {
  return {"train", "--recipe",         recipe, "--segment", "24",      "--streams",
          "2",     "--width",          "16",   "--layers",  "1",       "--steps",
          steps,   "--examples",       "10",   "--out",     path(out), "--checkpoint-every",
          "1000",  "--validate-every", "1000"};
}

std::filesystem::path excerpt() {
  return std::filesystem::path(MB_TEST_DATA) / "books-test-excerpt.txt";
}

json parsed(const std::filesystem::path& file) {
  return json::parse(readFile(file), nullptr, false);
}

}  // namespace

class TrainingCommandsTest : public QObject {
  Q_OBJECT

 private slots:
  void trainsARecipeAndMeasuresIt_data() {
    QTest::addColumn<QString>("recipe");
    QTest::newRow("selective copying") << "selective-copying";
    QTest::newRow("induction heads") << "induction-heads";
  }
  void trainsARecipeAndMeasuresIt() {
    QFETCH(QString, recipe);
    const TemporaryFolder folder;
    const QByteArray name = recipe.toUtf8();
    const Result trained = run(shortRun(name, folder / "run", "6"));
    QVERIFY2(trained.status == 0, trained.err);
    QCOMPARE(figure(trained.out, "steps"), 6.0);
    const double accuracy = figure(trained.out, "accuracy");
    QVERIFY(accuracy >= 0 && accuracy <= 1);
    const json description = parsed(folder / "run" / "run.json");
    QCOMPARE(description.at("recipe").get<std::string>(), name.toStdString());
    const Result again = run(shortRun(name, folder / "run", "6") << "--resume");
    QCOMPARE(figure(again.out, "accuracy"), accuracy);

    const QString model = path(folder / "run" / "checkpoint");
    const Result measured =
        run({"eval", "--recipe", recipe, "--model", model, "--length", "24", "100", "--examples",
             "10", "--dtype", "f32", "--json", path(folder / "accuracy.json")});
    QVERIFY2(measured.status == 0, measured.err);
    QCOMPARE(figure(measured.out, "accuracy_24"), accuracy);
    const double longer = figure(measured.out, "accuracy_100");
    const json report = parsed(folder / "accuracy.json");
    QCOMPARE(report.at("accuracy").size(), std::size_t{2});
    const json& last = report.at("accuracy")[1];
    QCOMPARE(last.at("length"), 100);
    QCOMPARE(last.at("asked"), recipe == "induction-heads" ? 10 : 160);
    QVERIFY(std::abs(last.at("right").get<double>() / last.at("asked").get<double>() - longer) <
            1e-5);
  }

  void whatIsGivenWinsOverTheRecipe() {
    const TemporaryFolder folder;
    const auto rateOfTheSecondStep = [&](const char* name, const QStringList& before,
                                         const QStringList& more) {
      run(QStringList{"train"} + before + shortRun("induction-heads", folder / name, "2").mid(1) +
          more);
      const QByteArrayList log =
          QByteArray::fromStdString(readFile(folder / name / "log.jsonl")).split('\n');
      return json::parse(log.value(1).toStdString()).at("learning_rate").get<double>();
    };
    QCOMPARE(rateOfTheSecondStep("its own", {}, {}), 1e-3 * 2 / 50);  // warming up
    QCOMPARE(rateOfTheSecondStep("given", {"--learning-rate", "0.25"}, {"--warm-up", "0"}), 0.25);
  }

  void theMovingAverageIsWhatTheCheckpointHolds() {
    const TemporaryFolder folder;
    const auto weights = [&](const char* name, const QStringList& more) {
      run(shortRun("induction-heads", folder / name, "6") + more);
      return readFile(folder / name / "checkpoint" / "model.safetensors");
    };
    const std::string plain = weights("plain", {});
    const std::string averaged = weights("averaged", {"--ema", "0.9"});
    QVERIFY(!plain.empty() && plain.size() == averaged.size() && plain != averaged);
  }

  void evalShowsWhatALongerContextIsWorth() {
    const TemporaryFolder folder;
    const QStringList file{"eval", "--file", path(excerpt()), "--bytes", "600"};
    const Result whole = run(file + QStringList{"--by-position"});
    QVERIFY2(whole.status == 0, whole.err);
    for (const char* end : {"64", "128", "256", "512", "1024"})
      QVERIFY(figure(whole.out, QByteArray("bits_per_byte_to_") + end) > 0);
    QVERIFY(!whole.out.contains("to_2048"));
    const Result cut = run(file + QStringList{"--context", "100", "--by-position", "--json",
                                              path(folder / "curve.json")});
    QVERIFY2(cut.status == 0, cut.err);
    QVERIFY(figure(cut.out, "bits_per_byte") > figure(whole.out, "bits_per_byte"));
    QCOMPARE(figure(cut.out, "bytes"), 594.0);  // all but the first of six contexts
    const json curve = parsed(folder / "curve.json");
    QCOMPARE(curve.at("manifest").at("context"), 100);
    QCOMPARE(curve.at("by_position").size(), std::size_t{2});
    QCOMPARE(curve.at("by_position")[1].at("begin"), 64);
    QCOMPARE(curve.at("by_position")[1].at("bytes"), 6 * 36);
    QVERIFY(!run(file).out.contains("bits_per_byte_to"));
    QCOMPARE(run(file + QStringList{"--context", "1"}).status, kBadArguments);
  }

  void distillsADrafter() {
    const TemporaryFolder folder;
    writeFile(folder / "text", readFile(excerpt()).substr(0, 4000));
    const QString text = path(folder / "text");
    run({"tokenizer", "train", "--file", text, "--vocabulary", "300", "--out",
         path(folder / "tokenizer.json")});
    run({"train", "--file", text, "--width", "16", "--layers", "1", "--steps", "3", "--segment",
         "32", "--out", path(folder / "verifier")});
    const auto distill = [&](const char* out, const QStringList& more) {
      return run(QStringList{"distill",
                             "--verifier",
                             path(folder / "verifier" / "checkpoint"),
                             "--file",
                             text,
                             "--validation",
                             text,
                             "--bytes",
                             "500",
                             "--read",
                             "8",
                             "--write",
                             "8",
                             "--prompts",
                             "2",
                             "--steps",
                             "3",
                             "--segment",
                             "32",
                             "--streams",
                             "2",
                             "--out",
                             path(folder / out)} +
                 more);
    };
    const QStringList fresh{
        "--tokenizer", path(folder / "tokenizer.json"), "--width", "16", "--layers", "1"};
    const Result first = distill("first", fresh);
    QVERIFY2(first.status == 0, first.err);
    QVERIFY(std::isnan(figure(first.out, "acceptance_before")));  // there was no drafter
    const double acceptance = figure(first.out, "acceptance_after");
    QVERIFY(acceptance >= 0 && acceptance <= 1);
    const std::string written = readFile(folder / "first" / "written.txt");
    QCOMPARE(written.size(), std::size_t{2 * 32 * 16});  // two whole parts
    QCOMPARE(written.substr(0, 8), readFile(folder / "text").substr(0, 8));
    const json origin = parsed(folder / "first" / "written.json").at("origin");
    QCOMPARE(origin.at("text_bytes"), 4000);

    const QStringList drafter{"--model", path(folder / "first" / "checkpoint")};
    const Result second = distill("second", drafter);
    QVERIFY2(second.status == 0, second.err);
    QCOMPARE(figure(second.out, "acceptance_before"), acceptance);
    const auto weights = [&](const char* name) {
      return readFile(folder / name / "checkpoint" / "model.safetensors");
    };
    const std::string expected = weights("second");
    QVERIFY(!expected.empty() && expected != weights("first"));
    const Result ended = distill("second", drafter + QStringList{"--resume"});
    QVERIFY2(ended.status == 0, ended.err);
    QVERIFY(weights("second") == expected);
    const Result counted = distill("third", drafter + QStringList{"--count-text"});
    QVERIFY2(counted.status == 0, counted.err);
    QVERIFY(weights("third") != expected);
  }

  void distillRefusesWhatItCannotUse() {
    const TemporaryFolder folder;
    writeFile(folder / "empty", "");
    const auto refused = [&](const QStringList& more, int status, const char* why) {
      const Result result =
          run(QStringList{"distill", "--out", path(folder / "run"), "--bytes", "1"} + more);
      return result.status == status && isOneLine(result.err) && result.err.contains(why) &&
             !std::filesystem::exists(folder / "run");
    };
    const QString drafter = path(bundledFolder("books-draft"));
    const QString text = path(excerpt());
    QVERIFY(refused({"--model", drafter}, kBadArguments, "--file"));
    QVERIFY(refused({"--file", text, "--model", drafter, "--bytes", "0"}, kBadArguments, "bytes"));
    QVERIFY(refused({"--file", path(folder / "empty"), "--model", drafter}, kFailed, "one byte"));
    QVERIFY(refused({"--file", text, "--model", drafter, "--verifier", drafter}, kFailed,
                    "vocabulary of 256"));
    QVERIFY(refused({"--file", text}, kFailed, "tokenizer"));
  }

  void refusesWhatDoesNotGoTogether() {
    const TemporaryFolder folder;
    const auto refused = [&](const QStringList& more, int status, const char* why) {
      const Result result = run(QStringList{"train", "--out", path(folder / "run")} + more);
      return result.status == status && isOneLine(result.err) && result.err.contains(why) &&
             !std::filesystem::exists(folder / "run");
    };
    const QString bundled = path(bundledFolder("books"));
    QVERIFY(refused({}, kBadArguments, "--recipe"));
    QVERIFY(refused({"--recipe", "juggling"}, kBadArguments, "selective-copying"));
    QVERIFY(refused({"--recipe", "induction-heads", "--file", "x"}, kBadArguments, "--file"));
    QVERIFY(refused({"--recipe", "induction-heads", "--segment", "2"}, kFailed, "at least 3"));
    QVERIFY(refused({"--recipe", "selective-copying", "--model", bundled}, kFailed,
                    "vocabulary of 16, found 256"));
    QVERIFY(refused({"--recipe", "selective-copying", "--ema", "1"}, kBadArguments, "--ema"));
    const Result evaluated = run({"eval", "--recipe", "induction-heads", "--length", "2"});
    QCOMPARE(evaluated.status, kFailed);
    QVERIFY2(evaluated.err.contains("vocabulary of 16"), evaluated.err);
    QCOMPARE(run({"eval", "--file", "x", "--length", "64"}).status, kBadArguments);
    QCOMPARE(run({"eval"}).status, kBadArguments);
  }
};

QTEST_APPLESS_MAIN(TrainingCommandsTest)
#include "test_training_commands.moc"
