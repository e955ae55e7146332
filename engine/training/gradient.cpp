#include "engine/training/gradient.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cblas.h>
#include <cmath>
#include <cstdint>
#include <utility>

#include "engine/error.h"

namespace mb {

namespace {

constexpr std::size_t kStateEvery = 32;  ///< tokens from one kept state to the next
constexpr std::size_t kHeadRows = 64;    ///< tokens whose logits are in memory at a time

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

template <class Real>
Real sigmoid(Real x) {
  return 1 / (1 + std::exp(-x));
}
template <class Real>
Real silu(Real x) {
  return x * sigmoid(x);
}
template <class Real>
Real siluSlope(Real x) {
  const Real s = sigmoid(x);
  return s * (1 + x * (1 - s));
}
template <class Real>
Real softplus(Real x) {
  return x > 20 ? x : std::log1p(std::exp(x));
}

/// e^x for x <= 0, to 2 units in the last place. Without branches or calls, so that loops over it
/// become vectors: 2^k times a polynomial of what is left (Cephes' expf).
inline float decayOf(float x) {
  x = std::max(x, -87.0f);
  constexpr float kRounding = 12582912.0f;  // 1.5 · 2^23
  const float k = (x * 1.44269504f + kRounding) - kRounding;
  const float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * std::bit_cast<float>((static_cast<std::int32_t>(k) + 127) << 23);
}
inline double decayOf(double x) {
  return std::exp(x);
}

/// Ā of a channel: e^(Δ A_n).
template <class Real>
void decays(Real delta, const Real* __restrict rates, std::size_t count, Real* __restrict kept) {
  for (std::size_t i = 0; i < count; ++i) kept[i] = decayOf(delta * rates[i]);
}

/// One channel's states: after = Ā ⊙ before + gained · B; `after` may be `before`.
template <class Real>
void advance(const Real* __restrict kept, const Real* before, Real gained, const Real* __restrict b,
             std::size_t count, Real* after) {
  for (std::size_t i = 0; i < count; ++i) after[i] = kept[i] * before[i] + gained * b[i];
}

template <class Real>
Real dot(const Real* a, const Real* b, std::size_t count) {
  Real sum = 0;
  for (std::size_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

/// What the backward scan does with the states of one channel at one token.
template <class Real>
struct ChannelBack {
  const Real* kept;    ///< Ā
  const Real* rates;   ///< A
  const Real* before;  ///< s of the token before
  const Real* after;   ///< s
  const Real* b;       ///< B
  const Real* c;       ///< C
  Real* ds;            ///< derivative by s; becomes that by the state before
  Real* db;            ///< added to, as are the next two
  Real* dc;
  Real* dRates;  ///< by A_log
};

/// Derivatives by Δ and u', where y's is `dy`.
template <class Real>
std::pair<Real, Real> scanBack(const ChannelBack<Real>& at, std::size_t count, Real dy, Real delta,
                               Real u) {
  Real* __restrict ds = at.ds;
  Real* __restrict db = at.db;
  Real* __restrict dc = at.dc;
  Real* __restrict dRates = at.dRates;
  const Real gained = delta * u;
  for (std::size_t i = 0; i < count; ++i) {
    ds[i] += dy * at.c[i];
    dc[i] += dy * at.after[i];
    db[i] += ds[i] * gained;
  }
  const Real along = dot(ds, at.b, count);
  Real dDelta = along * u;
  for (std::size_t i = 0; i < count; ++i) {
    const Real dKept = ds[i] * at.kept[i] * at.before[i] * at.rates[i];
    dDelta += dKept;
    dRates[i] += dKept * delta;
    ds[i] *= at.kept[i];
  }
  return {dDelta, along * delta};
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
  std::vector<Real> states;    ///< every kStateEvery tokens: [..][e][n]
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
  const std::size_t kept = (tokens + kStateEvery - 1) / kStateEvery;
  for (Layer& layer : m_layers) {
    layer.x.resize(tokens * m_d);
    layer.scale.resize(tokens);
    layer.expanded.resize(tokens * 2 * m_e);
    layer.sums.resize(tokens * m_e);
    layer.selected.resize(tokens * m_selected);
    layer.delta.resize(tokens * m_e);
    layer.y.resize(tokens * m_e);
    layer.states.resize(kept * m_e * m_n);
  }
  for (auto* values : {&m_x, &m_dx, &m_normed, &m_dNormed}) values->resize(tokens * m_d);
  for (auto* values : {&m_dConvolved, &m_dDelta, &m_gated, &m_dGated}) values->resize(tokens * m_e);
  m_finalScale.resize(tokens);
  m_logits.resize(kHeadRows * m_config.vocabSize);
  m_dExpanded.resize(tokens * 2 * m_e);
  m_dSelected.resize(tokens * m_selected);
  m_states.resize((kStateEvery + 1) * m_e * m_n);
  m_kept.resize(kStateEvery * m_e * m_n);
  m_rates.resize(m_e * m_n);
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

/// conv(u) with the inputs of the segment before; u' = SiLU of it goes to m_dConvolved for a while.
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
    for (std::size_t c = 0; c < m_e; ++c) m_dConvolved[t * m_e + c] = silu(sums[c]);
  }
  Real* out = segment.stateOut.data() + stateOffset(index);
  for (std::size_t i = 0; i < m_taps - 1; ++i)
    std::copy_n(inputAt(m_tokens + i), m_e, out + i * m_e);
}

/// δ, B, C and Δ of u', the selective scan, and its output times SiLU(z) in m_gated.
template <class Real>
void Backprop<Real>::scan(std::size_t index, const Segment<Real>& segment) {
  const LayerParameters& at = m_layout.layer(index);
  Layer& layer = m_layers[index];
  const std::vector<Real>& convolved = m_dConvolved;
  project<Real>({convolved.data(), m_tokens, m_e, m_e}, m_parameters + at.xProj,
                {layer.selected.data(), m_tokens, m_selected, m_selected});
  project<Real>({layer.selected.data(), m_tokens, m_rank, m_selected}, m_parameters + at.dtProj,
                {layer.delta.data(), m_tokens, m_e, m_e});
  const std::size_t memory = (m_taps - 1) * m_e;
  std::vector<Real> s(m_e * m_n);
  std::copy_n(segment.stateIn.data() + stateOffset(index) + memory, m_e * m_n, s.begin());
  takeRates(index);
  std::vector<Real> kept(m_n);
  for (std::size_t t = 0; t < m_tokens; ++t) {
    if (t % kStateEvery == 0) {
      checkStop();
      std::ranges::copy(
          s, layer.states.begin() + static_cast<std::ptrdiff_t>(t / kStateEvery * m_e * m_n));
    }
    const Real* b = layer.selected.data() + t * m_selected + m_rank;
    const Real* c = b + m_n;
    for (std::size_t channel = 0; channel < m_e; ++channel) {
      Real& delta = layer.delta[t * m_e + channel];
      delta = softplus(delta + m_parameters[at.dtBias + channel]);
      const Real u = convolved[t * m_e + channel];
      const Real gained = delta * u;
      Real y = m_parameters[at.skip + channel] * u;
      Real* state = s.data() + channel * m_n;
      decays(delta, m_rates.data() + channel * m_n, m_n, kept.data());
      advance(kept.data(), state, gained, b, m_n, state);
      y += dot(state, c, m_n);
      layer.y[t * m_e + channel] = y;
      m_gated[t * m_e + channel] = y * silu(layer.expanded[(2 * t + 1) * m_e + channel]);
    }
  }
  std::ranges::copy(
      s, segment.stateOut.begin() + static_cast<std::ptrdiff_t>(stateOffset(index) + memory));
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
  for (std::size_t t = 0; t < m_tokens; ++t)
    for (std::size_t c = 0; c < m_e; ++c)
      m_gated[t * m_e + c] = layer.y[t * m_e + c] * silu(layer.expanded[(2 * t + 1) * m_e + c]);
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

/// A = -exp(A_log) of a layer.
template <class Real>
void Backprop<Real>::takeRates(std::size_t index) {
  const Real* logarithms = m_parameters + m_layout.layer(index).decay;
  for (std::size_t i = 0; i < m_rates.size(); ++i) m_rates[i] = -std::exp(logarithms[i]);
}

/// The states of some tokens again, and Ā; the first state is that before them.
template <class Real>
void Backprop<Real>::remakeStates(std::size_t index, std::size_t first, std::size_t count,
                                  const std::vector<Real>& convolved) {
  const Layer& layer = m_layers[index];
  std::copy_n(layer.states.begin() + static_cast<std::ptrdiff_t>(first / kStateEvery * m_e * m_n),
              m_e * m_n, m_states.begin());
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t t = first + i;
    const Real* b = layer.selected.data() + t * m_selected + m_rank;
    for (std::size_t c = 0; c < m_e; ++c) {
      const Real delta = layer.delta[t * m_e + c];
      const Real* before = m_states.data() + (i * m_e + c) * m_n;
      Real* kept = m_kept.data() + (i * m_e + c) * m_n;
      decays(delta, m_rates.data() + c * m_n, m_n, kept);
      advance(kept, before, delta * convolved[t * m_e + c], b, m_n,
              m_states.data() + ((i + 1) * m_e + c) * m_n);
    }
  }
}

/// Through gate, scan, Δ and x_proj: derivatives by z in m_dExpanded and by u' in m_dConvolved.
template <class Real>
void Backprop<Real>::scanBack(std::size_t index, const Segment<Real>& segment) {
  const LayerParameters& at = m_layout.layer(index);
  const Layer& layer = m_layers[index];
  std::vector<Real> convolved(m_tokens * m_e);
  for (std::size_t i = 0; i < convolved.size(); ++i) convolved[i] = silu(layer.sums[i]);
  takeRates(index);
  std::vector<Real> ds(m_e * m_n);
  std::ranges::fill(m_dSelected, Real{0});
  for (std::size_t first = (m_tokens - 1) / kStateEvery * kStateEvery;; first -= kStateEvery) {
    checkStop();
    const std::size_t count = std::min(kStateEvery, m_tokens - first);
    remakeStates(index, first, count, convolved);
    for (std::size_t i = count; i-- > 0;) {
      const std::size_t t = first + i;
      const Real* b = layer.selected.data() + t * m_selected + m_rank;
      const Real* cOut = b + m_n;
      Real* db = m_dSelected.data() + t * m_selected + m_rank;
      Real* dc = db + m_n;
      const Real* before = m_states.data() + i * m_e * m_n;
      const Real* after = m_states.data() + (i + 1) * m_e * m_n;
      for (std::size_t c = 0; c < m_e; ++c) {
        const Real z = layer.expanded[(2 * t + 1) * m_e + c];
        const Real dGated = m_dGated[t * m_e + c];
        m_dExpanded[(2 * t + 1) * m_e + c] = dGated * layer.y[t * m_e + c] * siluSlope(z);
        const Real dy = dGated * silu(z);
        const Real delta = layer.delta[t * m_e + c];
        const Real u = convolved[t * m_e + c];
        m_gradient[at.skip + c] += dy * u;
        const auto [dDelta, du] = mb::scanBack<Real>({.kept = m_kept.data() + (i * m_e + c) * m_n,
                                                      .rates = m_rates.data() + c * m_n,
                                                      .before = before + c * m_n,
                                                      .after = after + c * m_n,
                                                      .b = b,
                                                      .c = cOut,
                                                      .ds = ds.data() + c * m_n,
                                                      .db = db,
                                                      .dc = dc,
                                                      .dRates = m_gradient + at.decay + c * m_n},
                                                     m_n, dy, delta, u);
        m_dConvolved[t * m_e + c] = du + dy * m_parameters[at.skip + c];
        // softplus' = sigmoid of its argument = 1 - exp(-Δ)
        const Real dSum = dDelta * -std::expm1(-delta);
        m_dDelta[t * m_e + c] = dSum;
        m_gradient[at.dtBias + c] += dSum;
      }
    }
    if (first == 0) break;
  }
  if (!segment.stateGradient.empty())
    std::ranges::copy(ds, segment.stateGradient.begin() +
                              static_cast<std::ptrdiff_t>(stateOffset(index) + (m_taps - 1) * m_e));
  projectBack<Real>({m_dDelta.data(), m_tokens, m_e, m_e}, m_parameters + at.dtProj,
                    {layer.selected.data(), m_tokens, m_rank, m_selected}, m_gradient + at.dtProj,
                    {m_dSelected.data(), m_tokens, m_rank, m_selected}, Real{0});
  projectBack<Real>({m_dSelected.data(), m_tokens, m_selected, m_selected}, m_parameters + at.xProj,
                    {convolved.data(), m_tokens, m_e, m_e}, m_gradient + at.xProj,
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
    for (std::size_t c = 0; c < m_e; ++c)
      m_dConvolved[t * m_e + c] *= siluSlope(layer.sums[t * m_e + c]);
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
