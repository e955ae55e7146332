#include "tests/support/test_models.h"

#include <atomic>
#include <fstream>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "engine/checkpoint/safetensors.h"
#include "engine/cpu/cpu_model.h"
#include "engine/model/devices.h"
#include "engine/model/random_weights.h"

namespace mb::test {

namespace {

std::vector<float> valuesOf(const Tensor& tensor) {
  std::vector<float> values(elementCount(tensor.shape));
  tensor.read(0, values);
  return values;
}

std::vector<std::vector<float>> perLayer(const std::map<std::string, Tensor>& tensors,
                                         const std::string& name) {
  std::vector<std::vector<float>> layers;
  while (tensors.contains(name + std::to_string(layers.size())))
    layers.push_back(valuesOf(tensors.at(name + std::to_string(layers.size()))));
  return layers;
}

}  // namespace

std::filesystem::path goldenFolder(const std::string& name) {
  return std::filesystem::path(MB_TEST_DATA) / "golden" / name;
}

std::filesystem::path bundledFolder(const std::string& name) {
  return std::filesystem::path(MB_TEST_MODELS) / name;
}

std::vector<std::string> goldenNames() {
  return {"tiny-byte",    "tiny-byte-statespaces",
          "odd-shapes",   "odd-shapes-statespaces",
          "no-conv-bias", "subword"};
}

Golden loadGolden(const std::string& name) {
  const auto folder = goldenFolder(name.substr(0, name.find("-statespaces")));
  const auto json = nlohmann::json::parse(readFile(folder / "expected.json"));
  const auto tensors = readSafetensors(folder / "expected.safetensors");
  Golden golden;
  golden.inputs = json.at("input_ids").get<std::vector<Token>>();
  golden.nll = json.at("nll_nats").get<std::vector<double>>();
  golden.greedy48 = json.at("greedy_next_48").get<std::vector<Token>>();
  golden.logits = valuesOf(tensors.at("logits"));
  golden.hidden = perLayer(tensors, "ssm.");
  golden.convolution = perLayer(tensors, "conv.");
  return golden;
}

std::shared_ptr<const Model> openModel(const std::filesystem::path& folder,
                                       WeightPrecision precision, const std::string& simd,
                                       std::size_t threads) {
  DeviceOptions options;
  options.precision = precision;
  options.simd = simd;
  options.threads = threads;
  return ModelLoader(options).open(folder);
}

std::shared_ptr<const Model> tinyByteModel() {
  ModelConfig config;
  config.dModel = 32;
  config.dInner = 64;
  config.dtRank = 2;
  config.layers = 2;
  ModelInfo info;
  info.name = "tiny";
  return std::make_shared<const CpuModel>(RandomWeights(config, 5), info, CpuOptions(),
                                          std::make_shared<cpu::ThreadPool>(2));
}

Pair bundledPair() {
  DeviceOptions options;
  options.threads = 2;
  ModelLoader loader(options);
  const auto draft = loader.open(bundledFolder("books-draft"));
  return {loader.open(bundledFolder("books")),
          std::make_shared<SubwordDrafter>(
              draft, std::make_shared<const Tokenizer>(draft->info().tokenizer))};
}

TemporaryFolder::TemporaryFolder() {
  static std::atomic<int> count{0};
  m_path = std::filesystem::temp_directory_path() /
           ("mambabyte-test-" + std::to_string(::getpid()) + "-" + std::to_string(count++));
  std::filesystem::create_directories(m_path);
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(m_path, ignored);
}

std::string readFile(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void writeFile(const std::filesystem::path& file, std::string_view content) {
  std::ofstream stream(file, std::ios::binary);
  stream.write(content.data(), static_cast<std::streamsize>(content.size()));
}

}  // namespace mb::test
