// Model folders: layouts, storage types, and an exact complaint for each way to be broken.
#include <QtTest>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/checkpoint/checkpoint.h"
#include "engine/error.h"
#include "engine/model/random_weights.h"
#include "tests/support/model_files.h"
#include "tests/support/random_values.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"
#include "tests/support/torch_files.h"

using namespace mb;
using namespace mb::test;
using Json = nlohmann::json;

namespace {

constexpr const char* kInProj = "backbone.layers.1.mixer.in_proj.weight";
constexpr const char* kConv = "backbone.layers.0.mixer.conv1d.weight";

/// A small model on disk before it is written, to be damaged.
struct Sketch {
  ModelConfig config = smallConfig();
  FileTensors tensors = randomTensors(config, 1);
  Json json = Json::parse(transformersConfig(config));

  void write(const std::filesystem::path& folder) const {
    writeFile(folder / "config.json", json.dump());
    writeFile(folder / "model.safetensors", safetensorsBytes(tensors));
  }
  void set(const std::string& name, std::size_t element, float value) {
    tensors.at(name).data.replace(element * 4, 4, encodeValues(DataType::Float32, {{value}}));
  }
};

Sketch stateSpacesSketch() {
  Sketch sketch;
  sketch.json = Json::parse(stateSpacesConfig(sketch.config));
  return sketch;
}

std::vector<float> valuesOf(const Checkpoint& checkpoint, const std::string& name,
                            const Shape& shape) {
  std::vector<float> values(elementCount(shape));
  checkpoint.tensor(name, shape).read(0, values);
  return values;
}

/// All weights of two checkpoints are the same numbers.
bool sameWeights(const Checkpoint& a, const Checkpoint& b) {
  return std::ranges::all_of(expectedTensors(a.config()), [&](const auto& entry) {
    return valuesOf(a, entry.first, entry.second) == valuesOf(b, entry.first, entry.second);
  });
}

/// A pytorch_model.bin with these tensors, as the state-spaces code saves them.
void writeTorchModel(const std::filesystem::path& folder, const Sketch& sketch,
                     const std::string& storageType) {
  Pickle pickle;
  pickle.start().emptyDict().raw("(");
  std::map<std::string, std::string> storages;
  for (const auto& [name, tensor] : sketch.tensors) {
    const std::string key = std::to_string(storages.size());
    const std::vector<std::int32_t> shape(tensor.shape.begin(), tensor.shape.end());
    const auto count = static_cast<std::int32_t>(elementCount(tensor.shape));
    const bool embedding = name == "backbone.embeddings.weight";
    pickle.text(embedding ? "backbone.embedding.weight" : name)
        .tensor(storageType, key, count, 0, shape, stridesOf(shape));
    storages[key] = tensor.data;
  }
  writeTorchFile(folder / "pytorch_model.bin", pickle.raw("u").stop().program(), storages);
  writeFile(folder / "config.json", sketch.json.dump());
}

void writeShards(const std::filesystem::path& folder, const Sketch& sketch) {
  test::writeShards(folder, sketch.json.dump(), sketch.tensors);
}

/// One way to break a folder and what the message must say.
struct Broken {
  const char* name;
  std::function<void(Sketch&)> damage;
  const char* file;     ///< blamed
  const char* subject;  ///< part of it, often a tensor
  const char* expected;
  const char* found;
};

const std::vector<Broken>& brokenFolders() {
  static const float kNan = std::numeric_limits<float>::quiet_NaN();
  static const float kInfinity = std::numeric_limits<float>::infinity();
  static const auto setting = [](const char* key, const Json& value) {
    return [=](Sketch& d) { d.json[key] = value; };
  };
  static const auto ssm = [](const char* key, const Json& value) {
    return [=](Sketch& d) {
      d = stateSpacesSketch();
      d.json["ssm_cfg"][key] = value;
    };
  };
  static const auto stateSpaces = [](const char* key, const Json& value) {
    return [=](Sketch& d) {
      d = stateSpacesSketch();
      d.json[key] = value;
    };
  };
  static const std::vector<Broken> kAll = {
      {"another architecture", setting("model_type", "mamba2"), "config.json", "model_type",
       "\"mamba\"", "\"mamba2\""},
      {"architecture is a number", setting("model_type", 5), "config.json", "model_type", "text",
       "5"},
      {"neither layout",
       [](Sketch& d) {
         d.json = {{"hidden_size", 16}};
       },
       "config.json", "config", "model_type", "neither"},
      {"not an object", [](Sketch& d) { d.json = Json::array({1}); }, "config.json", "config",
       "object", "array"},
      {"another activation", setting("hidden_act", "gelu"), "config.json", "hidden_act", "silu",
       "gelu"},
      {"width missing", [](Sketch& d) { d.json.erase("hidden_size"); }, "config.json", "config",
       "hidden_size", "none"},
      {"negative width", setting("hidden_size", -16), "config.json", "hidden_size", "from 1",
       "-16"},
      {"zero layers", setting("num_hidden_layers", 0), "config.json", "num_hidden_layers", "from 1",
       "0"},
      {"huge layers", setting("num_hidden_layers", 1e15), "config.json", "num_hidden_layers",
       "whole number", "1e+15"},
      {"layers out of range", setting("num_hidden_layers", 1u << 30), "config.json",
       "num_hidden_layers", "to 4096", "1073741824"},
      {"fractional state", setting("state_size", 1.5), "config.json", "state_size", "whole number",
       "1.5"},
      {"no taps", setting("conv_kernel", 0), "config.json", "conv_kernel", "from 1", "0"},
      {"negative epsilon", setting("layer_norm_epsilon", -1), "config.json", "layer_norm_epsilon",
       "", "-1"},
      {"bias is text", setting("use_bias", "yes"), "config.json", "use_bias", "true or false",
       "yes"},
      {"Mamba-2 layers", ssm("layer", "Mamba2"), "config.json", "layer", "Mamba1", "Mamba2"},
      {"attention layers", stateSpaces("attn_layer_idx", {1, 3}), "config.json", "attn_layer_idx",
       "no attention", "some"},
      {"a gated MLP", stateSpaces("d_intermediate", 64), "config.json", "d_intermediate", "0",
       "MLP"},
      {"ssm_cfg is text", stateSpaces("ssm_cfg", "x"), "config.json", "ssm_cfg", "object", "x"},
      {"rank is text", ssm("dt_rank", "big"), "config.json", "dt_rank", "whole number", "big"},
      {"a tensor is missing", [](Sketch& d) { d.tensors.erase(kInProj); }, "model.safetensors",
       kInProj, "[64, 16]", "no such tensor"},
      {"a tensor too many",
       [](Sketch& d) {
         d.tensors["backbone.extra"] = {"F32", {1}, "abcd"};
       },
       "model.safetensors", "backbone.extra", "Mamba-1", "[1]"},
      {"a layer too many", setting("num_hidden_layers", 1), "model.safetensors",
       "backbone.layers.1.", "Mamba-1", "of shape"},
      {"a layer too few", setting("num_hidden_layers", 3), "model.safetensors",
       "backbone.layers.2.norm.weight", "[16]", "no such tensor"},
      {"an unexpected bias", setting("use_conv_bias", false), "model.safetensors", "conv1d.bias",
       "Mamba-1", "[32]"},
      {"transposed",
       [](Sketch& d) {
         d.tensors.at(kInProj).shape = {16, 64};
       },
       "model.safetensors", kInProj, "[64, 16]", "[16, 64]"},
      {"of other rank",
       [](Sketch& d) {
         d.tensors.at(kConv).shape = {32, 4};
       },
       "model.safetensors", kConv, "[32, 1, 4]", "[32, 4]"},
      {"vocabulary too large", setting("vocab_size", 264), "model.safetensors",
       "backbone.embeddings.weight", "[264, 16]", "[256, 16]"},
      {"a NaN", [](Sketch& d) { d.set(kInProj, 37, kNan); }, "model.safetensors", kInProj, "finite",
       "nan at element 37"},
      {"an infinity", [](Sketch& d) { d.set(kConv, 127, -kInfinity); }, "model.safetensors", kConv,
       "finite", "-inf at element 127"},
      {"a NaN in the embedding", [](Sketch& d) { d.set("backbone.embeddings.weight", 4095, kNan); },
       "model.safetensors", "backbone.embeddings.weight", "finite", "nan at element 4095"},
      {"an infinite norm", [](Sketch& d) { d.set("backbone.norm_f.weight", 3, kInfinity); },
       "model.safetensors", "backbone.norm_f.weight", "finite", "inf at element 3"},
      {"a NaN in A_log", [](Sketch& d) { d.set("backbone.layers.0.mixer.A_log", 511, kNan); },
       "model.safetensors", "backbone.layers.0.mixer.A_log", "finite", "nan at element 511"},
      {"weights finite as float32 only", [](Sketch& d) { d.set(kInProj, 0, 3.4e38f); },
       "model.safetensors", kInProj, "finite", "at element 0"},
      {"decay rates that overflow",
       [](Sketch& d) { d.set("backbone.layers.0.mixer.A_log", 0, 100); }, "model.safetensors",
       "backbone.layers.0.mixer.A_log", "", ""},
  };
  return kAll;
}

}  // namespace

