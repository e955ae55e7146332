// Checkpoints that tests write themselves, whole or broken, and models of random weights.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/model/model.h"

namespace mb::test {

/// One tensor of a file to be written; dtype as safetensors spells it.
struct FileTensor {
  std::string dtype;
  Shape shape;
  std::string data;
};
using FileTensors = std::map<std::string, FileTensor>;

/// Little-endian values; rounds to nearest even for the 16-bit types.
std::string encodeValues(DataType type, std::span<const float> values);
/// Every tensor of this shape with values that keep a model tame, none of them trivial: biases,
/// norms and D vary too. The names are those of the transformers layout.
FileTensors randomTensors(const ModelConfig& config, std::uint32_t seed,
                          DataType type = DataType::Float32);

/// 8 bytes of length, the header, the data.
std::string safetensorsBytes(const std::string& header, const std::string& data);
std::string safetensorsBytes(const FileTensors& tensors);

std::string transformersConfig(const ModelConfig& config);
/// Says everything that config can say, LayerNorm included; the vocabulary is padded to 8.
std::string stateSpacesConfig(const ModelConfig& config);

/// config.json and model.safetensors. A config with LayerNorm is written as state-spaces.
void writeModel(const std::filesystem::path& folder, const ModelConfig& config,
                const FileTensors& tensors);

/// config.json, two shards and their index.
void writeShards(const std::filesystem::path& folder, const std::string& config,
                 const FileTensors& tensors);

/// A byte model that takes microseconds a step: d 16, e 32, 2 layers.
ModelConfig smallConfig();

/// randomTensors() as a source of weights.
class MemoryWeights : public WeightSource {
 public:
  MemoryWeights(const ModelConfig& config, std::uint32_t seed)
      : m_config(config), m_tensors(randomTensors(config, seed)) {}
  const ModelConfig& config() const override { return m_config; }
  Tensor tensor(const std::string& name, const Shape& shape) const override;

 private:
  ModelConfig m_config;
  FileTensors m_tensors;
};

std::shared_ptr<const Model> modelOf(const WeightSource& source,
                                     WeightPrecision precision = WeightPrecision::Float32,
                                     std::size_t threads = 1, const std::string& simd = "");

}  // namespace mb::test
