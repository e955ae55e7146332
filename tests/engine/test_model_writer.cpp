// Models written and converted: what arrives of every tensor, and what is refused.
#include <QtTest>
#include <bit>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/checkpoint/model_writer.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/error.h"
#include "tests/support/file_size_limit.h"
#include "tests/support/model_files.h"
#include "tests/support/test_models.h"
#include "tests/support/thrown.h"

using namespace mb;
using namespace mb::test;
using Json = nlohmann::json;

namespace {

constexpr const char* kEmbedding = "backbone.embeddings.weight";

/// Shapes that differ in what expectedTensors() lists, by name.
std::vector<std::pair<const char*, ModelConfig>> shapes() {
  std::vector<std::pair<const char*, ModelConfig>> all{{"plain", smallConfig()}};
  const auto add = [&](const char* name, auto change) {
    all.emplace_back(name, smallConfig());
    change(all.back().second);
  };
  add("LayerNorm", [](ModelConfig& c) { c.norm = NormKind::Layer; });
  add("biases of projections", [](ModelConfig& c) { c.projectionBias = true; });
  add("no bias of the convolution", [](ModelConfig& c) { c.convBias = false; });
  add("a head of its own", [](ModelConfig& c) { c.tiedHead = false; });
  add("all of it", [](ModelConfig& c) {
    c.norm = NormKind::Layer;
    c.projectionBias = true;
    c.tiedHead = false;
    c.normEpsilon = 3e-7;
  });
  add("odd sizes", [](ModelConfig& c) {
    c.vocabSize = 257;
    c.dModel = 15;
    c.dInner = 33;
    c.dConv = 3;
    c.dState = 5;
    c.dtRank = 3;
  });
  add("a wide block", [](ModelConfig& c) { c.dModel = 1; });  // expand is 32, which no config says
  add("a narrow block", [](ModelConfig& c) { c.dInner = 8; });
  return all;
}

void addShapes() {
  QTest::addColumn<int>("shape");
  for (std::size_t i = 0; i < shapes().size(); ++i)
    QTest::newRow(shapes()[i].first) << static_cast<int>(i);
}

/// As the bundled models do it: what the model computes with in float32 stays that.
DataType expectedType(const std::string& name, DataType weights) {
  for (const char* end :
       {".A_log", ".D", "dt_proj.bias", "norm.weight", "norm.bias", "norm_f.weight", "norm_f.bias"})
    if (name.ends_with(end)) return DataType::Float32;
  return weights;
}

std::string bytesOf(const Tensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size()};
}

std::vector<float> valuesOf(const Tensor& tensor) {
  std::vector<float> values(elementCount(tensor.shape));
  tensor.read(0, values);
  return values;
}

/// Converts and opens what was written.
Checkpoint converted(const std::filesystem::path& from, const std::filesystem::path& to,
                     DataType weights) {
  convertModel(Checkpoint(from), to, weights);
  return Checkpoint(to);
}

/// The first tensor that is not the rounded one of the original; nothing when all are.
std::string wrongTensor(const Checkpoint& original, const Checkpoint& written, DataType weights) {
  for (const auto& [name, shape] : expectedTensors(original.config())) {
    const Tensor tensor = written.tensor(name, shape);
    const DataType type = expectedType(name, weights);
    if (tensor.type != type ||
        bytesOf(tensor) != encodeValues(type, valuesOf(original.tensor(name, shape))))
      return name;
  }
  return {};
}

bool sameTensors(const std::filesystem::path& a, const std::filesystem::path& b) {
  const auto first = readSafetensors(a / "model.safetensors");
  const auto second = readSafetensors(b / "model.safetensors");
  return std::ranges::equal(first, second, [](const auto& x, const auto& y) {
    return x.first == y.first && x.second.type == y.second.type &&
           x.second.shape == y.second.shape && bytesOf(x.second) == bytesOf(y.second);
  });
}

