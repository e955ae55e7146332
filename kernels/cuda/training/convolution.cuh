// The causal convolution with SiLU, forward and backward, of several streams.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/training/plan.h"
#include "kernels/cuda/training/values.cuh"

namespace mb::cuda::training {

inline constexpr std::uint32_t kConvTokens = 8;     ///< of one thread, forward
inline constexpr std::uint32_t kConvStrip = 64;     ///< of one thread, backward
inline constexpr std::uint32_t kConvThreads = 128;  ///< four channels each
inline constexpr std::uint32_t kConvChannels = 4 * kConvThreads;

struct ConvShape {
  const float* weights;     ///< [e][k]
  const float* bias;        ///< [e]
  const float* memory;      ///< of the first stream: [k - 1][e], oldest first
  std::size_t stateStride;  ///< from one stream's memory to the next
  std::uint32_t channels;
  std::uint32_t taps;
  std::uint32_t tokens;  ///< of a stream
};

/// One thread's four channels of a stream.
template <class Value, int TAPS>
class ConvColumn {
 public:
  __device__ ConvColumn(const ConvShape& shape, const Value* inputs, std::uint32_t stream,
                        std::uint32_t channel)
      : m_shape(shape),
        m_inputs(inputs + std::size_t{stream} * shape.tokens * 2 * shape.channels + channel),
        m_memory(shape.memory + stream * shape.stateStride + channel),
        m_bias(quadAt(shape.bias + channel)) {
    const int absent = TAPS - static_cast<int>(shape.taps);
#pragma unroll
    for (int tap = 0; tap < TAPS; ++tap) {
      const auto weight = [&](std::uint32_t i) {
        return tap < absent ? 0.0f
                            : shape.weights[std::size_t{channel + i} * shape.taps + tap - absent];
      };
      m_weights[tap] = {weight(0), weight(1), weight(2), weight(3)};
    }
  }

  /// u of a token; of negative ones what the stream remembers.
  __device__ float4 inputAt(int token) const {
    const int memory = static_cast<int>(m_shape.taps) - 1;
    if (token >= static_cast<int>(m_shape.tokens) || token < -memory) return {0, 0, 0, 0};
    if (token < 0) return quadAt(m_memory + std::size_t(token + memory) * m_shape.channels);
    return quadAt(m_inputs + std::size_t(token) * 2 * m_shape.channels);
  }

  /// The convolution, whose last tap falls on inputs[TAPS - 1].
  __device__ float4 sumOf(const float4* inputs) const {
    float4 sum = m_bias;
#pragma unroll
    for (int tap = 0; tap < TAPS; ++tap) addProduct(sum, m_weights[tap], inputs[tap]);
    return sum;
  }

  __device__ const float4& weight(int tap) const {
    return m_weights[tap];
  }

  __device__ static void addProduct(float4& sum, const float4& a, const float4& b) {
    sum.x = fmaf(a.x, b.x, sum.x);
    sum.y = fmaf(a.y, b.y, sum.y);
    sum.z = fmaf(a.z, b.z, sum.z);
    sum.w = fmaf(a.w, b.w, sum.w);
  }

