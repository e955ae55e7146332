// All weights of a model in one array, for training.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"

namespace mb {

/// Where one tensor lies in the array.
struct Parameter {
  std::string name;  ///< as in a transformers checkpoint
  Shape shape;
  std::size_t offset = 0;
  std::size_t size = 0;
  /// Whether weight decay draws it to zero: matrices of projections and convolutions do; A_log, D,
  /// norms, biases and the embedding do not.
  bool decays = false;
};

/// Offsets of one layer's parameters.
struct LayerParameters {
  std::size_t norm = 0;      ///< [d]
  std::size_t inProj = 0;    ///< [2e][d]: u, then z
  std::size_t conv = 0;      ///< [e][k]
  std::size_t convBias = 0;  ///< [e], where the model has one
  std::size_t xProj = 0;     ///< [r + 2n][e]: δ, B, C
  std::size_t dtProj = 0;    ///< [e][r]
  std::size_t dtBias = 0;    ///< [e]
  std::size_t decay = 0;     ///< A_log: [e][n]
  std::size_t skip = 0;      ///< D: [e]
  std::size_t outProj = 0;   ///< [d][e]
};

/// The order of a model's weights in the array: that of its checkpoint.
class ParameterLayout {
 public:
  /// Throws RequestError for what training does not take: LayerNorm and biases of projections.
  explicit ParameterLayout(const ModelConfig& config);

  const ModelConfig& config() const { return m_config; }
  std::size_t size() const { return m_size; }
  const std::vector<Parameter>& parameters() const { return m_parameters; }
  const LayerParameters& layer(std::size_t index) const { return m_layers[index]; }
  std::size_t embedding() const { return m_embedding; }  ///< [V][d]
  std::size_t finalNorm() const { return m_finalNorm; }  ///< [d]
  std::size_t head() const { return m_head; }            ///< [V][d]; the embedding when tied

 private:
  std::size_t offsetOf(const std::string& name) const;

  ModelConfig m_config;
  std::vector<Parameter> m_parameters;
  std::vector<LayerParameters> m_layers;
  std::size_t m_size = 0;
  std::size_t m_embedding = 0;
  std::size_t m_finalNorm = 0;
  std::size_t m_head = 0;
};

/// Weights in memory as a source of a model's. Layout and values must outlive it and its tensors.
class ParameterWeights : public WeightSource {
 public:
  ParameterWeights(const ParameterLayout& layout, std::span<const float> values)
      : m_layout(layout), m_values(values) {}

  const ModelConfig& config() const override { return m_layout.config(); }
  Tensor tensor(const std::string& name, const Shape& shape) const override;

 private:
  const ParameterLayout& m_layout;
  std::span<const float> m_values;
};

/// The weights of a checkpoint, widened.
std::vector<float> readParameters(const ParameterLayout& layout, const WeightSource& source);

/// Weights to begin with, as state-spaces/mamba does: A_n = -n, D = 1, Δ log-uniform in
/// [0.001, 0.1], projections uniform within 1 / sqrt(columns), out_proj smaller by sqrt(L), the
/// embedding normal with a deviation of 0.02.
std::vector<float> initialParameters(const ParameterLayout& layout, std::uint64_t seed);

/// Writes them as a model in float32, config.json and model.safetensors each as a whole or not at
/// all. Creates the folder. Throws FileError, and FormatError for what is not a number.
void writeModel(const std::filesystem::path& folder, const ParameterLayout& layout,
                std::span<const float> parameters);

}  // namespace mb