class CheckpointTest : public QObject {
  Q_OBJECT

 private slots:
  void bothLayoutsHoldTheSameModel() {
    for (const std::string name : {"tiny-byte", "odd-shapes"}) {
      const Checkpoint transformers(goldenFolder(name));
      const Checkpoint stateSpaces(goldenFolder(name + "-statespaces"));
      QVERIFY(transformers.config() == stateSpaces.config());
      QVERIFY(sameWeights(transformers, stateSpaces));
      QCOMPARE(transformers.weightFiles().front().filename().string(), "model.safetensors");
      QCOMPARE(stateSpaces.weightFiles().front().filename().string(), "pytorch_model.bin");
    }
  }

  void aFileInTheFolderNamesTheFolder() {
    const auto folder = goldenFolder("tiny-byte");
    const Checkpoint whole(folder);
    for (const char* file : {"config.json", "model.safetensors"}) {
      const Checkpoint byFile(folder / file);
      QVERIFY(byFile.folder() == folder);
      QVERIFY(sameWeights(whole, byFile));
    }
    QVERIFY(whole.tokenizerFile().empty());
    const Checkpoint sketch(bundledFolder("books-draft"));
    QVERIFY(sketch.tokenizerFile() == bundledFolder("books-draft") / "tokenizer.json");
  }

