#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/taps.h"
#include "kernels/cuda/values.cuh"

namespace mb::cuda {

namespace {

constexpr std::uint32_t kKinds = 3;

struct TapArguments {
  const float* taps;  // [L][capacity][3][inner]
  std::uint32_t capacity;
  std::uint32_t inner;     // padded
  std::uint32_t channels;  // real
  std::uint32_t layers;
  TapMeans means;
};

/// The groups of 16 channels that bins begin with; one bin more than there are begins at the end.
__device__ std::uint32_t firstGroup(std::uint32_t groups, std::uint32_t bin, std::uint32_t bins) {
  return groups * bin / bins;
}

/// One warp a mean: blockIdx.x is a layer, or behind them a bin; y the token; z the kind.
__global__ void meanKernel(TapArguments a) {
  const bool isBin = blockIdx.x >= a.layers;
  const std::uint32_t layer = isBin ? a.means.layer : blockIdx.x;
  const std::uint32_t bin = blockIdx.x - a.layers;
  const std::uint32_t groups = a.inner / 16;
  const std::uint32_t bins = a.means.bins;
  const std::uint32_t begin = isBin ? firstGroup(groups, bin, bins) * 16 : 0;
  const std::uint32_t end =
      isBin ? min(firstGroup(groups, bin + 1, bins) * 16, a.channels) : a.channels;
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
    a.means.byChannel[row * bins + bin] = mean;
  else
    a.means.byLayer[row * a.layers + layer] = mean;
}

struct TapSumArguments {
  TapSums sums;
  std::uint32_t tokens;
  std::uint32_t inner;     // padded
  std::uint32_t channels;  // real
  std::uint32_t layers;
  std::uint32_t layer;  // that the sums are of
  TapMeans means;
};

constexpr std::uint32_t kSumWarps = 8;  // of a block
constexpr std::uint32_t kSumsOfGroup = 16 / kSummedChannels;

/// A warp takes a token: first the mean of all channels together, then a bin a thread.
__global__ void __launch_bounds__(kSumWarps * 32) sumKernel(TapSumArguments a) {
  const std::uint32_t token = blockIdx.x * kSumWarps + threadIdx.x / 32;
  const std::uint32_t lane = threadIdx.x % 32;
  if (token >= a.tokens) return;
  const float4* row = a.sums.values + std::size_t{token} * a.sums.tokenStride;
  const auto add = [&](float4& sum, std::uint32_t i) {
    sum = sum + row[std::size_t{i} * a.sums.channelStride];
  };
  const auto write = [&](float* to, std::uint32_t width, const float4& sum, std::uint32_t count) {
    const float all = static_cast<float>(count);
    const float kinds[kKinds] = {sum.x / all, sum.y / all, sum.z / all};
    for (std::uint32_t kind = 0; kind < kKinds; ++kind)
      to[(std::size_t{token} * kKinds + kind) * width] = kinds[kind];
  };
  float4 whole{0, 0, 0, 0};
  for (std::uint32_t i = lane; i < a.inner / kSummedChannels; i += 32) add(whole, i);
  whole = each([](float x) { return sumOfWarp(x); }, whole);
  if (lane == 0) write(a.means.byLayer + a.layer, a.layers, whole, a.channels);
  if (a.layer != a.means.layer) return;
  const std::uint32_t groups = a.inner / 16;
  for (std::uint32_t bin = lane; bin < a.means.bins; bin += 32) {
    const std::uint32_t begin = firstGroup(groups, bin, a.means.bins);
    const std::uint32_t end = firstGroup(groups, bin + 1, a.means.bins);
    float4 sum{0, 0, 0, 0};
    for (std::uint32_t i = begin * kSumsOfGroup; i < end * kSumsOfGroup; ++i) add(sum, i);
    write(a.means.byChannel + bin, a.means.bins, sum, min(end * 16, a.channels) - begin * 16);
  }
}

}  // namespace

TapMeans meansFrom(const DeviceWeights& weights, TapMeans means, std::uint32_t token) {
  if (!means.byLayer) return means;
  means.byLayer += std::size_t{token} * kKinds * weights.plan.dimensions().layers;
  means.byChannel += std::size_t{token} * kKinds * means.bins;
  return means;
}

void reduceTaps(const DeviceWeights& weights, const Workspace& workspace, std::uint32_t tokens,
                const TapMeans& means, cudaStream_t stream) {
  const Dimensions& d = weights.plan.dimensions();
  meanKernel<<<dim3(d.layers + means.bins, tokens, kKinds), 32, 0, stream>>>(
      {.taps = workspace.taps.data(),
       .capacity = workspace.tokens,
       .inner = weights.layout.paddedInner,
       .channels = d.inner,
       .layers = d.layers,
       .means = means});
  check(cudaGetLastError(), "reducing taps");
}

void reduceTapSums(const DeviceWeights& weights, const TapSums& sums, std::uint32_t layer,
                   std::uint32_t tokens, const TapMeans& means, cudaStream_t stream) {
  const Dimensions& d = weights.plan.dimensions();
  sumKernel<<<blocksFor(tokens, kSumWarps), kSumWarps * 32, 0, stream>>>(
      {.sums = sums,
       .tokens = tokens,
       .inner = weights.layout.paddedInner,
       .channels = d.inner,
       .layers = d.layers,
       .layer = layer,
       .means = means});
  check(cudaGetLastError(), "reducing taps");
}

}  // namespace mb::cuda
