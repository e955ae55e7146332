#include "tests/fuzz/model_files.h"

#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <zip.h>

#include "engine/checkpoint/checkpoint.h"
#include "engine/model/random_weights.h"
#include "kernels/bfloat16.h"

namespace mb::fuzz {

namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kWeightSeed = 11;

ModelConfig smallConfig(std::size_t vocabulary, std::size_t model, std::size_t inner,
                        std::size_t state, std::size_t taps, std::size_t rank, std::size_t layers) {
  ModelConfig config;
  config.vocabSize = vocabulary;
  config.dModel = model;
  config.dInner = inner;
  config.dState = state;
  config.dConv = taps;
  config.dtRank = rank;
  config.layers = layers;
  return config;
}

template <class Value>
requires std::is_arithmetic_v<Value>
void append(Bytes& bytes, const Value& value) {
  const auto* start = reinterpret_cast<const Byte*>(&value);
  bytes.insert(bytes.end(), start, start + sizeof(Value));
}

void appendText(Bytes& bytes, std::string_view text) {
  bytes.insert(bytes.end(), text.begin(), text.end());
}

std::vector<float> valuesOf(const Tensor& tensor) {
  std::vector<float> values(elementCount(tensor.shape));
  tensor.read(0, values);
  return values;
}

/// Values in the type's own bits. Small weights lose nothing that matters as halves.
Bytes encode(const std::vector<float>& values, DataType type) {
  Bytes bytes;
  for (const float value : values) {
    if (type == DataType::Float32) {
      append(bytes, value);
    } else if (type == DataType::BFloat16) {
      append(bytes, floatToBfloat16(value));
    } else {  // toward zero, below the smallest normal half to zero
      const auto bits = std::bit_cast<std::uint32_t>(value);
      const std::uint32_t sign = bits >> 16 & 0x8000u;
      const std::uint32_t exponent = bits >> 23 & 0xffu;
      const std::uint32_t half =
          exponent < 113 ? sign : sign | (exponent - 112) << 10 | (bits >> 13 & 0x3ffu);
      append(bytes, static_cast<std::uint16_t>(half));
    }
  }
  return bytes;
}

/// Writes the opcodes that torch.save uses for a dictionary of tensors.
class PickleWriter {
 public:
  PickleWriter() {
    appendText(m_program, {"\x80\x02", 2});
    emptyOrderedDict();
    appendText(m_program, "(");
  }

  void tensor(const std::string& name, const std::string& key, const Shape& shape) {
    text(name);
    appendText(m_program, "ctorch._utils\n_rebuild_tensor_v2\nq");
    memo();
    appendText(m_program, "((");
    text("storage");
    appendText(m_program, "ctorch\nFloatStorage\nq");
    memo();
    text(key);
    text("cpu");
    size(elementCount(shape));
    appendText(m_program, {"tQK\0", 4});
    sizes(shape);
    sizes(stridesOf(shape));
    appendText(m_program, "\x89");
    emptyOrderedDict();
    appendText(m_program, "tR");
  }

  Bytes finish() {
    appendText(m_program, "u.");
    return std::move(m_program);
  }

 private:
  static Shape stridesOf(const Shape& shape) {
    Shape strides(shape.size(), 1);
    for (std::size_t i = shape.size() - 1; i-- > 0;) strides[i] = strides[i + 1] * shape[i + 1];
    return strides;
  }
  void memo() { m_program.push_back(m_memo++); }
  void emptyOrderedDict() { appendText(m_program, "ccollections\nOrderedDict\n)R"); }
  void text(const std::string& text) {
    m_program.push_back('X');
    append(m_program, static_cast<std::uint32_t>(text.size()));
    appendText(m_program, text);
  }
  void size(std::size_t value) {
    if (value < 256) {
      m_program.push_back('K');
      m_program.push_back(static_cast<Byte>(value));
    } else {
      m_program.push_back('J');
      append(m_program, static_cast<std::int32_t>(value));
    }
  }
  void sizes(const Shape& shape) {
    m_program.push_back('(');
    for (const std::size_t extent : shape) size(extent);
    m_program.push_back('t');
  }

