// The selective scan of training on the CPU, forward and backward, and the functions around it.
// Real is float or double. Values may differ in their last bits from one instruction set to the
// next; on one of them they depend on the arguments alone.
#pragma once

#include <cstddef>

namespace mb::cpu {

/// Channels that a tile has side by side.
inline constexpr std::size_t kTileChannels = 16;

/// Some tokens of 16 channels; every array's last dimension is the channels'.
template <class Real>
struct ScanTile {
  std::size_t tokens = 0;
  std::size_t states = 0;       ///< of a channel
  const Real* delta = nullptr;  ///< Δ [tokens][16]
  const Real* input = nullptr;  ///< u' [tokens][16]
  const Real* b = nullptr;      ///< B, one row of [states] a token; the same for all channels
  const Real* c = nullptr;      ///< C, likewise
  std::size_t bcStride = 0;     ///< from a token's B or C to the next one's
  const Real* rates = nullptr;  ///< A [states][16]
};

/// Derivatives of the loss by what a tile took.
template <class Real>
struct ScanTileGradient {
  Real* state = nullptr;  ///< [states][16]: by the last state, becomes that by the first
  Real* b = nullptr;      ///< [tokens][states][16], added to: the channels' shares
  Real* c = nullptr;      ///< likewise
  Real* rates = nullptr;  ///< [states][16], added to: by ln(-A)
  Real* delta = nullptr;  ///< [tokens][16], set
  Real* input = nullptr;  ///< [tokens][16], set
};

template <class Real>
struct TrainingOps {
  /// s = exp(Δ ⊗ A) ⊙ s + (Δ ⊙ u') ⊗ B and y = s C, token by token. `state` is [states][16] and
  /// goes on; `y` is [tokens][16].
  void (*scanForward)(const ScanTile<Real>& tile, Real* state, Real* y);
  /// The same states again, all of them: `states` is [tokens + 1][states][16], the first one given.
  /// `decays` becomes exp(Δ ⊗ A), [tokens][states][16].
  void (*scanAgain)(const ScanTile<Real>& tile, Real* states, Real* decays);
  /// Through the scan backwards, from `dy`, the derivative by y [tokens][16], with what scanAgain
  /// made.
  void (*scanBackward)(const ScanTile<Real>& tile, const Real* states, const Real* decays,
                       const Real* dy, const ScanTileGradient<Real>& gradient);
  /// y = 1 / (1 + exp(-x)) over `count` values; y may be x, here and in the next two.
  void (*sigmoid)(const Real* x, std::size_t count, Real* y);
  /// y = ln(1 + exp(x))
  void (*softplus)(const Real* x, std::size_t count, Real* y);
  /// y = 1 - exp(-x)
  void (*oneMinusExp)(const Real* x, std::size_t count, Real* y);
};

/// The operations of the fastest instruction set that this processor has.
template <class Real>
const TrainingOps<Real>& trainingOps();
template <>
const TrainingOps<float>& trainingOps();
template <>
const TrainingOps<double>& trainingOps();

}  // namespace mb::cpu
