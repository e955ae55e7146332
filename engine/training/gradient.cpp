#include "engine/training/gradient.h"

#include <algorithm>
#include <cassert>
#include <cblas.h>
#include <cmath>
#include <utility>

#include "engine/error.h"

namespace mb {

namespace {

constexpr std::size_t kHeadRows = 64;  ///< tokens whose logits are in memory at a time

int narrow(std::size_t extent) {
  return static_cast<int>(extent);
}

void gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, const float* a, int lda,
          const float* b, int ldb, float beta, float* c, int ldc) {
  cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, 1, a, lda, b, ldb, beta, c, ldc);
}
void gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, const double* a, int lda,
          const double* b, int ldb, double beta, double* c, int ldc) {
  cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, 1, a, lda, b, ldb, beta, c, ldc);
}

/// A matrix in memory whose rows lie `stride` values apart.
template <class Real>
struct Rows {
  Real* data;
  std::size_t rows;
  std::size_t columns;
  std::size_t stride;
};

/// to = from · weightsᵀ + keep · to.
template <class Real>
void project(Rows<const Real> from, const Real* weights, Rows<Real> to, Real keep = 0) {
  gemm(CblasNoTrans, CblasTrans, narrow(to.rows), narrow(to.columns), narrow(from.columns),
       from.data, narrow(from.stride), weights, narrow(from.columns), keep, to.data,
       narrow(to.stride));
}

/// The same product's derivatives: by what it took, dFrom = dTo · weights + keep · dFrom, and by
/// its weights, dWeights += dToᵀ · from.
template <class Real>
void projectBack(Rows<const Real> dTo, const Real* weights, Rows<const Real> from, Real* dWeights,
                 Rows<Real> dFrom, Real keep) {
  gemm(CblasNoTrans, CblasNoTrans, narrow(dFrom.rows), narrow(dFrom.columns), narrow(dTo.columns),
       dTo.data, narrow(dTo.stride), weights, narrow(from.columns), keep, dFrom.data,
       narrow(dFrom.stride));
  gemm(CblasTrans, CblasNoTrans, narrow(dTo.columns), narrow(from.columns), narrow(dTo.rows),
       dTo.data, narrow(dTo.stride), from.data, narrow(from.stride), Real{1}, dWeights,
       narrow(from.columns));
}

/// d SiLU(x) / dx, where `s` is the sigmoid of x.
template <class Real>
Real siluSlope(Real x, Real s) {
  return s * (1 + x * (1 - s));
}

/// y = x ⊙ w / rms(x), row by row; `scales` keeps 1 / rms(x).
template <class Real>
void normalise(const Real* x, const Real* weight, std::size_t rows, std::size_t width,
               double epsilon, Real* y, Real* scales) {
  for (std::size_t row = 0; row < rows; ++row, x += width, y += width) {
    Real squares = 0;
    for (std::size_t i = 0; i < width; ++i) squares += x[i] * x[i];
    const Real scale =
        1 / std::sqrt(squares / static_cast<Real>(width) + static_cast<Real>(epsilon));
    scales[row] = scale;
    for (std::size_t i = 0; i < width; ++i) y[i] = x[i] * scale * weight[i];
  }
}

/// Adds the norm's derivatives to dx and dWeight.
template <class Real>
void normaliseBack(const Real* dy, const Real* x, const Real* weight, const Real* scales,
                   std::size_t rows, std::size_t width, Real* dx, Real* dWeight) {
  for (std::size_t row = 0; row < rows; ++row, dy += width, x += width, dx += width) {
    const Real scale = scales[row];
    Real along = 0;
    for (std::size_t i = 0; i < width; ++i) {
      along += dy[i] * weight[i] * x[i];
      dWeight[i] += dy[i] * x[i] * scale;
    }
    along *= scale * scale / static_cast<Real>(width);
    for (std::size_t i = 0; i < width; ++i) dx[i] += scale * (dy[i] * weight[i] - along * x[i]);
  }
}

}  // namespace

template <class Real>
std::vector<Real> emptyState(const ModelConfig& config) {
  return std::vector<Real>(config.layers * config.dInner * (config.dConv - 1 + config.dState));
}

/// What the backward pass needs of a layer.
template <class Real>
struct Backprop<Real>::Layer {
  std::vector<Real> x;         ///< [T][d]: what comes in
  std::vector<Real> scale;     ///< [T], of the norm
  std::vector<Real> expanded;  ///< [T][2e]: u, z
  std::vector<Real> sums;      ///< [T][e]: conv(u), before SiLU
  std::vector<Real> selected;  ///< [T][r + 2n]: δ, B, C
  std::vector<Real> delta;     ///< [T][e]: Δ
  std::vector<Real> y;         ///< [T][e]: before the gate
  std::vector<Real> states;    ///< what the scan's backward pass needs
};

