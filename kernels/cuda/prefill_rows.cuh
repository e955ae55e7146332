// Kernels of prefill that take rows of tokens: embedding, norm, convolution.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/chunk.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/values.cuh"

namespace mb::cuda {

inline constexpr std::uint32_t kNormRows = 8;    ///< of a block of the norm
inline constexpr std::uint32_t kConvTokens = 8;  ///< of one thread of the convolution

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
  std::uint32_t tokens;
  float epsilon;
  bool layerNorm;
};

/// norm(x) without the norm's bias, which the projection behind it has; adds the bias of the
/// layer's output to the residual on the way. A warp takes a row.
template <class Value>
__global__ void normKernel(NormArguments a, Value* out) {
  const std::uint32_t token = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  if (token >= a.tokens) return;
  const std::uint32_t first = threadIdx.x % 32 * 4;
  constexpr std::uint32_t kStep = 32 * 4;
  float* row = a.residual + std::size_t{token} * a.stride;  // zero behind the last
  float sum = 0;
  if (a.layerNorm) {
    for (std::uint32_t k = first; k < a.stride; k += kStep) sum += sumOf(quadAt(row + k));
    sum = sumOfWarp(sum);
  }
  const float mean = sum / static_cast<float>(a.model);
  const auto centred = [&](float x) { return x - mean; };
  float squares = 0;
#pragma unroll 4
  for (std::uint32_t k = first; k < a.stride; k += kStep) {
    const float4 x = each(centred, quadAt(row + k));
    squares += sumOf(x * x);
  }
  // What is behind the last is zero, but not centred.
  squares = sumOfWarp(squares) - static_cast<float>(a.stride - a.model) * mean * mean;
  const float scale = rsqrtf(squares / static_cast<float>(a.model) + a.epsilon);
  const auto scaled = [&](float x, float weight) { return (x - mean) * scale * weight; };
#pragma unroll 4
  for (std::uint32_t k = first; k < a.stride; k += kStep) {
    const float4 x = quadAt(row + k);
    setQuad(out + std::size_t{token} * a.stride + k, each(scaled, x, quadAt(a.weight + k)));
    if (a.addend) setQuad(row + k, x + quadAt(a.addend + k));
  }
}

struct BetweenArguments {
  const float* selected;  // [tokens][stride]: δ first
  std::uint32_t stride;
  std::uint32_t rank;
  std::uint32_t tokens;
  const float* inBias;  // of u
  std::uint32_t inner;
  std::uint32_t taps;
  const float* memoryIn;  // [k - 1][inner]; may be memoryOut
  float* memoryOut;
};

/// The convolution's memory after the text: its last k - 1 inputs.
template <class Value>
__device__ inline void remember(const BetweenArguments& a, std::uint32_t channel,
                                const Value* expanded) {
  const std::uint32_t memory = a.taps - 1;
  for (std::uint32_t i = 0; i < memory; ++i) {
    const std::uint32_t at = a.tokens + i;
    a.memoryOut[i * a.inner + channel] =
        at < memory
            ? a.memoryIn[at * a.inner + channel]
            : static_cast<float>(expanded[std::size_t{at - memory} * 2 * a.inner + channel]) +
                  a.inBias[channel];
  }
}

/// What is left to do between x_proj and dt_proj: δ as a matrix of its own, and by the blocks of
/// the second row the convolution's memory.
template <class Value>
__global__ void betweenKernel(BetweenArguments a, const Value* expanded, Value* rankInput) {
  const std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (blockIdx.y == 1) {
    if (i < a.inner) remember(a, i, expanded);
    return;
  }
  const std::uint32_t row = 2 * i / a.rank;
  if (row < a.tokens)
    setPair(rankInput + 2 * i, pairAt(a.selected + std::size_t{row} * a.stride + 2 * i % a.rank));
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
  const int last = first + static_cast<int>(kConvTokens) - 1;
  if (first >= TAPS - 1 &&
      last < static_cast<int>(a.tokens)) {  // all loads are on their way at once
    const Value* from = expanded + std::size_t(first - TAPS + 1) * 2 * a.inner + channel;
#pragma unroll
    for (int i = 0; i < TAPS - 1 + static_cast<int>(kConvTokens); ++i)
      inputs[i] = quadAt(from + std::size_t(i) * 2 * a.inner) + inBias;
  } else {
#pragma unroll
    for (int i = 0; i < TAPS - 1 + static_cast<int>(kConvTokens); ++i)
      inputs[i] = inputAt(first + i - TAPS + 1);
  }
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
