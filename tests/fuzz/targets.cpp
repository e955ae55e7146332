#include "tests/fuzz/targets.h"

#include <algorithm>
#include <cstring>
#include <cxxabi.h>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <typeinfo>
#include <xxhash.h>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/pickle.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/checkpoint/torch_file.h"
#include "engine/cpu/cpu_model.h"
#include "engine/decoding/records.h"
#include "engine/decoding/sampler.h"
#include "engine/error.h"
#include "engine/model/random_weights.h"
#include "engine/tokenizer/tokenizer.h"
#include "tests/fuzz/hostile_inputs.h"
#include "tests/fuzz/model_files.h"

namespace mb::fuzz {

namespace {

constexpr std::size_t kMostMessage = 1000;
constexpr std::size_t kMostValuesRead = 1 << 20;
/// Longest data a header may have made for it.
constexpr std::size_t kMostData = 1 << 20;

std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(MB_FUZZ_DATA) / "golden" / name;
}

std::vector<Sample> goldenFiles(const std::string& file, std::initializer_list<const char*> names) {
  std::vector<Sample> samples;
  for (const char* name : names) samples.push_back({name, readWhole(golden(name) / file)});
  return samples;
}

/// Joins parts with zero bytes between them.
Bytes join(std::string_view first, ByteView second) {
  Bytes joined = toBytes(first);
  joined.push_back(0);
  joined.insert(joined.end(), second.begin(), second.end());
  return joined;
}

/// What comes before the first zero byte, and what after.
std::pair<ByteView, ByteView> split(ByteView input) {
  const auto end = std::ranges::find(input, Byte{0});
  const std::size_t size = static_cast<std::size_t>(end - input.begin());
  return {input.first(size), input.subspan(std::min(size + 1, input.size()))};
}

void require(bool holds, const char* promise) {
  if (!holds) throw std::logic_error(promise);
}

/// Reads every tensor to its end, so that the sanitizers see a window beyond its file.
void readAll(const std::map<std::string, Tensor>& tensors) {
  std::vector<float> values;
  std::size_t read = 0;
  for (const auto& [name, tensor] : tensors) {
    const std::size_t count = elementCount(tensor.shape);
    require(count * sizeOf(tensor.type) == tensor.data.size(), "a tensor has its shape's bytes");
    if (count > kMostValuesRead || (read += count) > kMostValuesRead) continue;
    values.resize(count);
    tensor.read(0, values);
  }
}

// ---- weight files

void runSafetensors(ByteView input, const ScratchFolder& scratch) {
  readAll(readSafetensors(scratch.write("model.safetensors", input)));
}

/// The largest data offset the header names, as far as it is JSON; so the data is long enough.
std::size_t dataBytesFor(ByteView header) {
  const auto json = nlohmann::json::parse(header.begin(), header.end(), nullptr, false);
  std::size_t end = 0;
  if (!json.is_object()) return end;
  for (const auto& entry : json) {
    if (!entry.is_object() || !entry.contains("data_offsets")) continue;
    for (const auto& offset : entry["data_offsets"])
      if (offset.is_number_unsigned()) end = std::max(end, offset.get<std::size_t>());
  }
  return std::min(end, kMostData);
}

void runHeader(ByteView input, const ScratchFolder& scratch) {
  runSafetensors(safetensorsFile(toText(input), dataBytesFor(input)), scratch);
}

std::vector<Sample> safetensorsSeeds() {
  auto samples =
      goldenFiles("model.safetensors", {"no-conv-bias", "odd-shapes", "subword", "tiny-byte"});
  for (const ModelConfig& config : smallConfigs()) {
    const auto type = static_cast<DataType>(samples.size() % 3);
    samples.push_back({"small", safetensorsModel(config, type)});
  }
  return samples;
}

std::vector<Sample> headerSeeds() {
  auto samples = safetensorsSeeds();
  for (Sample& sample : samples) sample.input = toBytes(safetensorsHeader(sample.input));
  return samples;
}

// ---- torch files

/// Shapes that the state-spaces config can express.
std::vector<ModelConfig> torchConfigs() {
  std::vector<ModelConfig> configs;
  for (ModelConfig config : smallConfigs()) {
    if (config.dInner % config.dModel != 0) continue;
    if (configs.size() == 1) config.norm = NormKind::Layer;
    configs.push_back(config);
  }
  return configs;
}

void runTorch(ByteView input, const ScratchFolder& scratch) {
  readAll(readTorchFile(scratch.write("pytorch_model.bin", input)));
}

const std::vector<TorchParts>& torchModels() {
  static const std::vector<TorchParts> kModels = [] {
    std::vector<TorchParts> models;
    for (const ModelConfig& config : torchConfigs()) models.push_back(torchModel(config));
    return models;
  }();
  return kModels;
}

/// The storages under which all of the small pickles are valid: of each key the longest.
const ZipEntries& commonStorages() {
  static const ZipEntries kStorages = [] {
    ZipEntries common;
    for (const TorchParts& model : torchModels()) {
      for (std::size_t i = 0; i < model.storages.size(); ++i) {
        if (i == common.size()) common.push_back(model.storages[i]);
        auto& content = common[i].second;
        content.resize(std::max(content.size(), model.storages[i].second.size()));
      }
    }
    return common;
  }();
  return kStorages;
}

void runTorchPickle(ByteView input, const ScratchFolder& scratch) {
  runTorch(torchFile(input, commonStorages()), scratch);
}

void runPickle(ByteView input, const ScratchFolder&) {
  readPickledTensors(std::as_bytes(input), "pytorch_model.bin");
}

std::vector<Sample> torchSeeds() {
  auto samples =
      goldenFiles("pytorch_model.bin", {"odd-shapes-statespaces", "tiny-byte-statespaces"});
  for (const TorchParts& model : torchModels())
    samples.push_back({"small", torchFile(model.program, model.storages)});
  return samples;
}

std::vector<Sample> torchPickleSeeds() {
  std::vector<Sample> samples;
  for (const TorchParts& model : torchModels()) samples.push_back({"small", model.program});
  return samples;
}

std::vector<Sample> pickleSeeds() {
  auto samples = torchPickleSeeds();
  for (const char* name : {"odd-shapes-statespaces", "tiny-byte-statespaces"})
    samples.push_back({name, zipEntry(golden(name) / "pytorch_model.bin", "data.pkl")});
  return samples;
}

// ---- configs and whole models

void runConfig(ByteView input, const ScratchFolder&) {
  const ModelConfig config = parseModelConfig(toText(input), "config.json");
  require(config.parameterCount() > 0, "a model has parameters");
}

std::vector<Sample> configSeeds() {
  auto samples = goldenFiles("config.json", {"odd-shapes", "odd-shapes-statespaces", "subword"});
  for (const ModelConfig& config : smallConfigs())
    samples.push_back({"transformers", toBytes(transformersConfig(config))});
  for (const ModelConfig& config : torchConfigs())
    samples.push_back({"state-spaces", toBytes(stateSpacesConfig(config))});
  return samples;
}

/// A few passes as decoding does them, whatever the weights make of it.
void useModel(const WeightSource& source) {
  const auto pool = std::make_shared<cpu::ThreadPool>(1);
  const CpuModel model(source, {}, {}, pool);
  const auto runner = model.newRunner();
  State state = model.newState();
  State next = state;
  const auto last = static_cast<Token>(model.config().vocabSize - 1);
  const Token tokens[] = {0, last, last / 2};
  runner->advance(state, next, tokens, {});
  for (std::size_t i = 0; i < std::size(tokens); ++i) {
    const auto logits = runner->logits(i);
    if (model.config().isByteLevel()) scoreByte(logits, static_cast<Byte>(i), Origin::Plain);
    SamplerSettings settings;
    settings.temperature = 0.8;
    settings.topP = 0.9;
    settings.repetitionPenalty = 1.2;
    const Token drawn = Sampler(settings).draw(logits, i, TokenView(tokens));
    require(drawn >= 0 && drawn <= last, "a drawn token lies in the vocabulary");
  }
  runner->rewind(state, next, 1);
}

/// A folder that holds these files and no others of a checkpoint.
std::filesystem::path modelFolder(const ScratchFolder& scratch) {
  const auto folder = scratch.path() / "model";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

void runModel(ByteView input, const ScratchFolder& scratch) {
  const auto [config, weights] = split(input);
  const auto folder = modelFolder(scratch);
  writeWhole(folder / "config.json", config);
  writeWhole(folder / "model.safetensors", weights);
  useModel(Checkpoint(folder));
}

void runTorchModel(ByteView input, const ScratchFolder& scratch) {
  const auto [config, program] = split(input);
  const auto folder = modelFolder(scratch);
  writeWhole(folder / "config.json", config);
  writeWhole(folder / "pytorch_model.bin", torchFile(program, commonStorages()));
  useModel(Checkpoint(folder));
}

std::vector<Sample> modelSeeds() {
  std::vector<Sample> samples;
  for (const ModelConfig& config : smallConfigs()) {
    const auto type = static_cast<DataType>(samples.size() % 3);
    samples.push_back({"small", join(transformersConfig(config), safetensorsModel(config, type))});
  }
  return samples;
}

std::vector<Sample> torchModelSeeds() {
  std::vector<Sample> samples;
  const std::vector<ModelConfig> configs = torchConfigs();
  for (std::size_t i = 0; i < configs.size(); ++i) {
    samples.push_back({"small", join(stateSpacesConfig(configs[i]), torchModels()[i].program)});
  }
  return samples;
}

// ---- an index over two shards

ModelConfig shardedConfig() {
  return smallConfigs()[1];
}

/// The model's tensors in two files; the second one starts at the layers.
const std::vector<Bytes>& shards() {
  static const std::vector<Bytes> kShards = [] {
    const Bytes whole = safetensorsModel(shardedConfig(), DataType::Float32);
    const auto header = nlohmann::json::parse(safetensorsHeader(whole));
    const std::size_t start = whole.size() - dataBytesFor(toBytes(header.dump()));
    std::vector<Bytes> files;
    for (const bool inLayers : {false, true}) {
      auto part = nlohmann::json::object();
      for (const auto& [name, entry] : header.items()) {
        if (name.starts_with("backbone.layers") == inLayers) part[name] = entry;
      }
      Bytes file = safetensorsFile(part.dump(), 0);
      file.insert(file.end(), whole.begin() + static_cast<std::ptrdiff_t>(start), whole.end());
      files.push_back(std::move(file));
    }
    return files;
  }();
  return kShards;
}

void runIndex(ByteView input, const ScratchFolder& scratch) {
  const auto folder = modelFolder(scratch);
  writeWhole(folder / "config.json", toBytes(transformersConfig(shardedConfig())));
  writeWhole(folder / "a.safetensors", shards()[0]);
  writeWhole(folder / "b.safetensors", shards()[1]);
  writeWhole(folder / "model.safetensors.index.json", input);
  const Checkpoint checkpoint(folder);
  require(checkpoint.weightFiles().size() == 2, "both shards are read");
}

std::vector<Sample> indexSeeds() {
  auto map = nlohmann::json::object();
  for (const auto& [name, shape] : expectedTensors(shardedConfig()))
    map[name] = name.starts_with("backbone.layers") ? "b.safetensors" : "a.safetensors";
  const nlohmann::json index = {{"metadata", {{"total_size", 4096}}}, {"weight_map", map}};
  return {{"two shards", toBytes(index.dump(1))}};
}

// ---- tokenizers

const std::vector<Bytes>& texts() {
  static const std::vector<Bytes> kTexts = [] {
    Bytes every;
    for (int byte = 255; byte >= 0; --byte) every.push_back(static_cast<Byte>(byte));
    return std::vector<Bytes>{
        {},
        every,
        toBytes("The then and  the   other,\n\nthey're 12 o'clock\t\xe2\x80\x94"),
        toBytes("\xff\xfe caf\xc3\xa9 \xf0\x9f\x99\x82\xf0\x9f <|end|>"),
        Bytes(3000, ' ')};
  }();
  return kTexts;
}

void checkLossless(const Tokenizer& tokenizer, ByteView text) {
  const std::vector<Token> tokens = tokenizer.encode(text);
  require(std::ranges::equal(tokenizer.decode(tokens), text), "decode(encode(text)) is the text");
  require(tokenizer.lastPieceStart(text) <= text.size(), "the last piece starts in the text");
}

void runTokenizer(ByteView input, const ScratchFolder& scratch) {
  const Tokenizer tokenizer(scratch.write("tokenizer.json", input));
  for (const Bytes& text : texts()) checkLossless(tokenizer, text);
  for (const Token token : {-1, 0, 256, 1 << 30}) tokenizer.bytes(token);
}

std::filesystem::path bundledTokenizer() {
  return std::filesystem::path(MB_FUZZ_MODELS) / "books-draft" / "tokenizer.json";
}

std::vector<Sample> tokenizerSeeds() {
  std::vector<Sample> samples;
  for (std::size_t variant = 0; variant < kTokenizerVariants; ++variant)
    samples.push_back({"small", toBytes(smallTokenizer(variant))});
  return samples;
}

std::vector<Sample> bundledTokenizerSeeds() {
  return {{"bundled", readWhole(bundledTokenizer())}};
}

void runEncode(ByteView input, const ScratchFolder&) {
  static const Tokenizer kTokenizer(bundledTokenizer());
  checkLossless(kTokenizer, input);
}

std::vector<Sample> encodeSeeds() {
  std::vector<Sample> samples;
  for (const Bytes& text : texts()) samples.push_back({"text", text});
  return samples;
}

std::vector<Sample> hostileTexts() {
  std::vector<Sample> samples;
  for (const std::string_view unit :
       {" ", "a", "\n", "'s", "\xe2\x80", "\xff", "\xf0\x9f\x99\x82"}) {
    Bytes text;
    while (text.size() < (1 << 20)) text.insert(text.end(), unit.begin(), unit.end());
    samples.push_back({"a megabyte of one character", std::move(text)});
  }
  return samples;
}

// ---- saved states

StateShape stateShape() {
  return StateShape(smallConfigs()[0]);
}

void runState(ByteView input, const ScratchFolder& scratch) {
  const State state = State::load(scratch.write("state", input), stateShape());
  require(state.shape() == stateShape(), "a loaded state has the model's shape");
}

/// The header's last field is the checksum of the values, seeded with that of the fields before.
void runStateValues(ByteView input, const ScratchFolder& scratch) {
  constexpr std::size_t kHeaderBytes = 56;
  Bytes file(input.begin(), input.end());
  if (file.size() >= kHeaderBytes) {
    std::uint64_t checksum = XXH3_64bits(file.data(), kHeaderBytes - sizeof checksum);
    checksum =
        XXH3_64bits_withSeed(file.data() + kHeaderBytes, file.size() - kHeaderBytes, checksum);
    std::memcpy(file.data() + kHeaderBytes - sizeof checksum, &checksum, sizeof checksum);
  }
  runState(file, scratch);
}

std::vector<Sample> stateSeeds() {
  const ScratchFolder scratch;
  State state(stateShape());
  std::vector<Sample> samples;
  for (const std::uint64_t position : {0u, 77u}) {
    state.setPosition(position);
    std::fill_n(state.hidden(0), state.shape().layerSize(), static_cast<float>(position));
    state.save(scratch.path() / "seed");
    samples.push_back({"state", readWhole(scratch.path() / "seed")});
  }
  return samples;
}

std::vector<Target> makeTargets() {
  using enum Format;
  return {
      {"safetensors", {Binary}, 10, safetensorsSeeds, nullptr, runSafetensors},
      {"safetensors-header", {Json}, 10, headerSeeds, hostileHeaders, runHeader},
      {"torch", {Binary}, 10, torchSeeds, hostileTorchFiles, runTorch},
      {"torch-pickle", {Pickle}, 10, torchPickleSeeds, nullptr, runTorchPickle},
      {"pickle", {Pickle}, 20, pickleSeeds, hostilePickles, runPickle},
      {"config", {Json}, 10, configSeeds, hostileConfigs, runConfig},
      {"index", {Json}, 5, indexSeeds, hostileConfigs, runIndex},
      {"model", {Json, Binary}, 10, modelSeeds, hostileModels, runModel},
      {"torch-model", {Json, Pickle}, 5, torchModelSeeds, nullptr, runTorchModel},
      {"tokenizer", {Json}, 10, tokenizerSeeds, hostileTokenizers, runTokenizer},
      {"tokenizer-bundled", {Json}, 1, bundledTokenizerSeeds, nullptr, runTokenizer},
      {"encode", {Binary}, 5, encodeSeeds, hostileTexts, runEncode},
      {"state", {Binary}, 2, stateSeeds, nullptr, runState},
      {"state-values", {Binary}, 2, stateSeeds, nullptr, runStateValues},
  };
}

std::string nameOfType(const std::exception& error) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> name(
      abi::__cxa_demangle(typeid(error).name(), nullptr, nullptr, &status), std::free);
  return name ? name.get() : typeid(error).name();
}

/// What is wrong with a message, or nothing.
std::string complaintAbout(std::string_view message) {
  if (message.empty()) return "an empty message";
  if (message.size() > kMostMessage)
    return "a message of " + std::to_string(message.size()) + " bytes";
  const bool hasControls = std::ranges::any_of(
      message, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  return hasControls ? "a message with control bytes" : "";
}

}  // namespace

const std::vector<Target>& targets() {
  static const std::vector<Target> kTargets = makeTargets();
  return kTargets;
}

const Target* findTarget(std::string_view name) {
  for (const Target& target : targets())
    if (target.name == name) return &target;
  return nullptr;
}

Outcome tryInput(const Target& target, ByteView input, const ScratchFolder& scratch) {
  Outcome outcome;
  try {
    target.run(input, scratch);
    outcome.accepted = true;
  } catch (const Error& error) {
    outcome.message = error.what();
    outcome.problem = complaintAbout(outcome.message);
  } catch (const std::exception& error) {
    outcome.problem = "threw " + nameOfType(error) + ": " + error.what();
  } catch (...) {
    outcome.problem = "threw something that is no exception";
  }
  return outcome;
}

}  // namespace mb::fuzz
