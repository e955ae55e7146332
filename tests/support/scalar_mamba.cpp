#include "tests/support/scalar_mamba.h"

#include <bit>
#include <cmath>

namespace mb::scalar {

namespace {

/// Nearest bfloat16, ties to even; written anew, not shared with the engine.
double roundToBfloat16(double value) {
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(value));
  const std::uint32_t below = bits & 0xffffu;
  std::uint32_t kept = bits >> 16;
  if (below > 0x8000u || (below == 0x8000u && (kept & 1))) ++kept;
  return std::bit_cast<float>(kept << 16);
}

Values load(const WeightSource& source, const std::string& name, const Shape& shape,
            bool rounded = false) {
  const Tensor tensor = source.tensor(name, shape);
  std::vector<float> stored(elementCount(shape));
  tensor.read(0, stored);
  Values values(stored.begin(), stored.end());
  if (rounded)
    for (double& value : values) value = roundToBfloat16(value);
  return values;
}

Values slice(const Values& values, std::size_t first, std::size_t count) {
  const auto begin = values.begin() + static_cast<std::ptrdiff_t>(first);
  return {begin, begin + static_cast<std::ptrdiff_t>(count)};
}

void add(Values& x, const Values& y) {
  for (std::size_t i = 0; i < y.size(); ++i) x[i] += y[i];
}

}  // namespace

Mamba::Mamba(const WeightSource& source, bool rounded) : m_config(source.config()) {
  const ModelConfig& c = m_config;
  const bool centered = c.norm == NormKind::Layer;
  for (std::size_t i = 0; i < c.layers; ++i) {
    const std::string prefix = "backbone.layers." + std::to_string(i) + ".";
    const std::string mixer = prefix + "mixer.";
    Layer layer;
    layer.norm = load(source, prefix + "norm.weight", {c.dModel});
    if (centered) layer.normBias = load(source, prefix + "norm.bias", {c.dModel});
    layer.inProj = load(source, mixer + "in_proj.weight", {2 * c.dInner, c.dModel}, rounded);
    layer.conv = load(source, mixer + "conv1d.weight", {c.dInner, 1, c.dConv});
    layer.convBias.resize(c.dInner);
    if (c.convBias) layer.convBias = load(source, mixer + "conv1d.bias", {c.dInner});
    layer.xProj =
        load(source, mixer + "x_proj.weight", {c.dtRank + 2 * c.dState, c.dInner}, rounded);
    layer.dtProj = load(source, mixer + "dt_proj.weight", {c.dInner, c.dtRank}, rounded);
    layer.dtBias = load(source, mixer + "dt_proj.bias", {c.dInner});
    layer.aLog = load(source, mixer + "A_log", {c.dInner, c.dState});
    layer.d = load(source, mixer + "D", {c.dInner});
    layer.outProj = load(source, mixer + "out_proj.weight", {c.dModel, c.dInner}, rounded);
    if (c.projectionBias) {
      layer.inBias = load(source, mixer + "in_proj.bias", {2 * c.dInner});
      layer.outBias = load(source, mixer + "out_proj.bias", {c.dModel});
    }
    m_layers.push_back(std::move(layer));
  }
  m_embedding = load(source, "backbone.embeddings.weight", {c.vocabSize, c.dModel}, rounded);
  m_head =
      c.tiedHead ? m_embedding : load(source, "lm_head.weight", {c.vocabSize, c.dModel}, rounded);
  m_norm = load(source, "backbone.norm_f.weight", {c.dModel});
  if (centered) m_normBias = load(source, "backbone.norm_f.bias", {c.dModel});
  m_hidden.assign(c.layers, std::vector<Values>(c.dInner, Values(c.dState)));
  m_inputs.assign(c.layers, std::vector<Values>(c.dInner, Values(c.dConv - 1)));
}

StepResult Mamba::step(Token token) {
  const ModelConfig& c = m_config;
  const bool centered = c.norm == NormKind::Layer;
  StepResult result;
  Values x = slice(m_embedding, static_cast<std::size_t>(token) * c.dModel, c.dModel);
  for (std::size_t i = 0; i < c.layers; ++i) {
    const Layer& layer = m_layers[i];
    LayerTaps taps;
    const Values h = norm(x, layer.norm, layer.normBias, c.normEpsilon, centered);
    add(x, runLayer(i, h, taps));
    result.layers.push_back(std::move(taps));
  }
  const Values h = norm(x, m_norm, m_normBias, c.normEpsilon, centered);
  result.logits = product(m_head, c.vocabSize, h);
  return result;
}

/// u' of every channel; the memory moves on by one input.
Values Mamba::convolveAll(std::size_t index, const Values& u) {
  const Layer& layer = m_layers[index];
  Values convolved;
  for (std::size_t channel = 0; channel < m_config.dInner; ++channel) {
    Values& memory = m_inputs[index][channel];
    memory.push_back(u[channel]);
    const Values weight = slice(layer.conv, channel * m_config.dConv, m_config.dConv);
    convolved.push_back(convolve(memory, weight, layer.convBias[channel]).front());
    memory.erase(memory.begin());
  }
  return convolved;
}

Values Mamba::runLayer(std::size_t index, const Values& h, LayerTaps& taps) {
  const ModelConfig& c = m_config;
  const Layer& layer = m_layers[index];
  Values uz = product(layer.inProj, 2 * c.dInner, h);
  add(uz, layer.inBias);
  const Values u = convolveAll(index, uz);
  const Values dbc = product(layer.xProj, c.dtRank + 2 * c.dState, u);
  Values delta = product(layer.dtProj, c.dInner, slice(dbc, 0, c.dtRank));
  add(delta, layer.dtBias);
  const std::vector<Values> b{slice(dbc, c.dtRank, c.dState)};
  const std::vector<Values> readout{slice(dbc, c.dtRank + c.dState, c.dState)};
  Values y;
  for (std::size_t channel = 0; channel < c.dInner; ++channel) {
    Values a = slice(layer.aLog, channel * c.dState, c.dState);
    for (double& value : a) value = -std::exp(value);
    const double step = softplus(delta[channel]);
    const Scan scanned = scan({step}, {u[channel]}, {uz[c.dInner + channel]}, b, readout, a,
                              layer.d[channel], m_hidden[index][channel]);
    m_hidden[index][channel] = scanned.state;
    y.push_back(scanned.y.front());
    taps.delta.push_back(step);
    taps.stateNorm.push_back(std::sqrt(scanned.stateSquared.front()));
    taps.decay.push_back(scanned.meanDecay.front());
  }
  Values out = product(layer.outProj, c.dModel, y);
  add(out, layer.outBias);
  return out;
}

}  // namespace mb::scalar
