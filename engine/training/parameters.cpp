#include "engine/training/parameters.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/checkpoint/model_writer.h"
#include "engine/error.h"
#include "engine/model/mix.h"

namespace mb {

namespace {

constexpr const char* kInMemory = "weights in memory";  // in place of a file, in messages

bool isMatrix(const std::string& name) {
  const auto ends = [&](std::string_view end) { return name.ends_with(end); };
  return ends("proj.weight") || ends("conv1d.weight") || ends("lm_head.weight");
}

/// Uniform and normal numbers of one tensor.
class Numbers {
 public:
  Numbers(std::uint64_t seed, const std::string& name) : m_seed(mix(seed, hashOf(name))) {}

  double uniform(double low, double high) {
    return low + (high - low) * uniform01(m_seed, m_count++);
  }
  /// By Box and Muller.
  double normal(double deviation) {
    const double radius = std::sqrt(-2 * std::log(1 - uniform(0, 1)));
    return deviation * radius * std::cos(2 * std::numbers::pi * uniform(0, 1));
  }

 private:
  /// FNV-1a: the same on every machine, which std::hash need not be.
  static std::uint64_t hashOf(const std::string& name) {
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    return hash;
  }

  std::uint64_t m_seed;
  std::uint64_t m_count = 0;
};

/// The bias for which softplus gives `delta`.
double inverseSoftplus(double delta) {
  return delta + std::log(-std::expm1(-delta));
}

void initialise(const ModelConfig& config, const Parameter& parameter, std::uint64_t seed,
                std::span<float> values) {
  Numbers numbers(seed, parameter.name);
  const auto ends = [&](std::string_view end) { return parameter.name.ends_with(end); };
  const auto fill = [&](auto number) {
    for (float& value : values) value = static_cast<float>(number());
  };
  const auto within = [&](double bound) { fill([&] { return numbers.uniform(-bound, bound); }); };
  const double fanIn = static_cast<double>(parameter.shape.back());
  if (ends("A_log")) {
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = std::log(static_cast<float>(i % config.dState + 1));
  } else if (ends("dt_proj.bias")) {
    fill([&] { return inverseSoftplus(std::exp(numbers.uniform(std::log(1e-3), std::log(0.1)))); });
  } else if (ends("norm.weight") || ends("norm_f.weight") || ends(".D")) {
    std::ranges::fill(values, 1.0f);
  } else if (ends("embeddings.weight")) {
    fill([&] { return numbers.normal(0.02); });
  } else if (ends("conv1d.bias")) {
    within(1 / std::sqrt(static_cast<double>(config.dConv)));
  } else if (ends("out_proj.weight")) {
    within(1 / std::sqrt(fanIn * static_cast<double>(config.layers)));
  } else {
    within(1 / std::sqrt(fanIn));
  }
}

}  // namespace

ParameterLayout::ParameterLayout(const ModelConfig& config) : m_config(config) {
  if (config.norm != NormKind::Rms || config.projectionBias)
    throw RequestError(
        "training takes models with RMSNorm and projections without biases; this one has " +
        std::string(config.norm != NormKind::Rms ? "LayerNorm" : "biases in its projections"));
  for (const auto& [name, shape] : expectedTensors(config)) {
    const std::size_t size = elementCount(shape);
    m_parameters.push_back({name, shape, m_size, size, isMatrix(name)});
    m_size += size;
  }
  for (std::size_t i = 0; i < config.layers; ++i) {
    const std::string prefix = "backbone.layers." + std::to_string(i) + ".";
    const auto at = [&](const char* name) { return offsetOf(prefix + name); };
    m_layers.push_back({.norm = at("norm.weight"),
                        .inProj = at("mixer.in_proj.weight"),
                        .conv = at("mixer.conv1d.weight"),
                        .convBias = config.convBias ? at("mixer.conv1d.bias") : 0,
                        .xProj = at("mixer.x_proj.weight"),
                        .dtProj = at("mixer.dt_proj.weight"),
                        .dtBias = at("mixer.dt_proj.bias"),
                        .decay = at("mixer.A_log"),
                        .skip = at("mixer.D"),
                        .outProj = at("mixer.out_proj.weight")});
  }
  m_embedding = offsetOf("backbone.embeddings.weight");
  m_finalNorm = offsetOf("backbone.norm_f.weight");
  m_head = config.tiedHead ? m_embedding : offsetOf("lm_head.weight");
}

std::size_t ParameterLayout::offsetOf(const std::string& name) const {
  return std::ranges::find(m_parameters, name, &Parameter::name)->offset;
}

Tensor ParameterWeights::tensor(const std::string& name, const Shape& shape) const {
  const auto& all = m_layout.parameters();
  const auto found = std::ranges::find(all, name, &Parameter::name);
  if (found == all.end() || found->shape != shape)
    throw FormatError(kInMemory, name, toString(shape),
                      found == all.end() ? "none" : toString(found->shape));
  return {kInMemory,
          name,
          DataType::Float32,
          shape,
          std::as_bytes(m_values.subspan(found->offset, found->size)),
          {}};
}

std::vector<float> readParameters(const ParameterLayout& layout, const WeightSource& source) {
  std::vector<float> values(layout.size());
  for (const Parameter& parameter : layout.parameters())
    source.tensor(parameter.name, parameter.shape)
        .read(0, std::span(values).subspan(parameter.offset, parameter.size));
  return values;
}

std::vector<float> initialParameters(const ParameterLayout& layout, std::uint64_t seed) {
  std::vector<float> values(layout.size());
  for (const Parameter& parameter : layout.parameters())
    initialise(layout.config(), parameter, seed,
               std::span(values).subspan(parameter.offset, parameter.size));
  return values;
}

void writeModel(const std::filesystem::path& folder, const ParameterLayout& layout,
                std::span<const float> parameters) {
  writeModel(folder, ParameterWeights(layout, parameters), DataType::Float32);
}

}  // namespace mb