  Bytes m_program;
  Byte m_memo = 0;
};

struct DiscardArchive {
  void operator()(zip_t* archive) const { zip_discard(archive); }
};
using Archive = std::unique_ptr<zip_t, DiscardArchive>;

/// UTF-8 of the character that stands for a byte in a byte-level vocabulary.
std::string standIn(int byte, int& next) {
  const bool printed =
      (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  const int code = printed ? byte : next++;
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

}  // namespace

std::vector<ModelConfig> smallConfigs() {
  std::vector<ModelConfig> configs = {
      smallConfig(256, 5, 7, 3, 1, 1, 1),   smallConfig(256, 4, 8, 1, 4, 2, 2),
      smallConfig(256, 3, 20, 2, 3, 2, 1),  smallConfig(256, 6, 12, 4, 2, 3, 1),
      smallConfig(256, 4, 16, 16, 4, 1, 1), smallConfig(300, 4, 6, 2, 4, 1, 1)};
  configs[1].projectionBias = true;
  configs[2].convBias = false;
  configs[3].tiedHead = false;
  return configs;
}

std::string transformersConfig(const ModelConfig& config) {
  const Json json = {{"model_type", "mamba"},
                     {"vocab_size", config.vocabSize},
                     {"hidden_size", config.dModel},
                     {"intermediate_size", config.dInner},
                     {"expand", 2},
                     {"state_size", config.dState},
                     {"conv_kernel", config.dConv},
                     {"time_step_rank", config.dtRank},
                     {"num_hidden_layers", config.layers},
                     {"layer_norm_epsilon", config.normEpsilon},
                     {"use_bias", config.projectionBias},
                     {"use_conv_bias", config.convBias},
                     {"hidden_act", "silu"},
                     {"tie_word_embeddings", config.tiedHead}};
  return json.dump(1);
}

std::string stateSpacesConfig(const ModelConfig& config) {
  const Json json = {{"d_model", config.dModel},
                     {"n_layer", config.layers},
                     {"vocab_size", config.vocabSize},
                     {"ssm_cfg",
                      {{"d_state", config.dState},
                       {"d_conv", config.dConv},
                       {"expand", config.dInner / config.dModel},
                       {"dt_rank", config.dtRank},
                       {"bias", config.projectionBias},
                       {"conv_bias", config.convBias}}},
                     {"rms_norm", config.norm == NormKind::Rms},
                     {"norm_epsilon", config.normEpsilon},
                     {"tie_embeddings", config.tiedHead},
                     {"pad_vocab_size_multiple", 4}};
  return json.dump(1);
}

Bytes safetensorsFile(std::string_view header, std::size_t dataBytes) {
  Bytes file;
  append(file, static_cast<std::uint64_t>(header.size()));
  appendText(file, header);
  file.resize(file.size() + dataBytes);
  return file;
}

Bytes safetensorsModel(const ModelConfig& config, DataType type) {
  const RandomWeights weights(config, kWeightSeed);
  Json header = Json::object();
  Bytes data;
  for (const auto& [name, shape] : expectedTensors(config)) {
    const Bytes values = encode(valuesOf(weights.tensor(name, shape)), type);
    header[name] = {{"dtype", nameOf(type)},
                    {"shape", shape},
                    {"data_offsets", {data.size(), data.size() + values.size()}}};
    data.insert(data.end(), values.begin(), values.end());
  }
  header["__metadata__"] = {{"format", "pt"}};
  Bytes file = safetensorsFile(header.dump(), 0);
  file.insert(file.end(), data.begin(), data.end());
  return file;
}

std::string safetensorsHeader(ByteView file) {
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  return std::string(toText(file.subspan(sizeof length, length)));
}

Bytes zipFile(const ZipEntries& entries) {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* memory = zip_source_buffer_create(nullptr, 0, 0, &error);
  zip_source_keep(memory);
  Archive archive(zip_open_from_source(memory, ZIP_CREATE | ZIP_TRUNCATE, &error));
  for (const auto& [name, content] : entries) {
    zip_source_t* source = zip_source_buffer(archive.get(), content.data(), content.size(), 0);
    const zip_int64_t index = zip_file_add(archive.get(), name.c_str(), source, 0);
    if (index < 0) throw std::runtime_error("libzip refuses the entry " + name);
    zip_set_file_compression(archive.get(), static_cast<zip_uint64_t>(index), ZIP_CM_STORE, 0);
  }
  if (zip_close(archive.get()) != 0) throw std::runtime_error("libzip cannot write");
  archive.release();
  zip_stat_t info;
  zip_source_stat(memory, &info);
  Bytes bytes(info.size);
  zip_source_open(memory);
  zip_source_read(memory, bytes.data(), bytes.size());
  zip_source_close(memory);
  zip_source_free(memory);
  return bytes;
}

Bytes zipEntry(const std::string& file, const std::string& suffix) {
  int code = 0;
  const Archive archive(zip_open(file.c_str(), ZIP_RDONLY, &code));
  if (!archive) throw std::runtime_error(file + " is not a zip");
  const zip_int64_t entries = zip_get_num_entries(archive.get(), 0);
  for (zip_uint64_t i = 0; i < static_cast<zip_uint64_t>(entries); ++i) {
    zip_stat_t info;
    if (zip_stat_index(archive.get(), i, 0, &info) != 0) continue;
    if (!std::string_view(info.name).ends_with(suffix)) continue;
    Bytes bytes(info.size);
    zip_file_t* entry = zip_fopen_index(archive.get(), i, 0);
    zip_fread(entry, bytes.data(), bytes.size());
    zip_fclose(entry);
    return bytes;
  }
  throw std::runtime_error(file + " has no entry " + suffix);
}

TorchParts torchModel(const ModelConfig& config) {
  const RandomWeights weights(config, kWeightSeed);
  PickleWriter pickle;
  TorchParts parts;
  for (const auto& [name, shape] : expectedTensors(config)) {
    const std::string key = std::to_string(parts.storages.size());
    const bool renamed = name == "backbone.embeddings.weight";
    pickle.tensor(renamed ? "backbone.embedding.weight" : name, key, shape);
    parts.storages.emplace_back("archive/data/" + key,
                                encode(valuesOf(weights.tensor(name, shape)), DataType::Float32));
  }
  parts.program = pickle.finish();
  return parts;
}

Bytes torchFile(ByteView program, const ZipEntries& storages) {
  ZipEntries entries = {{"archive/data.pkl", Bytes(program.begin(), program.end())}};
  entries.insert(entries.end(), storages.begin(), storages.end());
  entries.emplace_back("archive/version", toBytes("3\n"));
  return zipFile(entries);
}

std::string smallTokenizer(std::size_t variant) {
  Json vocabulary = Json::object();
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) vocabulary[standIn(byte, next)] = byte;
  Json merges = Json::array();
  const std::pair<std::string, std::string> kPairs[] = {{"t", "h"}, {"th", "e"}, {"Ġ", "the"},
                                                        {"a", "n"}, {"Ġ", "Ġ"},  {"ĠĠ", "ĠĠ"}};
  for (const auto& [left, right] : kPairs) {
    vocabulary[left + right] = vocabulary.size();
    merges.push_back(variant == 0 ? Json(left + " " + right) : Json({left, right}));
  }
  Json json = {{"version", "1.0"},
               {"added_tokens", Json::array()},
               {"pre_tokenizer",
                {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", variant != 1}}},
               {"model",
                {{"type", "BPE"},
                 {"ignore_merges", variant == 1},
                 {"vocab", vocabulary},
                 {"merges", merges}}}};
  if (variant == 2) {
    json["added_tokens"] = {{{"id", 300}, {"content", "<|end|>"}, {"special", true}},
                            {{"id", 301}, {"content", "   "}, {"special", false}}};
  }
  return json.dump(1);
}

}  // namespace mb::fuzz