  void shardsAddUpToTheModel() {
    const TemporaryFolder whole, sharded;
    Sketch sketch;
    sketch.write(whole.path());
    writeShards(sharded.path(), sketch);
    const Checkpoint parts(sharded.path());
    QCOMPARE(parts.weightFiles().size(), std::size_t{2});
    QVERIFY(sameWeights(Checkpoint(whole.path()), parts));
    QVERIFY(openModel(sharded.path()) != nullptr);
  }

  void storageTypesWidenExactly_data() {
    QTest::addColumn<int>("type");
    for (const DataType type : {DataType::Float32, DataType::Float16, DataType::BFloat16})
      QTest::newRow(nameOf(type).c_str()) << static_cast<int>(type);
  }
  void storageTypesWidenExactly() {
    QFETCH(int, type);
    const auto stored = static_cast<DataType>(type);
    // The 16-bit files hold rounded values; what they widen to is written by hand in
    // test_tensor_files, so that here only the way through both formats is left to compare.
    const TemporaryFolder safetensors, torch;
    Sketch sketch = stateSpacesSketch();
    sketch.tensors = randomTensors(sketch.config, 1, stored);
    sketch.write(safetensors.path());
    static constexpr const char* kStorages[] = {"FloatStorage", "HalfStorage", "BFloat16Storage"};
    writeTorchModel(torch.path(), sketch, kStorages[type]);
    const Checkpoint a(safetensors.path());
    const Checkpoint b(torch.path());
    QVERIFY(a.storedType() == stored && b.storedType() == stored);
    QVERIFY(sameWeights(a, b));
    const auto model = openModel(torch.path());
    QCOMPARE(model->info().storedType, nameOf(stored));
    Random random(1);
    State state = model->newState();
    const auto runner = model->newRunner();
    runner->advance(state, state, random.tokens(10, 256), {});
    for (const float logit : runner->logits(9)) QVERIFY(std::isfinite(logit));
  }

  void aSingleFileComesBeforeShardsAndTorch() {
    const TemporaryFolder folder;
    Sketch sketch;
    writeShards(folder.path(), sketch);
    writeFile(folder / "pytorch_model.bin", "not read");
    QCOMPARE(Checkpoint(folder.path()).weightFiles().size(), std::size_t{2});
    sketch.write(folder.path());
    QCOMPARE(Checkpoint(folder.path()).weightFiles().size(), std::size_t{1});
  }

