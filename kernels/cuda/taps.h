// Means of the tapped quantities over channels.
#pragma once

#include <cstdint>
#include <cuda_runtime_api.h>

#include "kernels/cuda/chunk.h"

namespace mb::cuda {

/// Reduces the taps of a run of `tokens` tokens:
///   byLayer [tokens][3][L], over all channels;
///   byChannel [tokens][3][bins] of `layer`, over whole groups of 16 channels.
void reduceTaps(const DeviceWeights& weights, const Workspace& workspace, std::uint32_t tokens,
                std::uint32_t layer, std::uint32_t bins, float* byLayer, float* byChannel,
                cudaStream_t stream);

}  // namespace mb::cuda
