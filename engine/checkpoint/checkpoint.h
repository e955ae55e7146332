// A model on disk: its config and its tensors under one set of names, whatever the layout.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "engine/checkpoint/model_config.h"
#include "engine/checkpoint/tensor.h"

namespace mb {

/// Where a device gets weights from. Thread-safe once built.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual const ModelConfig& config() const = 0;
  /// The tensor of that name (transformers naming, e.g. "backbone.layers.0.mixer.in_proj.weight").
  /// Throws FormatError when it is absent or its shape is another.
  virtual Tensor tensor(const std::string& name, const Shape& shape) const = 0;
};

/// Name and shape of every tensor a model of this shape has, in file order of the layers.
std::vector<std::pair<std::string, Shape>> expectedTensors(const ModelConfig& config);

/// A folder in the transformers layout (config.json, model.safetensors or shards with an index) or
/// the state-spaces layout (config.json, pytorch_model.bin). Weights stay mapped, not copied, where
/// the format allows it.
class Checkpoint : public WeightSource {
 public:
  /// `folder` may also name a file inside the folder. Checks names and shapes of all tensors.
  /// Throws FileError or FormatError.
  explicit Checkpoint(const std::filesystem::path& folder);

  const ModelConfig& config() const override { return m_config; }
  Tensor tensor(const std::string& name, const Shape& shape) const override;

  const std::filesystem::path& folder() const { return m_folder; }
  /// config.json as it was read.
  const std::string& configText() const { return m_configText; }
  /// The weight files, in reading order.
  const std::vector<std::filesystem::path>& weightFiles() const { return m_weightFiles; }
  /// Type of the projection weights as stored.
  DataType storedType() const { return m_storedType; }
  /// The tokenizer of a subword model, or an empty path.
  std::filesystem::path tokenizerFile() const;

 private:
  void readWeights();
  void readShards(const std::filesystem::path& index);
  void addFile(const std::filesystem::path& file, std::map<std::string, Tensor> tensors);
  void checkSize() const;
  void checkTensors();

  std::filesystem::path m_folder;
  std::string m_configText;
  ModelConfig m_config;
  std::map<std::string, Tensor> m_tensors;
  std::vector<std::filesystem::path> m_weightFiles;
  DataType m_storedType = DataType::Float32;
};

/// XXH3 128-bit hash of the weight files' bytes, as 32 hexadecimal digits: the model's identity in
/// manifests. Reads the files whole. Throws FileError.
std::string hashOfFiles(const std::vector<std::filesystem::path>& files);

}  // namespace mb
