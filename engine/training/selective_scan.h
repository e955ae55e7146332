// The selective scan of a layer over a segment, forward and backward.
#pragma once

#include <cstddef>
#include <span>
#include <stop_token>
#include <vector>

#include "engine/checkpoint/model_config.h"
#include "kernels/cpu/training_scan.h"

namespace mb {

/// What the scan takes of a segment of T tokens.
template <class Real>
struct ScanInputs {
  std::size_t tokens = 0;
  const Real* delta = nullptr;  ///< Δ [T][e]
  const Real* input = nullptr;  ///< u' [T][e]
  const Real* b = nullptr;      ///< B [T][n], rows `bcStride` apart
  const Real* c = nullptr;      ///< C, likewise
  std::size_t bcStride = 0;
};

/// Derivatives of the loss by what the scan took.
template <class Real>
struct ScanGradient {
  Real* delta = nullptr;  ///< [T][e], set
  Real* input = nullptr;  ///< [T][e], set
  Real* b = nullptr;      ///< [T][n], rows as those of B, added to
  Real* c = nullptr;      ///< likewise
  Real* decay = nullptr;  ///< by A_log [e][n], added to
  Real* state = nullptr;  ///< by the state before the segment [e][n], set; or null
};

/// y = s C with s = exp(Δ ⊗ A) ⊙ s + (Δ ⊙ u') ⊗ B, in Real = float or double. Works on tiles of 16
/// channels and a few tokens: the states of all tokens are never in memory at once, those of every
/// 32nd are kept from the forward pass for the backward one.
template <class Real>
class SelectiveScan {
 public:
  explicit SelectiveScan(const ModelConfig& config);

  /// A = -exp(A_log); `logarithms` is [e][n].
  void setRates(const Real* logarithms);
  /// Sets y [T][e], and `stateOut` from `stateIn`, both [e][n], which may be the same. `kept` takes
  /// what backward() needs. Throws Stopped.
  void forward(const ScanInputs<Real>& inputs, const Real* stateIn, Real* stateOut,
               std::vector<Real>& kept, Real* y, const std::stop_token& stop);
  /// From `dy`, the derivative by y [T][e]. The state after the segment has none: gradients end
  /// there. Throws Stopped.
  void backward(const ScanInputs<Real>& inputs, const std::vector<Real>& kept, const Real* dy,
                const ScanGradient<Real>& gradient, const std::stop_token& stop);

 private:
  using Tile = cpu::ScanTile<Real>;

  std::size_t blocks() const;
  std::size_t widthOf(std::size_t block) const;
  std::size_t stateSize() const { return m_n * cpu::kTileChannels; }
  void toBlocks(const Real* from, Real* to) const;
  void fromBlocks(const Real* from, Real* to) const;
  void gather(const Real* from, std::size_t first, std::size_t count, std::size_t block,
              std::vector<Real>& tile) const;
  void scatter(const std::vector<Real>& tile, std::size_t first, std::size_t count,
               std::size_t block, Real* to) const;
  Tile tileOf(const ScanInputs<Real>& inputs, std::size_t first, std::size_t count,
              std::size_t block);
  void backwardBlock(const Tile& tile, const Real* state, std::size_t block);
  void addShares(const ScanGradient<Real>& gradient, std::size_t first, std::size_t count,
                 std::size_t bcStride);

  const cpu::TrainingOps<Real>& m_ops;
  std::size_t m_e;            ///< channels
  std::size_t m_n;            ///< states of a channel
  std::vector<Real> m_rates;  ///< A, here and below in blocks [e / 16][n][16]
  std::vector<Real> m_state;
  std::vector<Real> m_dRates;  ///< by A_log
  std::vector<Real> m_delta;   ///< of a tile [tokens][16], as are the next three
  std::vector<Real> m_input;
  std::vector<Real> m_y;  ///< or its derivative
  std::vector<Real> m_dDelta;
  std::vector<Real> m_dInput;
  std::vector<Real> m_states;  ///< of a tile [tokens + 1][n][16]
  std::vector<Real> m_decays;  ///< [tokens][n][16], as are the next two
  std::vector<Real> m_db;      ///< of all blocks
  std::vector<Real> m_dc;
};

}  // namespace mb