template <class Real>
Backprop<Real>::Backprop(const ParameterLayout& layout)
    : m_layout(layout),
      m_config(layout.config()),
      m_d(m_config.dModel),
      m_e(m_config.dInner),
      m_n(m_config.dState),
      m_taps(m_config.dConv),
      m_rank(m_config.dtRank),
      m_selected(m_rank + 2 * m_n),
      m_ops(cpu::trainingOps<Real>()),
      m_scan(m_config),
      m_layers(m_config.layers) {}

template <class Real>
Backprop<Real>::Backprop(Backprop&& other) noexcept = default;
template <class Real>
Backprop<Real>::~Backprop() = default;

template <class Real>
std::size_t Backprop<Real>::stateOffset(std::size_t layer) const {
  return layer * m_config.dInner * (m_config.dConv - 1 + m_config.dState);
}

template <class Real>
void Backprop<Real>::resize(std::size_t tokens) {
  if (tokens == m_tokens) return;
  m_tokens = tokens;
  for (Layer& layer : m_layers) {
    layer.x.resize(tokens * m_d);
    layer.scale.resize(tokens);
    layer.expanded.resize(tokens * 2 * m_e);
    layer.sums.resize(tokens * m_e);
    layer.selected.resize(tokens * m_selected);
    layer.delta.resize(tokens * m_e);
    layer.y.resize(tokens * m_e);
  }
  for (auto* values : {&m_x, &m_dx, &m_normed, &m_dNormed}) values->resize(tokens * m_d);
  for (auto* values : {&m_convolved, &m_dConvolved, &m_dDelta, &m_gated, &m_dGated, &m_dy})
    values->resize(tokens * m_e);
  m_finalScale.resize(tokens);
  m_logits.resize(kHeadRows * m_config.vocabSize);
  m_dExpanded.resize(tokens * 2 * m_e);
  m_dSelected.resize(tokens * m_selected);
  m_sigmoid.resize(m_e);
}

template <class Real>
Real Backprop<Real>::run(std::span<const Real> parameters, const Segment<Real>& segment, Real scale,
                         std::stop_token stop) {
  assert(parameters.size() == m_layout.size() && segment.inputs.size() == segment.targets.size());
  m_parameters = parameters.data();
  m_gradient = segment.gradient.empty() ? nullptr : segment.gradient.data();
  m_stop = std::move(stop);
  resize(segment.inputs.size());
  for (std::size_t t = 0; t < m_tokens; ++t)
    std::copy_n(
        m_parameters + m_layout.embedding() + static_cast<std::size_t>(segment.inputs[t]) * m_d,
        m_d, m_x.begin() + static_cast<std::ptrdiff_t>(t * m_d));
  // States are read layer by layer before they are written, so both may be the same.
  const std::vector<Real> before(segment.stateIn.begin(), segment.stateIn.end());
  Segment<Real> own = segment;
  own.stateIn = before;
  for (std::size_t i = 0; i < m_config.layers; ++i) forward(i, own);
  const Real loss = head(own, scale);
  if (!m_gradient) return loss;
  for (std::size_t i = m_config.layers; i-- > 0;) backward(i, own);
  for (std::size_t t = 0; t < m_tokens; ++t) {
    Real* to =
        m_gradient + m_layout.embedding() + static_cast<std::size_t>(segment.inputs[t]) * m_d;
    for (std::size_t i = 0; i < m_d; ++i) to[i] += m_dx[t * m_d + i];
  }
  return loss;
}

template <class Real>
void Backprop<Real>::checkStop() const {
  if (m_stop.stop_requested()) throw Stopped();
}

/// x += block(norm(x)), keeping what backward() needs.
template <class Real>
void Backprop<Real>::forward(std::size_t index, const Segment<Real>& segment) {
  const LayerParameters& at = m_layout.layer(index);
  Layer& layer = m_layers[index];
  layer.x = m_x;
  normalise(m_x.data(), m_parameters + at.norm, m_tokens, m_d, m_config.normEpsilon,
            m_normed.data(), layer.scale.data());
  project<Real>({m_normed.data(), m_tokens, m_d, m_d}, m_parameters + at.inProj,
                {layer.expanded.data(), m_tokens, 2 * m_e, 2 * m_e});
  convolve(index, segment);
  scan(index, segment);
  project<Real>({m_gated.data(), m_tokens, m_e, m_e}, m_parameters + at.outProj,
                {m_x.data(), m_tokens, m_d, m_d}, Real{1});
}

