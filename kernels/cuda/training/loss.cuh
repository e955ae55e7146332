// Cross-entropy: from the logits of some rows to their losses and the derivatives by the logits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/training/values.cuh"

namespace mb::cuda::training {

struct LossArguments {
  const float* logits;          ///< [rows][stride]
  const std::int32_t* targets;  ///< [rows]; negative ones do not count
  float* losses;                ///< [rows]: -ln p(target)
  std::uint32_t rows;
  std::uint32_t vocabulary;
  std::uint32_t stride;
  float scale;  ///< that the derivatives are multiplied with
};

/// Over the threads of a block, in every thread.
template <int THREADS>
__device__ inline float largestOfThreads(float value) {
  for (int offset = 16; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(~0u, value, offset));
  if constexpr (THREADS > 32) {
    __shared__ float parts[THREADS / 32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    for (const float part : parts) value = fmaxf(value, part);
  }
  return value;
}

/// losses, and dLogits = scale · (softmax(logits) - target), zero in the padding. THREADS take a
/// row: a warp, or a block of its own. No derivatives when dLogits is null.
template <class Value, int THREADS>
__global__ void lossKernel(LossArguments a, Value* dLogits) {
  const std::uint32_t row =
      THREADS > 32 ? blockIdx.x : blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= a.rows) return;
  const std::uint32_t thread = threadIdx.x % THREADS;
  const float* logits = a.logits + std::size_t{row} * a.stride;
  float top = -INFINITY;
  for (std::uint32_t i = thread; i < a.vocabulary; i += THREADS) top = fmaxf(top, logits[i]);
  top = largestOfThreads<THREADS>(top);
  float total = 0;
  for (std::uint32_t i = thread; i < a.vocabulary; i += THREADS)
    total += power2(kLog2E * (logits[i] - top));
  total = sumOfThreads<THREADS>(total);
  const std::int32_t target = a.targets[row];
  const bool counts = target >= 0;
  if (thread == 0) a.losses[row] = counts ? logf(total) + (top - logits[target]) : 0.0f;
  if (!dLogits) return;
  const float share = counts ? a.scale / total : 0.0f;
  for (std::uint32_t i = thread; i < a.stride; i += THREADS) {
    const float p = i < a.vocabulary ? share * power2(kLog2E * (logits[i] - top)) : 0.0f;
    dLogits[std::size_t{row} * a.stride + i] =
        static_cast<Value>(static_cast<std::int32_t>(i) == target ? p - a.scale : p);
  }
}

}  // namespace mb::cuda::training
