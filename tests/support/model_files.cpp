#include "tests/support/model_files.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/cpu/cpu_model.h"
#include "tests/support/random_values.h"
#include "tests/support/test_models.h"

namespace mb::test {

namespace {

using Json = nlohmann::json;

/// Correctly rounded, from the definition of the format: the nearest multiple of the spacing.
std::uint16_t toHalf(float value) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double size = std::abs(static_cast<double>(value));
  if (std::isnan(value)) return 0x7e00;
  if (size >= 65520) return static_cast<std::uint16_t>(sign | 0x7c00);
  int exponent = 0;
  std::frexp(size, &exponent);
  const int spacing = std::max(exponent - 11, -24);  // power of two of the last place
  const double units = std::nearbyint(std::ldexp(size, -spacing));
  if (units < 1024) return static_cast<std::uint16_t>(sign | static_cast<int>(units));
  const int biased = (spacing + 24) * 1024 + static_cast<int>(units);  // 1024 carries into exponent
  return static_cast<std::uint16_t>(sign | biased);
}

std::uint16_t toBfloat(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/// Values of one tensor by the end of its name.
std::vector<float> randomValues(const std::string& name, const Shape& shape, Random& random) {
  std::vector<float> values(elementCount(shape));
  float low = -1 / std::sqrt(static_cast<float>(shape.back()));
  float high = -low;
  if (name.ends_with("norm.weight") || name.ends_with("norm_f.weight") || name.ends_with(".D"))
    low = 0.5f, high = 1.5f;
  else if (name.ends_with("A_log"))
    low = -2, high = 3;
  else if (name.ends_with("dt_proj.bias"))
    low = -6, high = 0;
  else if (name.ends_with("bias"))
    low = -0.3f, high = 0.3f;
  else if (name.ends_with("embeddings.weight") || name.starts_with("lm_head"))
    low = -1, high = 1;
  for (float& value : values) value = random.uniform(low, high);
  return values;
}

}  // namespace

std::string encodeValues(DataType type, std::span<const float> values) {
  std::string bytes;
  for (const float value : values) {
    if (type == DataType::Float32) {
      bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
      continue;
    }
    const std::uint16_t stored = type == DataType::Float16 ? toHalf(value) : toBfloat(value);
    bytes.append(reinterpret_cast<const char*>(&stored), sizeof stored);
  }
  return bytes;
}

FileTensors randomTensors(const ModelConfig& config, std::uint32_t seed, DataType type) {
  Random random(seed);
  FileTensors tensors;
  for (const auto& [name, shape] : expectedTensors(config))
    tensors[name] = {nameOf(type), shape, encodeValues(type, randomValues(name, shape, random))};
  return tensors;
}

std::string safetensorsBytes(const std::string& header, const std::string& data) {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
}

std::string safetensorsBytes(const FileTensors& tensors) {
  Json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const std::size_t begin = data.size();
    data += tensor.data;
    header[name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  return safetensorsBytes(header.dump(), data);
}

std::string transformersConfig(const ModelConfig& config) {
  return Json({{"model_type", "mamba"},
               {"vocab_size", config.vocabSize},
               {"hidden_size", config.dModel},
               {"intermediate_size", config.dInner},
               {"state_size", config.dState},
               {"num_hidden_layers", config.layers},
               {"conv_kernel", config.dConv},
               {"time_step_rank", config.dtRank},
               {"use_bias", config.projectionBias},
               {"use_conv_bias", config.convBias},
               {"layer_norm_epsilon", config.normEpsilon},
               {"hidden_act", "silu"},
               {"tie_word_embeddings", config.tiedHead}})
      .dump();
}

std::string stateSpacesConfig(const ModelConfig& config) {
  return Json({{"d_model", config.dModel},
               {"n_layer", config.layers},
               {"vocab_size", config.vocabSize},
               {"pad_vocab_size_multiple", 8},
               {"rms_norm", config.norm == NormKind::Rms},
               {"norm_epsilon", config.normEpsilon},
               {"tie_embeddings", config.tiedHead},
               {"ssm_cfg",
                {{"d_state", config.dState},
                 {"d_conv", config.dConv},
                 {"expand", config.dInner / config.dModel},
                 {"dt_rank", config.dtRank},
                 {"bias", config.projectionBias},
                 {"conv_bias", config.convBias}}}})
      .dump();
}

void writeModel(const std::filesystem::path& folder, const ModelConfig& config,
                const FileTensors& tensors) {
  const bool stateSpaces = config.norm == NormKind::Layer;
  std::filesystem::create_directories(folder);
  writeFile(folder / "config.json",
            stateSpaces ? stateSpacesConfig(config) : transformersConfig(config));
  writeFile(folder / "model.safetensors", safetensorsBytes(tensors));
}

void writeShards(const std::filesystem::path& folder, const std::string& config,
                 const FileTensors& tensors) {
  const std::string names[] = {"model-00001-of-00002.safetensors",
                               "model-00002-of-00002.safetensors"};
  FileTensors shards[2];
  Json map = Json::object();
  for (const auto& [name, tensor] : tensors) {
    const std::size_t shard = map.size() % 2;
    shards[shard][name] = tensor;
    map[name] = names[shard];
  }
  std::filesystem::create_directories(folder);
  for (std::size_t shard : {0u, 1u})
    writeFile(folder / names[shard], safetensorsBytes(shards[shard]));
  writeFile(folder / "model.safetensors.index.json", Json({{"weight_map", map}}).dump());
  writeFile(folder / "config.json", config);
}

ModelConfig smallConfig() {
  ModelConfig config;
  config.dModel = 16;
  config.dInner = 32;
  config.dtRank = 2;
  config.layers = 2;
  return config;
}

Tensor MemoryWeights::tensor(const std::string& name, const Shape& shape) const {
  const std::string& data = m_tensors.at(name).data;
  return {{}, name, DataType::Float32, shape, std::as_bytes(std::span(data)), {}};
}

std::shared_ptr<const Model> modelOf(const WeightSource& source, WeightPrecision precision,
                                     std::size_t threads, const std::string& simd) {
  ModelInfo info;
  info.name = "random";
  return std::make_shared<const CpuModel>(source, info, CpuOptions{precision, simd},
                                          std::make_shared<cpu::ThreadPool>(threads));
}

}  // namespace mb::test