/// conv(u) with the inputs of the segment before.
template <class Real>
void Backprop<Real>::convolve(std::size_t index, const Segment<Real>& segment) {
  const LayerParameters& at = m_layout.layer(index);
  Layer& layer = m_layers[index];
  const Real* memory = segment.stateIn.data() + stateOffset(index);
  const auto inputAt = [&](std::size_t position) {  // counted from the oldest remembered
    return position < m_taps - 1 ? memory + position * m_e
                                 : layer.expanded.data() + (position - (m_taps - 1)) * 2 * m_e;
  };
  for (std::size_t t = 0; t < m_tokens; ++t) {
    Real* sums = layer.sums.data() + t * m_e;
    for (std::size_t c = 0; c < m_e; ++c)
      sums[c] = m_config.convBias ? m_parameters[at.convBias + c] : Real{0};
    for (std::size_t tap = 0; tap < m_taps; ++tap) {
      const Real* input = inputAt(t + tap);
      const Real* weight = m_parameters + at.conv + tap;
      for (std::size_t c = 0; c < m_e; ++c) sums[c] += weight[c * m_taps] * input[c];
    }
  }
  Real* out = segment.stateOut.data() + stateOffset(index);
  for (std::size_t i = 0; i < m_taps - 1; ++i)
    std::copy_n(inputAt(m_tokens + i), m_e, out + i * m_e);
}

/// u' = SiLU(conv(u)), in m_convolved.
template <class Real>
void Backprop<Real>::activate(const Layer& layer) {
  m_ops.sigmoid(layer.sums.data(), layer.sums.size(), m_convolved.data());
  for (std::size_t i = 0; i < layer.sums.size(); ++i) m_convolved[i] *= layer.sums[i];
}

/// y ⊙ SiLU(z), in m_gated.
template <class Real>
void Backprop<Real>::gate(const Layer& layer) {
  for (std::size_t t = 0; t < m_tokens; ++t) {
    const Real* z = layer.expanded.data() + (2 * t + 1) * m_e;
    m_ops.sigmoid(z, m_e, m_sigmoid.data());
    for (std::size_t c = 0; c < m_e; ++c)
      m_gated[t * m_e + c] = layer.y[t * m_e + c] * z[c] * m_sigmoid[c];
  }
}

template <class Real>
ScanInputs<Real> Backprop<Real>::scanInputs(const Layer& layer) const {
  return {.tokens = m_tokens,
          .delta = layer.delta.data(),
          .input = m_convolved.data(),
          .b = layer.selected.data() + m_rank,
          .c = layer.selected.data() + m_rank + m_n,
          .bcStride = m_selected};
}

/// δ, B, C and Δ of u', the selective scan, and its output times SiLU(z) in m_gated.
template <class Real>
void Backprop<Real>::scan(std::size_t index, const Segment<Real>& segment) {
  const LayerParameters& at = m_layout.layer(index);
  Layer& layer = m_layers[index];
  activate(layer);
  project<Real>({m_convolved.data(), m_tokens, m_e, m_e}, m_parameters + at.xProj,
                {layer.selected.data(), m_tokens, m_selected, m_selected});
  project<Real>({layer.selected.data(), m_tokens, m_rank, m_selected}, m_parameters + at.dtProj,
                {layer.delta.data(), m_tokens, m_e, m_e});
  for (std::size_t t = 0; t < m_tokens; ++t)
    for (std::size_t c = 0; c < m_e; ++c) layer.delta[t * m_e + c] += m_parameters[at.dtBias + c];
  m_ops.softplus(layer.delta.data(), layer.delta.size(), layer.delta.data());
  const std::size_t state = stateOffset(index) + (m_taps - 1) * m_e;
  m_scan.setRates(m_parameters + at.decay);
  m_scan.forward(scanInputs(layer), segment.stateIn.data() + state, segment.stateOut.data() + state,
                 layer.states, layer.y.data(), m_stop);
  for (std::size_t t = 0; t < m_tokens; ++t)
    for (std::size_t c = 0; c < m_e; ++c)
      layer.y[t * m_e + c] += m_parameters[at.skip + c] * m_convolved[t * m_e + c];
  gate(layer);
}