 private:
  const ConvShape& m_shape;
  const Value* m_inputs;
  const float* m_memory;
  float4 m_bias;
  float4 m_weights[TAPS];  ///< zeros before those of models with fewer
};

/// u' = SiLU(conv(u)); u lies in rows of [u, z]. Grid: channels, tokens, streams.
template <class Value, int TAPS>
__global__ void convKernel(const __grid_constant__ ConvShape shape,
                           const Value* __restrict__ expanded, Value* __restrict__ convolved) {
  const std::uint32_t channel = 4 * (blockIdx.x * kConvThreads + threadIdx.x);
  if (channel >= shape.channels) return;
  const ConvColumn<Value, TAPS> column(shape, expanded, blockIdx.z, channel);
  const int first = static_cast<int>(blockIdx.y * kConvTokens);
  float4 inputs[TAPS - 1 + kConvTokens];
#pragma unroll
  for (int i = 0; i < TAPS - 1 + static_cast<int>(kConvTokens); ++i)
    inputs[i] = column.inputAt(first + i - TAPS + 1);
  Value* to = convolved + std::size_t{blockIdx.z} * shape.tokens * shape.channels + channel;
#pragma unroll
  for (int i = 0; i < static_cast<int>(kConvTokens); ++i) {
    if (first + i >= static_cast<int>(shape.tokens)) return;
    setQuad(to + std::size_t(first + i) * shape.channels, each(silu, column.sumOf(inputs + i)));
  }
}

/// The memory after the segment: its last k - 1 inputs. Grid: channels, k - 1, streams.
template <class Value>
__global__ void rememberKernel(const __grid_constant__ ConvShape shape, const Value* expanded,
                               float* memoryOut) {
  const std::uint32_t channel = blockIdx.x * blockDim.x + threadIdx.x;
  if (channel >= shape.channels) return;
  const std::uint32_t memory = shape.taps - 1;
  const std::uint32_t position = shape.tokens + blockIdx.y;  // counted from the oldest remembered
  const std::size_t state = blockIdx.z * shape.stateStride + channel;
  memoryOut[state + std::size_t{blockIdx.y} * shape.channels] =
      position < memory
          ? shape.memory[state + std::size_t{position} * shape.channels]
          : static_cast<float>(
                expanded[(std::size_t{blockIdx.z} * shape.tokens + position - memory) * 2 *
                             shape.channels +
                         channel]);
}

template <class Value>
struct ConvBack {
  const Value* expanded;    ///< u, z [rows][2e]
  const Value* dConvolved;  ///< by u' [rows][e]
  Value* dExpanded;         ///< by u; rows of [2e], of which the first half
  float* dWeights;          ///< [strips of all streams][e][k]
  float* dBias;             ///< [strips of all streams][e]
  float* dMemory;           ///< of the first stream, in strides as the memory; or null
};

/// Through SiLU and convolution. A thread walks along a strip; what its first outputs take of the
/// tokens behind the strip it computes too. Grid: channels, strips, streams.
template <class Value, int TAPS>
__global__ void convBackKernel(const __grid_constant__ ConvShape shape,
                               const __grid_constant__ ConvBack<Value> a) {
  const std::uint32_t channel = 4 * (blockIdx.x * kConvThreads + threadIdx.x);
  if (channel >= shape.channels) return;
  const ConvColumn<Value, TAPS> column(shape, a.expanded, blockIdx.z, channel);
  const std::size_t firstRow = std::size_t{blockIdx.z} * shape.tokens;
  const int first = static_cast<int>(blockIdx.y * kConvStrip);
  const int last = min(first + static_cast<int>(kConvStrip), static_cast<int>(shape.tokens));
  float4 inputs[TAPS];  // that the newest token takes
  float4 dSums[TAPS];   // of the newest tokens
  float4 dWeights[TAPS];
  float4 dBias{0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < TAPS; ++i) {
    inputs[i] = i == 0 ? float4{0, 0, 0, 0} : column.inputAt(first - TAPS + i);
    dSums[i] = dWeights[i] = {0, 0, 0, 0};
  }
#pragma unroll 4
  for (int token = first; token < last + TAPS - 1; ++token) {
#pragma unroll
    for (int i = 0; i + 1 < TAPS; ++i) {
      inputs[i] = inputs[i + 1];
      dSums[i] = dSums[i + 1];
    }
    inputs[TAPS - 1] = column.inputAt(token);
    float4& dSum = dSums[TAPS - 1];
    dSum = {0, 0, 0, 0};
    if (token < static_cast<int>(shape.tokens)) {
      const auto slope = [](float x) { return siluSlope(x, sigmoid(x)); };
      dSum = quadAt(a.dConvolved + (firstRow + token) * shape.channels + channel) *
             each(slope, column.sumOf(inputs));
    }
    if (token < last) {
      dBias = dBias + dSum;
#pragma unroll
      for (int tap = 0; tap < TAPS; ++tap)
        ConvColumn<Value, TAPS>::addProduct(dWeights[tap], dSum, inputs[tap]);
    }
    const int from = token - (TAPS - 1);  // the input that gets nothing more
    float4 dInput{0, 0, 0, 0};
#pragma unroll
    for (int tap = 0; tap < TAPS; ++tap)
      ConvColumn<Value, TAPS>::addProduct(dInput, column.weight(tap), dSums[TAPS - 1 - tap]);
    const int memory = static_cast<int>(shape.taps) - 1;
    if (from >= first && from < last)
      setQuad(a.dExpanded + (firstRow + from) * 2 * shape.channels + channel, dInput);
    else if (from < 0 && from >= -memory && a.dMemory)
      setQuad(a.dMemory + blockIdx.z * shape.stateStride +
                  std::size_t(from + memory) * shape.channels + channel,
              dInput);
  }
  const std::size_t strip = std::size_t{blockIdx.z} * gridDim.y + blockIdx.y;
  setQuad(a.dBias + strip * shape.channels + channel, dBias);
  const int absent = TAPS - static_cast<int>(shape.taps);
#pragma unroll
  for (int tap = 0; tap < TAPS; ++tap) {
    if (tap < absent) continue;
    float* to = a.dWeights + (strip * shape.channels + channel) * shape.taps + tap - absent;
    to[0] = dWeights[tap].x;
    to[shape.taps] = dWeights[tap].y;
    to[2 * shape.taps] = dWeights[tap].z;
    to[3 * shape.taps] = dWeights[tap].w;
  }
}

}  // namespace mb::cuda::training