/// Logits after each token of a golden model's inputs.
std::vector<float> logitsOf(const std::filesystem::path& folder, const std::vector<Token>& inputs) {
  const auto model = openModel(folder);
  const auto runner = model->newRunner();
  State state = model->newState();
  runner->advance(state, state, inputs, {});
  std::vector<float> logits;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    for (const float logit : runner->logits(i)) logits.push_back(logit);
  return logits;
}

Json configOf(const std::filesystem::path& folder) {
  return Json::parse(readFile(folder / "config.json"));
}

}  // namespace

class ModelWriterTest : public QObject {
  Q_OBJECT

 private slots:
  void everyShapeArrives_data() { addShapes(); }
  void everyShapeArrives() {
    QFETCH(int, shape);
    const ModelConfig config = shapes()[static_cast<std::size_t>(shape)].second;
    const DataType types[] = {DataType::Float32, DataType::Float16, DataType::BFloat16};
    for (const DataType stored : types) {
      const TemporaryFolder folder;
      writeModel(folder / "original", config, randomTensors(config, 1, stored));
      const Checkpoint original(folder / "original");
      for (const DataType weights : {DataType::Float32, DataType::BFloat16}) {
        const auto to = folder / nameOf(weights);
        const Checkpoint written = converted(folder / "original", to, weights);
        QVERIFY(written.config() == original.config());
        const std::string wrong = wrongTensor(original, written, weights);
        QVERIFY2(wrong.empty(), wrong.c_str());
        QVERIFY(openModel(to) != nullptr);
        QCOMPARE(configOf(to).contains("model_type"), config.norm == NormKind::Rms);
        convertModel(written, folder / "again", weights);
        QVERIFY(sameTensors(to, folder / "again"));
        std::filesystem::remove_all(folder / "again");
      }
    }
  }

  void everyTensorIsAlignedToItsType_data() { addShapes(); }
  void everyTensorIsAlignedToItsType() {
    QFETCH(int, shape);
    const ModelConfig config = shapes()[static_cast<std::size_t>(shape)].second;
    const TemporaryFolder folder;
    mb::writeModel(folder.path(), MemoryWeights(config, 1), DataType::BFloat16);
    const std::string file = readFile(folder / "model.safetensors");
    std::uint64_t header = 0;
    std::memcpy(&header, file.data(), sizeof header);
    QCOMPARE(header % 8, std::uint64_t{0});
    std::size_t data = 0;
    const Json entries = Json::parse(file.substr(8, header));
    for (const auto& [name, entry] : entries.items()) {
      if (name == "__metadata__") continue;
      const std::size_t width = entry.at("dtype") == "F32" ? 4 : 2;
      QVERIFY2(entry.at("data_offsets")[0].get<std::size_t>() % width == 0, name.c_str());
      data += entry.at("data_offsets")[1].get<std::size_t>() -
              entry.at("data_offsets")[0].get<std::size_t>();
    }
    QCOMPARE(8 + header + data, file.size());  // no holes, nothing behind
  }

  void halvesRoundToEven() {
    const std::pair<float, std::uint16_t> roundings[] = {
        {1.0f, 0x3f80},       {0x1.01p0f, 0x3f80},  {0x1.0102p0f, 0x3f81}, {0x1.03p0f, 0x3f82},
        {-0x1.05p0f, 0xbf82}, {-0.0f, 0x8000},      {0x1.fep0f, 0x3fff},   {0x1.ffp0f, 0x4000},
        {0x1p-133f, 0x0001},  {0x1.fep127f, 0x7f7f}};
    FileTensors tensors = randomTensors(smallConfig(), 1);
    std::string expected;
    std::string& data = tensors.at(kEmbedding).data;
    std::size_t element = 0;
    for (const auto& [value, bits] : roundings) {
      data.replace(4 * element++, 4, encodeValues(DataType::Float32, {{value}}));
      expected.append(reinterpret_cast<const char*>(&bits), sizeof bits);
    }
    const TemporaryFolder folder;
    writeModel(folder / "original", smallConfig(), tensors);
    const Checkpoint written =
        converted(folder / "original", folder / "written", DataType::BFloat16);
    QCOMPARE(bytesOf(written.tensor(kEmbedding, {256, 16})).substr(0, expected.size()), expected);
  }

