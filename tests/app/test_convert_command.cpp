// mambabyte convert from outside: what it writes, what it says, what it refuses.
#include <QtTest>
#include <nlohmann/json.hpp>

#include "engine/checkpoint/safetensors.h"
#include "tests/support/file_size_limit.h"
#include "tests/support/model_files.h"
#include "tests/support/program.h"
#include "tests/support/test_models.h"

using namespace mb;
using namespace mb::test;

namespace {

Result convert(const std::filesystem::path& model, const std::filesystem::path& out,
               const QStringList& more = {}) {
  return run(QStringList{"convert", "--model", path(model), "--out", path(out)} + more);
}

/// What the model writes, and its surprise at every byte of it.
QByteArray written(const std::filesystem::path& model) {
  const TemporaryFolder folder;
  const auto file = folder / "run.json";
  const Result result = run({"generate", "--model", path(model), "--prompt", "The ", "--bytes",
                             "40", "--dtype", "f32", "--json", path(file)});
  if (result.status != 0) return result.err;
  const auto report = nlohmann::json::parse(readFile(file));
  return QByteArray::fromStdString(report.at("byte_records").dump());
}

std::string torchType(const std::filesystem::path& model) {
  return nlohmann::json::parse(readFile(model / "config.json")).at("torch_dtype");
}

bool isEmpty(const TemporaryFolder& folder) {
  return std::filesystem::is_empty(folder.path());
}

}  // namespace

class ConvertCommandTest : public QObject {
  Q_OBJECT

 private slots:
  void writesBfloat16UnlessToldOtherwise() {
    const TemporaryFolder folder;
    const auto model = goldenFolder("tiny-byte-statespaces");
    for (const char* dtype : {"bf16", "f32"}) {
      const auto out = folder / dtype;
      const bool byDefault = dtype == std::string("bf16");
      const Result result =
          convert(model, out, byDefault ? QStringList() : QStringList{"--dtype", dtype});
      QVERIFY2(result.status == 0, result.err);
      QCOMPARE(result.err, QByteArray());  // no terminal watches
      QCOMPARE(figure(result.out, "parameters"), 71520.0);
      const auto file = out / "model.safetensors";
      QCOMPARE(figure(result.out, "bytes"), static_cast<double>(std::filesystem::file_size(file)));
      QVERIFY2(result.out.contains(QByteArray("dtype ") + dtype + '\n'), result.out);
      QVERIFY2(result.out.contains("model " + path(out).toUtf8() + '\n'), result.out);
      const auto tensors = readSafetensors(file);
      QVERIFY(tensors.at("backbone.embeddings.weight").type ==
              (byDefault ? DataType::BFloat16 : DataType::Float32));
      QVERIFY(tensors.at("backbone.layers.0.mixer.A_log").type == DataType::Float32);
      QCOMPARE(torchType(out), std::string(byDefault ? "bfloat16" : "float32"));
    }
  }

  void aConvertedModelWritesWhatTheOriginalWrites() {
    const TemporaryFolder folder;
    QCOMPARE(
        convert(goldenFolder("odd-shapes-statespaces"), folder / "odd", {"--dtype", "f32"}).status,
        0);
    QCOMPARE(written(folder / "odd"), written(goldenFolder("odd-shapes-statespaces")));
    QCOMPARE(convert(bundledFolder("books"), folder / "books").status, 0);
    QCOMPARE(written(folder / "books"), written(bundledFolder("books")));
    QVERIFY(written(folder / "books").startsWith('['));
  }

  void theTokenizerComesAlong() {
    const TemporaryFolder folder;
    QCOMPARE(convert(bundledFolder("books-draft"), folder / "draft").status, 0);
    QCOMPARE(readFile(folder / "draft" / "tokenizer.json"),
             readFile(bundledFolder("books-draft") / "tokenizer.json"));
    QVERIFY(run({"info", "--model", path(folder / "draft")}).out.contains("subword"));
  }

  void layerNormIsSaidToBeOfAnotherForm() {
    const TemporaryFolder folder;
    ModelConfig config = smallConfig();
    config.norm = NormKind::Layer;
    writeModel(folder / "original", config, randomTensors(config, 1));
    const Result result = convert(folder / "original", folder / "new", {"--dtype", "f32"});
    QCOMPARE(result.status, 0);
    QVERIFY2(isOneLine(result.err) && result.err.contains("LayerNorm"), result.err);
    QCOMPARE(written(folder / "new"), written(folder / "original"));
  }

