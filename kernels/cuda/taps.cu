#include <algorithm>

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/taps.h"

namespace mb::cuda {

namespace {

constexpr std::uint32_t kKinds = 3;

struct TapArguments {
  const float* taps;  // [L][capacity][3][inner]
  std::uint32_t capacity;
  std::uint32_t inner;     // padded
  std::uint32_t channels;  // real
  std::uint32_t layers;
  std::uint32_t layer;
  std::uint32_t bins;
  float* byLayer;
  float* byChannel;
};

/// One warp a mean: blockIdx.x is a layer, or behind them a bin; y the token; z the kind.
__global__ void meanKernel(TapArguments a) {
  const bool isBin = blockIdx.x >= a.layers;
  const std::uint32_t layer = isBin ? a.layer : blockIdx.x;
  const std::uint32_t bin = blockIdx.x - a.layers;
  const std::uint32_t groups = a.inner / 16;
  const std::uint32_t begin = isBin ? groups * bin / a.bins * 16 : 0;
  const std::uint32_t end = isBin ? min(groups * (bin + 1) / a.bins * 16, a.channels) : a.channels;
  const float* values =
      a.taps +
      ((static_cast<std::size_t>(layer) * a.capacity + blockIdx.y) * kKinds + blockIdx.z) * a.inner;
  float sum = 0;
  for (std::uint32_t i = begin + threadIdx.x; i < end; i += 32) sum += values[i];
  sum = sumOfWarp(sum);
  if (threadIdx.x != 0) return;
  const std::size_t row = blockIdx.y * kKinds + blockIdx.z;
  const float mean = sum / static_cast<float>(end - begin);
  if (isBin)
    a.byChannel[row * a.bins + bin] = mean;
  else
    a.byLayer[row * a.layers + layer] = mean;
}

}  // namespace

void reduceTaps(const DeviceWeights& weights, const Workspace& workspace, std::uint32_t tokens,
                std::uint32_t layer, std::uint32_t bins, float* byLayer, float* byChannel,
                cudaStream_t stream) {
  const Dimensions& d = weights.plan.dimensions();
  const TapArguments arguments{workspace.taps.data(),
                               workspace.tokens,
                               weights.layout.paddedInner,
                               d.inner,
                               d.layers,
                               layer,
                               bins,
                               byLayer,
                               byChannel};
  meanKernel<<<dim3(d.layers + bins, tokens, kKinds), 32, 0, stream>>>(arguments);
  check(cudaGetLastError(), "reducing taps");
}

}  // namespace mb::cuda
