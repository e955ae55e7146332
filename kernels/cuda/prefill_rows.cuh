// Kernels of prefill that take rows of tokens: embedding, norm, convolution.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/chunk.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/values.cuh"

namespace mb::cuda {

inline constexpr std::uint32_t kRowThreads = 256;  ///< of kernels that take a token a block
inline constexpr std::uint32_t kConvTokens = 8;    ///< of one thread of the convolution

__device__ inline float sumOfBlock(float value) {
  __shared__ float sums[kRowThreads / 32];
  value = sumOfWarp(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (const float part : sums) sum += part;
  return sum;
}

struct EmbedArguments {
  const std::int32_t* tokens;
  const std::uint16_t* embedding;  // [planes][V][d]
  std::uint32_t planes;
  std::uint32_t vocabulary;
  std::uint32_t model;
  float* residual;
};

__global__ void embedKernel(EmbedArguments a) {
  const std::size_t token = static_cast<std::size_t>(a.tokens[blockIdx.x]);
  for (std::uint32_t k = 2 * threadIdx.x; k < a.model; k += 2 * blockDim.x) {
    float2 sum{0, 0};
    for (std::uint32_t plane = a.planes; plane-- > 0;) {
      const std::size_t at = (std::size_t{plane} * a.vocabulary + token) * a.model + k;
      const float2 part = pairAt(reinterpret_cast<const bf16*>(a.embedding) + at);
      sum.x += part.x;
      sum.y += part.y;
    }
    setPair(a.residual + std::size_t{blockIdx.x} * a.model + k, sum);
  }
}

struct NormArguments {
  float* residual;  // [tokens][stride]
  const float* weight;
  const float* addend;  // what the layer's output has for a bias, or null
  std::uint32_t model;
  std::uint32_t stride;
  float epsilon;
  bool layerNorm;
};

/// norm(x) without the norm's bias, which the projection behind it has; adds the bias of the
/// layer's output to the residual on the way.
template <class Value>
__global__ void normKernel(NormArguments a, Value* out) {
  float* row = a.residual + std::size_t{blockIdx.x} * a.stride;
  float sum = 0;
  if (a.layerNorm) {
    for (std::uint32_t k = threadIdx.x; k < a.model; k += blockDim.x) sum += row[k];
    sum = sumOfBlock(sum);
  }
  const float mean = sum / static_cast<float>(a.model);
  float squares = 0;
  for (std::uint32_t k = threadIdx.x; k < a.model; k += blockDim.x) {
    const float centred = row[k] - mean;
    squares = fmaf(centred, centred, squares);
  }
  squares = sumOfBlock(squares);
  const float scale = rsqrtf(squares / static_cast<float>(a.model) + a.epsilon);
  for (std::uint32_t k = 2 * threadIdx.x; k < a.stride; k += 2 * blockDim.x) {
    const float2 x = pairAt(row + k);
    const float2 w = pairAt(a.weight + k);  // zero behind the last
    setPair(out + std::size_t{blockIdx.x} * a.stride + k,
            {(x.x - mean) * scale * w.x, (x.y - mean) * scale * w.y});
    if (a.addend) {
      const float2 b = pairAt(a.addend + k);
      setPair(row + k, {x.x + b.x, x.y + b.y});
    }
  }
}

/// The first `count` values of rows.
template <class Value>
__global__ void narrowKernel(const float* from, std::uint32_t stride, std::uint32_t count,
                             std::uint32_t rows, Value* to) {
  const std::uint32_t i = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
  const std::uint32_t row = i / count;
  if (row < rows) setPair(to + i, pairAt(from + std::size_t{row} * stride + i % count));
}

__global__ void addBiasKernel(float* rows, const float* bias, std::uint32_t width,
                              std::uint32_t stride, std::size_t size) {
  const std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < size && i % stride < width) rows[i] += bias[i % stride];
}

struct ConvArguments {
  const float* channels;  // [field][inner]
  const float* memory;    // [k - 1][inner]
  std::uint32_t inner;
  std::uint32_t taps;
  std::uint32_t tokens;
};

/// u' = SiLU(conv(u)). A thread takes four channels of kConvTokens tokens. Models with fewer than
/// TAPS taps have zeros before theirs.
template <class Value, int TAPS>
__global__ void convKernel(ConvArguments a, const Value* __restrict__ expanded,
                           Value* __restrict__ out) {
  const std::uint32_t channel = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  if (channel >= a.inner) return;
  const int first = static_cast<int>(blockIdx.y * kConvTokens);
  const int memory = static_cast<int>(a.taps) - 1;
  const float4 none{0, 0, 0, 0};
  const auto field = [&](std::uint32_t f) { return quadAt(a.channels + f * a.inner + channel); };
  const float4 inBias = field(kInBiasU);
  const float4 bias = field(kConvBias);
  const auto inputAt = [&](int token) {
    if (token >= static_cast<int>(a.tokens) || token < -memory) return none;
    if (token < 0) return quadAt(a.memory + std::size_t(token + memory) * a.inner + channel);
    return quadAt(expanded + std::size_t(token) * 2 * a.inner + channel) + inBias;
  };
  float4 weights[TAPS];
#pragma unroll
  for (int tap = 0; tap < TAPS; ++tap) {
    const int own = tap - TAPS + static_cast<int>(a.taps);
    weights[tap] = own < 0 ? none : field(kConvWeights + own);
  }
  float4 inputs[TAPS - 1 + kConvTokens];
#pragma unroll
  for (int i = 0; i < TAPS - 1 + static_cast<int>(kConvTokens); ++i)
    inputs[i] = inputAt(first + i - TAPS + 1);
#pragma unroll
  for (int i = 0; i < static_cast<int>(kConvTokens); ++i) {
    if (first + i >= static_cast<int>(a.tokens)) return;
    float4 sum = bias;
#pragma unroll
    for (int tap = 0; tap < TAPS; ++tap) {
      sum.x = fmaf(weights[tap].x, inputs[i + tap].x, sum.x);
      sum.y = fmaf(weights[tap].y, inputs[i + tap].y, sum.y);
      sum.z = fmaf(weights[tap].z, inputs[i + tap].z, sum.z);
      sum.w = fmaf(weights[tap].w, inputs[i + tap].w, sum.w);
    }
    setQuad(out + std::size_t(first + i) * a.inner + channel, each(silu, sum));
  }
}

}  // namespace mb::cuda
