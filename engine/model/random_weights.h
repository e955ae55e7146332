// Models of a given shape with random weights: timing does not depend on the values.
#pragma once

#include <optional>
#include <string_view>

#include "engine/checkpoint/checkpoint.h"

namespace mb {

/// Deterministic weights of plausible size: projections uniform in ±1/sqrt(width), A_n = -(n + 1),
/// Δ near 0.01. Nothing is stored; each tensor is made when asked for.
class RandomWeights : public WeightSource {
 public:
  RandomWeights(const ModelConfig& config, std::uint64_t seed) : m_config(config), m_seed(seed) {}

  const ModelConfig& config() const override { return m_config; }
  Tensor tensor(const std::string& name, const Shape& shape) const override;

 private:
  ModelConfig m_config;
  std::uint64_t m_seed;
};

/// A shape as the Mamba paper has them: e = 2d, n = 16, k = 4, r = d / 16 rounded up.
ModelConfig shapeOf(std::size_t dModel, std::size_t layers, std::size_t vocabulary);
/// Shapes by name: "14M" and "4M" (the bundled pair), "20M", and the published "130M" (subword),
/// "353M", "972M", "1.6B". Nothing for any other name.
std::optional<ModelConfig> namedShape(std::string_view name);
/// The names namedShape() knows, for messages.
std::string_view namedShapes();

}  // namespace mb