/// Loss of all tokens, and its derivative by x in m_dx; logits of a few tokens at a time.
template <class Real>
Real Backprop<Real>::head(const Segment<Real>& segment, Real scale) {
  const std::size_t vocabulary = m_config.vocabSize;
  const Real* weights = m_parameters + m_layout.head();
  normalise(m_x.data(), m_parameters + m_layout.finalNorm(), m_tokens, m_d, m_config.normEpsilon,
            m_normed.data(), m_finalScale.data());
  Real loss = 0;
  for (std::size_t first = 0; first < m_tokens; first += kHeadRows) {
    checkStop();
    const std::size_t rows = std::min(kHeadRows, m_tokens - first);
    project<Real>({m_normed.data() + first * m_d, rows, m_d, m_d}, weights,
                  {m_logits.data(), rows, vocabulary, vocabulary});
    for (std::size_t row = 0; row < rows; ++row) {
      Real* logits = m_logits.data() + row * vocabulary;
      if (segment.targets[first + row] == kNoTarget) {
        std::fill_n(logits, vocabulary, Real{0});
        continue;
      }
      const auto target = static_cast<std::size_t>(segment.targets[first + row]);
      const Real top = *std::max_element(logits, logits + vocabulary);
      const Real wanted = logits[target] - top;
      Real total = 0;
      for (std::size_t i = 0; i < vocabulary; ++i) total += logits[i] = std::exp(logits[i] - top);
      loss += scale * (std::log(total) - wanted);
      for (std::size_t i = 0; i < vocabulary; ++i) logits[i] *= scale / total;
      logits[target] -= scale;
    }
    if (m_gradient)
      projectBack<Real>({m_logits.data(), rows, vocabulary, vocabulary}, weights,
                        {m_normed.data() + first * m_d, rows, m_d, m_d},
                        m_gradient + m_layout.head(),
                        {m_dNormed.data() + first * m_d, rows, m_d, m_d}, Real{0});
  }
  if (!m_gradient) return loss;
  std::ranges::fill(m_dx, Real{0});
  normaliseBack(m_dNormed.data(), m_x.data(), m_parameters + m_layout.finalNorm(),
                m_finalScale.data(), m_tokens, m_d, m_dx.data(), m_gradient + m_layout.finalNorm());
  return loss;
}

/// From the derivative by what the layer adds to, m_dx, to that by what it took, in place.
template <class Real>
void Backprop<Real>::backward(std::size_t index, const Segment<Real>& segment) {
  const LayerParameters& at = m_layout.layer(index);
  const Layer& layer = m_layers[index];
  gate(layer);
  projectBack<Real>({m_dx.data(), m_tokens, m_d, m_d}, m_parameters + at.outProj,
                    {m_gated.data(), m_tokens, m_e, m_e}, m_gradient + at.outProj,
                    {m_dGated.data(), m_tokens, m_e, m_e}, Real{0});
  scanBack(index, segment);
  convolveBack(index, segment);
  normalise(layer.x.data(), m_parameters + at.norm, m_tokens, m_d, m_config.normEpsilon,
            m_normed.data(), m_finalScale.data());
  projectBack<Real>({m_dExpanded.data(), m_tokens, 2 * m_e, 2 * m_e}, m_parameters + at.inProj,
                    {m_normed.data(), m_tokens, m_d, m_d}, m_gradient + at.inProj,
                    {m_dNormed.data(), m_tokens, m_d, m_d}, Real{0});
  normaliseBack(m_dNormed.data(), layer.x.data(), m_parameters + at.norm, layer.scale.data(),
                m_tokens, m_d, m_dx.data(), m_gradient + at.norm);
}

/// Through y ⊙ SiLU(z) and the D of y: derivatives by z in m_dExpanded, by y in m_dy.
template <class Real>
void Backprop<Real>::gateBack(std::size_t index) {
  const Layer& layer = m_layers[index];
  Real* dSkip = m_gradient + m_layout.layer(index).skip;
  for (std::size_t t = 0; t < m_tokens; ++t) {
    const Real* z = layer.expanded.data() + (2 * t + 1) * m_e;
    Real* dz = m_dExpanded.data() + (2 * t + 1) * m_e;
    m_ops.sigmoid(z, m_e, m_sigmoid.data());
    for (std::size_t c = 0; c < m_e; ++c) {
      const std::size_t i = t * m_e + c;
      dz[c] = m_dGated[i] * layer.y[i] * siluSlope(z[c], m_sigmoid[c]);
      m_dy[i] = m_dGated[i] * z[c] * m_sigmoid[c];
      dSkip[c] += m_dy[i] * m_convolved[i];
    }
  }
}