  void theTiedCopyOfTheHeadMayBeInTheFile() {
    const TemporaryFolder folder;
    Sketch sketch;
    sketch.tensors["lm_head.weight"] = sketch.tensors["backbone.embeddings.weight"];
    sketch.write(folder.path());
    QVERIFY(openModel(folder.path())->config().tiedHead);
  }

  void brokenFoldersAreRefusedWithTheirReason_data() {
    QTest::addColumn<int>("row");
    for (std::size_t i = 0; i < brokenFolders().size(); ++i)
      QTest::newRow(brokenFolders()[i].name) << static_cast<int>(i);
  }
  void brokenFoldersAreRefusedWithTheirReason() {
    QFETCH(int, row);
    const Broken& broken = brokenFolders()[static_cast<std::size_t>(row)];
    const TemporaryFolder folder;
    Sketch sketch;
    broken.damage(sketch);
    sketch.write(folder.path());
    const auto error =
        thrown<FormatError>([&] { openModel(folder.path(), WeightPrecision::BFloat16, "", 2); });
    QVERIFY2(error, "opened");
    const std::string message = error->what();
    QVERIFY2(error->file() == folder / broken.file, message.c_str());
    QVERIFY2(mentions(error->subject(), broken.subject), message.c_str());
    QVERIFY2(mentions(error->expected(), broken.expected), message.c_str());
    QVERIFY2(mentions(error->found(), broken.found), message.c_str());
    QVERIFY(mentions(message, error->file().string(), error->subject(), error->expected(),
                     error->found()));
  }

  void missingAndUnreadableFilesAreFileErrors() {
    const TemporaryFolder folder;
    const auto refuses = [](const std::filesystem::path& path, const std::string& blamed) {
      const auto error = thrown<FileError>([&] { openModel(path); });
      return error && mentions(error->what(), blamed);
    };
    QVERIFY(refuses(folder / "nowhere", "nowhere"));
    QVERIFY(refuses("", ""));
    QVERIFY(refuses(std::string(5000, 'x'), "xxx"));
    QVERIFY(refuses(folder.path(), "config.json"));
    Sketch().write(folder.path());
    std::filesystem::remove(folder / "model.safetensors");
    QVERIFY(refuses(folder.path(), "model.safetensors"));  // and which names are looked for
    std::filesystem::create_directory(folder / "model.safetensors");
    QVERIFY(refuses(folder.path(), "model.safetensors"));
  }

  void aLinkThatLeadsNowhereIsAFileError_data() {
    QTest::addColumn<QString>("name");
    for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"})
      QTest::newRow(name) << name;
  }
  void aLinkThatLeadsNowhereIsAFileError() {
    QFETCH(QString, name);
    const TemporaryFolder folder;
    Sketch().write(folder.path());
    const auto link = folder / name.toStdString();
    std::filesystem::remove(link);
    std::filesystem::create_symlink(link, link);
    // A loader may also take an unreadable tokenizer for none; what it may not do is fail with
    // anything but an engine error.
    try {
      openModel(folder.path());
    } catch (const FileError&) {
    } catch (const std::exception& error) {
      QFAIL(error.what());
    }
  }

  void configThatIsNotJsonIsNamed() {
    for (const char* text : {"", "{", "{\"model_type\": \"mamba\",}", "\xff\xfe", "nul"}) {
      const TemporaryFolder folder;
      Sketch().write(folder.path());
      writeFile(folder / "config.json", text);
      const auto error = thrown<FormatError>([&] { Checkpoint checkpoint(folder.path()); });
      QVERIFY(error);
      QVERIFY(error->file() == folder / "config.json");
      QVERIFY(mentions(error->what(), "JSON"));
    }
  }

  void anIndexMayOnlyNameFilesBesideIt() {
    for (const char* outside :
         {"../model-00001-of-00002.safetensors", "/etc/passwd", "a/b", "..", "", "."}) {
      const TemporaryFolder folder;
      writeShards(folder.path(), Sketch());
      const auto index = folder / "model.safetensors.index.json";
      Json json = Json::parse(readFile(index));
      json["weight_map"][kInProj] = outside;
      writeFile(index, json.dump());
      QVERIFY2(thrown<FileError>([&] { Checkpoint checkpoint(folder.path()); }), outside);
    }
  }

