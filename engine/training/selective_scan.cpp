#include "engine/training/selective_scan.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/error.h"

namespace mb {

namespace {

using cpu::kTileChannels;

constexpr std::size_t kTileTokens = 32;  ///< and from one kept state to the next

void expectNoStop(const std::stop_token& stop) {
  if (stop.stop_requested()) throw Stopped();
}

}  // namespace

template <class Real>
SelectiveScan<Real>::SelectiveScan(const ModelConfig& config)
    : m_ops(cpu::trainingOps<Real>()), m_e(config.dInner), m_n(config.dState) {
  for (auto* values : {&m_rates, &m_state, &m_dRates}) values->resize(blocks() * stateSize());
  for (auto* values : {&m_delta, &m_input, &m_y, &m_dDelta, &m_dInput})
    values->resize(kTileTokens * kTileChannels);
  for (auto* values : {&m_decays, &m_db, &m_dc}) values->resize(kTileTokens * stateSize());
  m_states.resize((kTileTokens + 1) * stateSize());
}

template <class Real>
std::size_t SelectiveScan<Real>::blocks() const {
  return (m_e + kTileChannels - 1) / kTileChannels;
}

template <class Real>
std::size_t SelectiveScan<Real>::widthOf(std::size_t block) const {
  return std::min(kTileChannels, m_e - block * kTileChannels);
}

/// [e][n] in blocks; channels that there are not stay as they were.
template <class Real>
void SelectiveScan<Real>::toBlocks(const Real* from, Real* to) const {
  for (std::size_t c = 0; c < m_e; ++c)
    for (std::size_t i = 0; i < m_n; ++i)
      to[(c / kTileChannels * m_n + i) * kTileChannels + c % kTileChannels] = from[c * m_n + i];
}

template <class Real>
void SelectiveScan<Real>::fromBlocks(const Real* from, Real* to) const {
  for (std::size_t c = 0; c < m_e; ++c)
    for (std::size_t i = 0; i < m_n; ++i)
      to[c * m_n + i] = from[(c / kTileChannels * m_n + i) * kTileChannels + c % kTileChannels];
}

/// Some tokens of a block's channels out of [T][e].
template <class Real>
void SelectiveScan<Real>::gather(const Real* from, std::size_t first, std::size_t count,
                                 std::size_t block, std::vector<Real>& tile) const {
  const std::size_t width = widthOf(block);
  from += first * m_e + block * kTileChannels;
  if (width < kTileChannels) std::ranges::fill(tile, Real{0});
  for (std::size_t t = 0; t < count; ++t)
    std::copy_n(from + t * m_e, width, tile.data() + t * kTileChannels);
}

template <class Real>
void SelectiveScan<Real>::scatter(const std::vector<Real>& tile, std::size_t first,
                                  std::size_t count, std::size_t block, Real* to) const {
  to += first * m_e + block * kTileChannels;
  for (std::size_t t = 0; t < count; ++t)
    std::copy_n(tile.data() + t * kTileChannels, widthOf(block), to + t * m_e);
}

template <class Real>
typename SelectiveScan<Real>::Tile SelectiveScan<Real>::tileOf(const ScanInputs<Real>& inputs,
                                                               std::size_t first, std::size_t count,
                                                               std::size_t block) {
  gather(inputs.delta, first, count, block, m_delta);
  gather(inputs.input, first, count, block, m_input);
  return {.tokens = count,
          .states = m_n,
          .delta = m_delta.data(),
          .input = m_input.data(),
          .b = inputs.b + first * inputs.bcStride,
          .c = inputs.c + first * inputs.bcStride,
          .bcStride = inputs.bcStride,
          .rates = m_rates.data() + block * stateSize()};
}

template <class Real>
void SelectiveScan<Real>::setRates(const Real* logarithms) {
  toBlocks(logarithms, m_rates.data());
  for (Real& rate : m_rates) rate = -std::exp(rate);
}

template <class Real>
void SelectiveScan<Real>::forward(const ScanInputs<Real>& inputs, const Real* stateIn,
                                  Real* stateOut, std::vector<Real>& kept, Real* y,
                                  const std::stop_token& stop) {
  kept.resize((inputs.tokens + kTileTokens - 1) / kTileTokens * m_state.size());
  toBlocks(stateIn, m_state.data());
  for (std::size_t first = 0; first < inputs.tokens; first += kTileTokens) {
    expectNoStop(stop);
    const std::size_t count = std::min(kTileTokens, inputs.tokens - first);
    std::ranges::copy(
        m_state, kept.begin() + static_cast<std::ptrdiff_t>(first / kTileTokens * m_state.size()));
    for (std::size_t block = 0; block < blocks(); ++block) {
      const Tile tile = tileOf(inputs, first, count, block);
      m_ops.scanForward(tile, m_state.data() + block * stateSize(), m_y.data());
      scatter(m_y, first, count, block, y);
    }
  }
  fromBlocks(m_state.data(), stateOut);
}

/// One tile, from m_y, the derivative by y; `state` is the one before the tile.
template <class Real>
void SelectiveScan<Real>::backwardBlock(const Tile& tile, const Real* state, std::size_t block) {
  std::copy_n(state, stateSize(), m_states.data());
  m_ops.scanAgain(tile, m_states.data(), m_decays.data());
  m_ops.scanBackward(tile, m_states.data(), m_decays.data(), m_y.data(),
                     {.state = m_state.data() + block * stateSize(),
                      .b = m_db.data(),
                      .c = m_dc.data(),
                      .rates = m_dRates.data() + block * stateSize(),
                      .delta = m_dDelta.data(),
                      .input = m_dInput.data()});
}

/// B and C are the same for all channels: their derivatives are the sums of the channels'.
template <class Real>
void SelectiveScan<Real>::addShares(const ScanGradient<Real>& gradient, std::size_t first,
                                    std::size_t count, std::size_t bcStride) {
  for (std::size_t t = 0; t < count; ++t) {
    for (std::size_t i = 0; i < m_n; ++i) {
      const std::size_t from = (t * m_n + i) * kTileChannels;
      const std::size_t to = (first + t) * bcStride + i;
      gradient.b[to] +=
          std::accumulate(m_db.data() + from, m_db.data() + from + kTileChannels, Real{0});
      gradient.c[to] +=
          std::accumulate(m_dc.data() + from, m_dc.data() + from + kTileChannels, Real{0});
    }
  }
}

template <class Real>
void SelectiveScan<Real>::backward(const ScanInputs<Real>& inputs, const std::vector<Real>& kept,
                                   const Real* dy, const ScanGradient<Real>& gradient,
                                   const std::stop_token& stop) {
  std::ranges::fill(m_state, Real{0});
  std::ranges::fill(m_dRates, Real{0});
  for (std::size_t first = (inputs.tokens - 1) / kTileTokens * kTileTokens;; first -= kTileTokens) {
    expectNoStop(stop);
    const std::size_t count = std::min(kTileTokens, inputs.tokens - first);
    const Real* states = kept.data() + first / kTileTokens * m_state.size();
    std::ranges::fill(m_db, Real{0});
    std::ranges::fill(m_dc, Real{0});
    for (std::size_t block = 0; block < blocks(); ++block) {
      const Tile tile = tileOf(inputs, first, count, block);
      gather(dy, first, count, block, m_y);
      backwardBlock(tile, states + block * stateSize(), block);
      scatter(m_dDelta, first, count, block, gradient.delta);
      scatter(m_dInput, first, count, block, gradient.input);
    }
    addShares(gradient, first, count, inputs.bcStride);
    if (first == 0) break;
  }
  std::vector<Real> byRates(m_e * m_n);
  fromBlocks(m_dRates.data(), byRates.data());
  for (std::size_t i = 0; i < byRates.size(); ++i) gradient.decay[i] += byRates[i];
  if (gradient.state) fromBlocks(m_state.data(), gradient.state);
}

template class SelectiveScan<float>;
template class SelectiveScan<double>;

}  // namespace mb