/// Through gate, scan, Δ and x_proj: derivatives by z in m_dExpanded and by u' in m_dConvolved.
template <class Real>
void Backprop<Real>::scanBack(std::size_t index, const Segment<Real>& segment) {
  const LayerParameters& at = m_layout.layer(index);
  const Layer& layer = m_layers[index];
  activate(layer);
  gateBack(index);
  std::ranges::fill(m_dSelected, Real{0});
  m_scan.setRates(m_parameters + at.decay);
  const std::size_t state = stateOffset(index) + (m_taps - 1) * m_e;
  m_scan.backward(
      scanInputs(layer), layer.states, m_dy.data(),
      {.delta = m_dDelta.data(),
       .input = m_dConvolved.data(),
       .b = m_dSelected.data() + m_rank,
       .c = m_dSelected.data() + m_rank + m_n,
       .decay = m_gradient + at.decay,
       .state = segment.stateGradient.empty() ? nullptr : segment.stateGradient.data() + state},
      m_stop);
  for (std::size_t t = 0; t < m_tokens; ++t) {
    // softplus' = sigmoid of its argument = 1 - exp(-Δ)
    m_ops.oneMinusExp(layer.delta.data() + t * m_e, m_e, m_sigmoid.data());
    for (std::size_t c = 0; c < m_e; ++c) {
      const std::size_t i = t * m_e + c;
      m_dConvolved[i] += m_dy[i] * m_parameters[at.skip + c];
      m_dDelta[i] *= m_sigmoid[c];
      m_gradient[at.dtBias + c] += m_dDelta[i];
    }
  }
  projectBack<Real>({m_dDelta.data(), m_tokens, m_e, m_e}, m_parameters + at.dtProj,
                    {layer.selected.data(), m_tokens, m_rank, m_selected}, m_gradient + at.dtProj,
                    {m_dSelected.data(), m_tokens, m_rank, m_selected}, Real{0});
  projectBack<Real>({m_dSelected.data(), m_tokens, m_selected, m_selected}, m_parameters + at.xProj,
                    {m_convolved.data(), m_tokens, m_e, m_e}, m_gradient + at.xProj,
                    {m_dConvolved.data(), m_tokens, m_e, m_e}, Real{1});
}

/// Through SiLU and convolution: the derivative by u in m_dExpanded.
template <class Real>
void Backprop<Real>::convolveBack(std::size_t index, const Segment<Real>& segment) {
  const LayerParameters& at = m_layout.layer(index);
  const Layer& layer = m_layers[index];
  const Real* memory = segment.stateIn.data() + stateOffset(index);
  std::vector<Real> dMemory((m_taps - 1) * m_e);
  for (std::size_t t = 0; t < m_tokens; ++t)
    std::fill_n(m_dExpanded.begin() + static_cast<std::ptrdiff_t>(2 * t * m_e), m_e, Real{0});
  for (std::size_t t = 0; t < m_tokens; ++t) {
    const Real* sums = layer.sums.data() + t * m_e;
    m_ops.sigmoid(sums, m_e, m_sigmoid.data());
    for (std::size_t c = 0; c < m_e; ++c)
      m_dConvolved[t * m_e + c] *= siluSlope(sums[c], m_sigmoid[c]);
    const Real* dSums = m_dConvolved.data() + t * m_e;
    if (m_config.convBias)
      for (std::size_t c = 0; c < m_e; ++c) m_gradient[at.convBias + c] += dSums[c];
    for (std::size_t tap = 0; tap < m_taps; ++tap) {
      const std::size_t position = t + tap;  // counted from the oldest remembered
      const bool remembered = position < m_taps - 1;
      const std::size_t row = remembered ? position * m_e : 2 * (position - (m_taps - 1)) * m_e;
      const Real* input = (remembered ? memory : layer.expanded.data()) + row;
      Real* dInput = (remembered ? dMemory.data() : m_dExpanded.data()) + row;
      for (std::size_t c = 0; c < m_e; ++c) {
        m_gradient[at.conv + c * m_taps + tap] += dSums[c] * input[c];
        dInput[c] += dSums[c] * m_parameters[at.conv + c * m_taps + tap];
      }
    }
  }
  if (!segment.stateGradient.empty())
    std::ranges::copy(
        dMemory, segment.stateGradient.begin() + static_cast<std::ptrdiff_t>(stateOffset(index)));
}

template std::vector<float> emptyState<float>(const ModelConfig&);
template std::vector<double> emptyState<double>(const ModelConfig&);
template class Backprop<float>;
template class Backprop<double>;

}  // namespace mb