  void theBundledModelsStayWhatTheyAre_data() {
    QTest::addColumn<QString>("name");
    QTest::newRow("verifier") << "books";
    QTest::newRow("drafter") << "books-draft";
  }
  void theBundledModelsStayWhatTheyAre() {
    QFETCH(QString, name);
    const auto bundled = bundledFolder(name.toStdString());
    const TemporaryFolder folder;
    converted(bundled, folder / "same", DataType::BFloat16);
    QVERIFY(sameTensors(bundled, folder / "same"));
    QVERIFY(configOf(bundled) == configOf(folder / "same"));
    converted(bundled, folder / "wide", DataType::Float32);
    converted(folder / "wide", folder / "narrow", DataType::BFloat16);
    QVERIFY(sameTensors(bundled, folder / "narrow"));
    const bool hasTokenizer = std::filesystem::exists(bundled / "tokenizer.json");
    QCOMPARE(std::filesystem::exists(folder / "same" / "tokenizer.json"), hasTokenizer);
    QCOMPARE(readFile(folder / "narrow" / "tokenizer.json"), readFile(bundled / "tokenizer.json"));
  }

  void everyLayoutGivesTheSameModel() {
    const TemporaryFolder folder;
    for (const std::string name : {"tiny-byte", "odd-shapes"}) {
      converted(goldenFolder(name + "-statespaces"), folder / name, DataType::Float32);
      QVERIFY(sameTensors(goldenFolder(name), folder / name));
      QCOMPARE(configOf(folder / name).at("model_type"), "mamba");
    }
    const FileTensors tensors = randomTensors(smallConfig(), 1);
    writeModel(folder / "whole", smallConfig(), tensors);
    writeShards(folder / "shards", transformersConfig(smallConfig()), tensors);
    converted(folder / "shards", folder / "one", DataType::Float32);
    QVERIFY(sameTensors(folder / "whole", folder / "one"));
  }

  void goldenModelsComputeTheSame() {
    for (const std::string& name : goldenNames()) {
      const TemporaryFolder folder;
      convertModel(Checkpoint(goldenFolder(name)), folder / "written", DataType::Float32);
      const std::vector<Token> inputs = loadGolden(name).inputs;
      const std::vector<float> expected = logitsOf(goldenFolder(name), inputs);
      QVERIFY(expected.size() > 1000);
      QVERIFY2(logitsOf(folder / "written", inputs) == expected, name.c_str());
    }
  }

  void theConfigSaysTheTypeAndKeepsOtherSettings() {
    const TemporaryFolder folder;
    writeModel(folder / "original", smallConfig(), randomTensors(smallConfig(), 1));
    Json json = configOf(folder / "original");
    json["eos_token_id"] = 50256;
    json["dtype"] = "float32";
    writeFile(folder / "original" / "config.json", json.dump());
    converted(folder / "original", folder / "bf16", DataType::BFloat16);
    converted(folder / "bf16", folder / "f32", DataType::Float32);
    QCOMPARE(configOf(folder / "bf16").at("torch_dtype"), "bfloat16");
    QCOMPARE(configOf(folder / "f32").at("torch_dtype"), "float32");
    for (const char* name : {"bf16", "f32"}) {
      QCOMPARE(configOf(folder / name).at("eos_token_id"), 50256);
      QCOMPARE(configOf(folder / name).at("architectures"), Json({"MambaForCausalLM"}));
      QVERIFY(!configOf(folder / name).contains("dtype"));
    }
    converted(goldenFolder("tiny-byte-statespaces"), folder / "other", DataType::Float32);
    QVERIFY(!configOf(folder / "other").contains("ssm_cfg"));
  }