  void brokenIndexesAreRefused() {
    const auto refuses = [](const Json& json, const char* subject) {
      const TemporaryFolder folder;
      writeShards(folder.path(), Sketch());
      writeFile(folder / "model.safetensors.index.json", json.dump());
      const auto error = thrown<FileError>([&] { Checkpoint checkpoint(folder.path()); });
      return error && mentions(error->what(), subject);
    };
    QVERIFY(refuses(Json::array(), "index"));
    QVERIFY(refuses({{"weight_map", 3}}, "weight_map"));
    QVERIFY(refuses(Json::object(), "weight_map"));
    QVERIFY(refuses({{"weight_map", {{kInProj, 7}}}}, kInProj));
    QVERIFY(refuses({{"weight_map", {{kInProj, "none.safetensors"}}}}, "none.safetensors"));
    QVERIFY(refuses({{"weight_map", Json::object()}}, "backbone.embeddings.weight"));
  }

  void aTensorInTwoShardsIsRefused() {
    const TemporaryFolder folder;
    Sketch sketch;
    writeShards(folder.path(), sketch);
    writeFile(folder / "model-00002-of-00002.safetensors", safetensorsBytes(sketch.tensors));
    const auto error = thrown<FormatError>([&] { Checkpoint checkpoint(folder.path()); });
    QVERIFY(error);
    QVERIFY(mentions(error->what(), "each tensor once", "a second one"));
  }

  void parametersAreCountedFromShapes() {
    Random random(4);
    for (int trial = 0; trial < 50; ++trial) {
      ModelConfig c;
      c.vocabSize = 1 + random.below(500);
      c.dModel = 1 + random.below(64);
      c.dInner = 1 + random.below(200);
      c.dState = 1 + random.below(20);
      c.dConv = 1 + random.below(6);
      c.dtRank = 1 + random.below(9);
      c.layers = 1 + random.below(5);
      c.norm = trial % 2 ? NormKind::Layer : NormKind::Rms;
      c.projectionBias = trial % 3 == 0;
      c.convBias = trial % 5 != 0;
      c.tiedHead = trial % 7 != 0;
      std::size_t sum = 0;
      for (const auto& [name, shape] : expectedTensors(c)) sum += elementCount(shape);
      QCOMPARE(c.parameterCount(), sum);
    }
  }

  void theShapesCountWhatWasPublished() {
    const Checkpoint books(bundledFolder("books"));
    QCOMPARE(books.config().parameterCount(), std::size_t{13693440});
    QVERIFY(namedShape("14M") == books.config());
    QVERIFY(namedShape("4M") == Checkpoint(bundledFolder("books-draft")).config());
    const std::pair<const char*, double> millions[] = {
        {"130M", 129.1}, {"353M", 353.3}, {"972M", 973.4}, {"1.6B", 1601.0}};
    for (const auto& [name, expected] : millions) {
      const double count = static_cast<double>(namedShape(name)->parameterCount()) / 1e6;
      QVERIFY2(std::abs(count - expected) < 0.005 * expected,
               qPrintable(QString("%1: %2 M").arg(name).arg(count)));
    }
    QVERIFY(std::abs(static_cast<double>(namedShape("972M")->parameterCount()) - 973.4e6) < 5e4);
    QVERIFY(!namedShape("581M"));
  }

  void paddedVocabulariesAndAutomaticRanks() {
    const TemporaryFolder folder;
    Json json = {
        {"d_model", 40}, {"n_layer", 1}, {"vocab_size", 250}, {"ssm_cfg", {{"dt_rank", "auto"}}}};
    const auto parse = [&] { return parseModelConfig(json.dump(), "config.json"); };
    ModelConfig config = parse();
    QCOMPARE(config.vocabSize, std::size_t{256});
    QCOMPARE(config.dtRank, std::size_t{3});  // ceil(40 / 16)
    QCOMPARE(config.dInner, std::size_t{80});
    QVERIFY(config.convBias && !config.projectionBias && config.tiedHead);
    QVERIFY(config.norm == NormKind::Rms);
    json["pad_vocab_size_multiple"] = 100;
    json["rms_norm"] = false;
    json.erase("ssm_cfg");
    config = parse();
    QCOMPARE(config.vocabSize, std::size_t{300});
    QVERIFY(config.norm == NormKind::Layer);
    QCOMPARE(config.dState, std::size_t{16});
  }
};

QTEST_GUILESS_MAIN(CheckpointTest)
#include "test_checkpoint.moc"
