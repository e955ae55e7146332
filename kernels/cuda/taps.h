// Means of the tapped quantities over channels.
#pragma once

#include <cstdint>
#include <cuda_runtime_api.h>

#include "kernels/cuda/chunk.h"

namespace mb::cuda {

/// Where the means of some tokens go, on the device.
struct TapMeans {
  float* byLayer = nullptr;    ///< [tokens][3][L], over all channels; null when none are wanted
  float* byChannel = nullptr;  ///< [tokens][3][bins] of `layer`, over whole groups of 16 channels
  std::uint32_t layer = 0;
  std::uint32_t bins = 0;
};

/// The part of `means` from a token on.
TapMeans meansFrom(const DeviceWeights& weights, TapMeans means, std::uint32_t token);

/// Reduces the taps of a run of `tokens` tokens, all layers of them.
void reduceTaps(const DeviceWeights& weights, const Workspace& workspace, std::uint32_t tokens,
                const TapMeans& means, cudaStream_t stream);

inline constexpr std::uint32_t kSummedChannels = 8;

/// What the scan of a text leaves of a layer: Δ, ‖s‖ and mean Ā, each summed over kSummedChannels
/// channels. They lie where W_dt δ of those channels was.
struct TapSums {
  const float4* values = nullptr;  ///< of the first token's first channels
  std::uint32_t tokenStride = 0;   ///< from a token to the next, in values
  std::uint32_t channelStride = 0;
};

/// Reduces the sums of one layer, of `tokens` tokens.
void reduceTapSums(const DeviceWeights& weights, const TapSums& sums, std::uint32_t layer,
                   std::uint32_t tokens, const TapMeans& means, cudaStream_t stream);

}  // namespace mb::cuda