  void valuesThatAreNotFiniteNameTheirPlace() {
    ModelConfig config = smallConfig();
    config.vocabSize = 5000;  // more than the writer takes at a time
    const auto errorOf = [&](float value, DataType weights) {
      const TemporaryFolder folder;
      FileTensors tensors = randomTensors(config, 1);
      tensors.at(kEmbedding).data.replace(4 * 70000, 4, encodeValues(DataType::Float32, {{value}}));
      writeModel(folder / "original", config, tensors);
      const Checkpoint original(folder / "original");
      const auto error =
          thrown<FormatError>([&] { convertModel(original, folder / "written", weights); });
      const std::filesystem::directory_iterator entries(folder.path());
      const bool clean = std::distance(begin(entries), end(entries)) == (error ? 1 : 2);
      return !clean ? std::string("something is left") : error ? error->what() : std::string();
    };
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (const DataType weights : {DataType::Float32, DataType::BFloat16})
      QVERIFY(mentions(errorOf(nan, weights), "original/model.safetensors", kEmbedding,
                       "expected finite", "nan at element 70000"));
    QVERIFY(mentions(errorOf(3.4e38f, DataType::BFloat16), "finite", "inf at element 70000"));
    QVERIFY(errorOf(1.0f, DataType::BFloat16).empty());
  }

  void progressCountsTheBytesOfTheFile() {
    const TemporaryFolder folder;
    std::vector<std::uint64_t> seen;
    std::uint64_t last = 0;
    convertModel(Checkpoint(bundledFolder("books-draft")), folder / "written", DataType::BFloat16,
                 [&](std::uint64_t done, std::uint64_t total) {
                   seen.push_back(done);
                   last = total;
                 });
    QVERIFY(std::ranges::is_sorted(seen));
    QCOMPARE(seen.back(), last);
    std::uint64_t stored = 0;
    for (const auto& [name, tensor] : readSafetensors(folder / "written" / "model.safetensors"))
      stored += tensor.data.size();
    QCOMPARE(last, stored);
  }

  void aStopLeavesNothing() {
    const TemporaryFolder folder;
    std::stop_source source;
    std::uint64_t atStop = 0;
    std::uint64_t all = 0;
    QVERIFY(thrown<Stopped>([&] {
      convertModel(
          Checkpoint(bundledFolder("books-draft")), folder / "written", DataType::Float32,
          [&](std::uint64_t done, std::uint64_t total) {
            atStop = done;
            all = total;
            if (done > total / 2) source.request_stop();
          },
          source.get_token());
    }));
    QVERIFY(atStop < all);
    QVERIFY(std::filesystem::is_empty(folder.path()));
  }

  void aDiskWithoutRoomLeavesNothing() {
    const TemporaryFolder folder;
    const FileSizeLimit limit(1 << 20);
    const auto error = thrown<FileError>([&] {
      convertModel(Checkpoint(bundledFolder("books-draft")), folder / "written",
                   DataType::BFloat16);
    });
    QVERIFY(error && mentions(error->what(), "written", "cannot be written", "too large"));
    QVERIFY(std::filesystem::is_empty(folder.path()));
  }

  void aModelIsNeverWrittenOverAnother() {
    const TemporaryFolder folder;
    writeModel(folder / "model", smallConfig(), randomTensors(smallConfig(), 1));
    const std::string before = readFile(folder / "model" / "model.safetensors");
    const Checkpoint model(folder / "model");
    const auto error =
        thrown<RequestError>([&] { convertModel(model, folder / "model", DataType::BFloat16); });
    QVERIFY(error && mentions(error->what(), "expected a new or empty folder", "found"));
    QCOMPARE(readFile(folder / "model" / "model.safetensors"), before);
  }
};

QTEST_GUILESS_MAIN(ModelWriterTest)
#include "test_model_writer.moc"
