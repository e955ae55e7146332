// The selective scan of one channel at one token, with kScanLanes threads on its states: what
// chunks and single tokens must do alike, bit for bit.
#pragma once

#include "kernels/cuda/chunk_arguments.cuh"
#include "kernels/cuda/math.cuh"

namespace mb::cuda {

/// Sums over the states that a thread has seen, then over all of the channel's.
struct ScanSums {
  float y = 0;        ///< s C
  float squares = 0;  ///< ‖s‖²
  float decays = 0;   ///< Σ Ā

  /// s = Ā s + Δ u' B for one state.
  __device__ void advance(float& s, float kept, float gained, float b, float c) {
    s = fmaf(kept, s, gained * b);
    y = fmaf(s, c, y);
    squares = fmaf(s, s, squares);
    decays += kept;
  }

  /// Adds what the channel's other threads have; for the taps only when they are wanted.
  __device__ void addLanes(bool taps) {
    for (int offset = 1; offset < kScanLanes; offset *= 2) {
      y += __shfl_xor_sync(~0u, y, offset);
      if (taps) {
        squares += __shfl_xor_sync(~0u, squares, offset);
        decays += __shfl_xor_sync(~0u, decays, offset);
      }
    }
  }

  /// `tap` is the channel's place in the first of the rows Δ, ‖s‖, mean Ā.
  __device__ void writeTaps(float* tap, int inner, float delta, int states) const {
    tap[0] = delta;
    tap[inner] = sqrtf(squares);
    tap[2 * inner] = decays / static_cast<float>(states);
  }
};

/// What addLanes() gives for as many tokens as a channel has lanes, in each lane that of one token:
/// the one with its number. A step halves the tokens that a lane still has.
__device__ inline ScanSums sumsOfLanes(const ScanSums (&tokens)[kScanLanes], bool taps) {
  static_assert(kScanLanes == 8);
  const auto total = [&](float ScanSums::*kind) {
    float pairs[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      pairs[i] = keptHalf<1>(tokens[2 * i].*kind, tokens[2 * i + 1].*kind);
    return keptHalf<4>(keptHalf<2>(pairs[0], pairs[1]), keptHalf<2>(pairs[2], pairs[3]));
  };
  ScanSums own;
  own.y = total(&ScanSums::y);
  if (taps) {
    own.squares = total(&ScanSums::squares);
    own.decays = total(&ScanSums::decays);
  }
  return own;
}

}  // namespace mb::cuda
