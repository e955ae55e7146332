#include "engine/model/random_weights.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "engine/model/mix.h"

namespace mb {

namespace {

using Values = std::vector<float>;

void fillUniform(Values& values, float bound, std::uint64_t seed) {
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(2 * uniform01(seed, i) - 1) * bound;
}

/// Values as initialised by the Mamba paper's code, by the end of the tensor's name.
void fill(const std::string& name, const Shape& shape, Values& values, std::uint64_t seed) {
  if (name.ends_with("A_log")) {
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = std::log(static_cast<float>(i % shape[1] + 1));
  } else if (name.ends_with("dt_proj.bias")) {
    std::ranges::fill(values, -4.6f);  // softplus(-4.6) = 0.01
  } else if (name.ends_with("bias")) {
    std::ranges::fill(values, 0.0f);
  } else if (name.ends_with("norm.weight") || name.ends_with("norm_f.weight") ||
             name.ends_with(".D")) {
    std::ranges::fill(values, 1.0f);
  } else {
    fillUniform(values, 1.0f / std::sqrt(static_cast<float>(shape.back())), seed);
  }
}

}  // namespace

Tensor RandomWeights::tensor(const std::string& name, const Shape& shape) const {
  const auto values = std::make_shared<Values>(elementCount(shape));
  fill(name, shape, *values, mix(m_seed, std::hash<std::string>()(name)));
  return {{}, name, DataType::Float32, shape, std::as_bytes(std::span(*values)), values};
}

ModelConfig shapeOf(std::size_t dModel, std::size_t layers, std::size_t vocabulary) {
  ModelConfig config;
  config.vocabSize = vocabulary;
  config.dModel = dModel;
  config.dInner = 2 * dModel;
  config.dtRank = (dModel + 15) / 16;
  config.layers = layers;
  return config;
}

std::optional<ModelConfig> namedShape(std::string_view name) {
  if (name == "4M") return shapeOf(384, 3, 4096);
  if (name == "14M") return shapeOf(512, 8, 256);
  if (name == "20M") return shapeOf(512, 12, 256);
  if (name == "130M") return shapeOf(768, 24, 50280);
  if (name == "353M") return shapeOf(1024, 53, 256);
  if (name == "972M") return shapeOf(1792, 48, 256);
  if (name == "1.6B") return shapeOf(2304, 48, 256);
  return std::nullopt;
}

std::string_view namedShapes() {
  return "4M, 14M, 20M, 130M, 353M, 972M, 1.6B";
}

}  // namespace mb