  void aTrainedModelIsShippedInHalfTheSize() {
    const TemporaryFolder folder;
    const Result trained =
        run({"train", "--file",
             path(std::filesystem::path(MB_TEST_DATA) / "books-test-excerpt.txt"), "--width", "64",
             "--layers", "2", "--segment", "32", "--steps", "2", "--out", path(folder / "run")});
    QVERIFY2(trained.status == 0, trained.err);
    const auto model = folder / "run" / "checkpoint";
    QVERIFY2(trained.err.contains("mambabyte convert --model " + path(model).toUtf8()),
             trained.err);
    const Result result = convert(model, folder / "shipped");
    QVERIFY2(result.status == 0, result.err);
    const auto before =
        static_cast<double>(std::filesystem::file_size(model / "model.safetensors"));
    QVERIFY(figure(result.out, "bytes") < 0.6 * before);
    QVERIFY(!std::filesystem::exists(folder / "shipped" / "trainer.bin"));
    QCOMPARE(run({"info", "--model", path(folder / "shipped")}).status, 0);
  }

  void aFolderInUseIsRefused() {
    const TemporaryFolder folder;
    std::filesystem::create_directory(folder / "empty");
    QCOMPARE(convert(goldenFolder("tiny-byte"), folder / "empty").status, 0);
    const std::string before = readFile(folder / "empty" / "model.safetensors");
    const Result result = convert(goldenFolder("tiny-byte"), folder / "empty", {"--dtype", "f32"});
    QCOMPARE(result.status, kFailed);
    QVERIFY2(isOneLine(result.err) && result.err.contains(path(folder / "empty").toUtf8()) &&
                 result.err.contains("expected a new or empty folder, found"),
             result.err);
    QCOMPARE(readFile(folder / "empty" / "model.safetensors"), before);
  }

  void brokenModelsGiveTheLoadersMessage() {
    const TemporaryFolder models, folder;
    const ModelConfig config = smallConfig();
    FileTensors tensors = randomTensors(config, 1);
    tensors.erase("backbone.norm_f.weight");
    writeModel(models / "incomplete", config, tensors);
    writeModel(models / "cut", config, randomTensors(config, 1));
    std::filesystem::resize_file(models / "cut" / "model.safetensors", 5000);
    for (const char* name : {"incomplete", "cut", "none"}) {
      const Result result = convert(models / name, folder / "new");
      QCOMPARE(result.status, kFailed);
      QCOMPARE(result.err, run({"info", "--model", path(models / name)}).err);
      QVERIFY2(isOneLine(result.err), result.err);
      QVERIFY(isEmpty(folder));
    }
  }

  void aDiskWithoutRoomLeavesNothing() {
    const TemporaryFolder folder;
    const FileSizeLimit limit(100'000);  // which the program inherits
    const Result result = convert(goldenFolder("tiny-byte"), folder / "new");
    QCOMPARE(result.status, kFailed);
    QVERIFY2(isOneLine(result.err) && result.err.contains("cannot be written") &&
                 result.err.contains("too large"),
             result.err);
    QCOMPARE(result.out, QByteArray());
    QVERIFY(isEmpty(folder));
  }

  void badArgumentsAreRefusedInOneLine_data() {
    QTest::addColumn<QStringList>("arguments");
    const QStringList model = {"--model", path(goldenFolder("tiny-byte"))};
    const QStringList out = {"--out", "new"};
    QTest::newRow("nothing") << QStringList();
    QTest::newRow("no model") << out;
    QTest::newRow("no folder") << model;
    QTest::newRow("unknown type") << model + out + QStringList{"--dtype", "f16"};
    QTest::newRow("stray word") << model + out + QStringList{"more"};
  }
  void badArgumentsAreRefusedInOneLine() {
    QFETCH(QStringList, arguments);
    const TemporaryFolder folder;
    arguments.replaceInStrings(QRegularExpression("^new$"), path(folder / "new"));
    const Result result = run(QStringList{"convert"} + arguments);
    QCOMPARE(result.status, kBadArguments);
    QVERIFY2(isOneLine(result.err), result.err);
    QCOMPARE(result.out, QByteArray());
    QVERIFY(isEmpty(folder));
  }
};

QTEST_GUILESS_MAIN(ConvertCommandTest)
#include "test_convert_command.moc"
