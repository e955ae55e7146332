// Sums over rows, in the same order every time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/training/values.cuh"

namespace mb::cuda::training {

inline constexpr int kSumColumns = 32;  ///< of a block
inline constexpr int kSumThreads = 8;   ///< that share a column

/// to[column] += Σ rows[..][column].
inline __global__ void sumRowsKernel(const float* __restrict__ rows, std::uint32_t count,
                                     std::uint32_t columns, float* to) {
  __shared__ float parts[kSumThreads][kSumColumns];
  const std::uint32_t column = blockIdx.x * kSumColumns + threadIdx.x;
  float sum = 0;
  if (column < columns)
    for (std::uint32_t row = threadIdx.y; row < count; row += kSumThreads)
      sum += rows[std::size_t{row} * columns + column];
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || column >= columns) return;
  for (int i = 1; i < kSumThreads; ++i) sum += parts[i][threadIdx.x];
  to[column] += sum;
}

/// Derivatives by B and C, summed over the blocks of the backward scan, behind those by δ. A thread
/// takes four values.
template <class Value>
__global__ void sumSelectedKernel(const Value* __restrict__ parts, std::uint32_t blocks,
                                  std::size_t rows, std::uint32_t columns, Value* selected,
                                  std::uint32_t rank) {
  const std::size_t i = 4 * (std::size_t{blockIdx.x} * blockDim.x + threadIdx.x);
  if (i >= rows * columns) return;
  float4 sum{0, 0, 0, 0};
  for (std::uint32_t block = 0; block < blocks; ++block)
    sum = sum + quadAt(parts + block * rows * columns + i);
  setQuad(selected + i / columns * (rank + columns) + rank + i % columns, sum);
}

/// to[0] (+)= Σ values, in one block.
template <class Value>
__global__ void sumAllKernel(const Value* values, std::size_t count, bool add, double* to) {
  constexpr int kThreads = 1024;
  __shared__ double parts[kThreads];
  double sum = 0;
  for (std::size_t i = threadIdx.x; i < count; i += kThreads) sum += static_cast<double>(values[i]);
  parts[threadIdx.x] = sum;
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *to = (add ? *to : 0.0) + parts[0];
}

}  // namespace mb::cuda::training
