// The causal convolution with SiLU, forward and backward, of several streams.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/training/plan.h"
#include "kernels/cuda/training/values.cuh"

namespace mb::cuda::training {

inline constexpr std::uint32_t kConvTokens = 8;     ///< of one thread, forward
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

__device__ inline void addProduct(float4& sum, const float4& a, const float4& b) {
  sum.x = fmaf(a.x, b.x, sum.x);
  sum.y = fmaf(a.y, b.y, sum.y);
  sum.z = fmaf(a.z, b.z, sum.z);
  sum.w = fmaf(a.w, b.w, sum.w);
}

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

  /// u of a token; of negative ones what the stream remembers. INSIDE says that it is one of the
  /// segment: then loads need not wait for one another.
  template <bool INSIDE>
  __device__ float4 inputAt(int token) const {
    if constexpr (INSIDE) return quadAt(m_inputs + std::size_t(token) * 2 * m_shape.channels);
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

 private:
  const ConvShape& m_shape;
  const Value* m_inputs;
  const float* m_memory;
  float4 m_bias;
  float4 m_weights[TAPS];  ///< zeros before those of models with fewer
};

template <class Value, int TAPS, bool INSIDE>
__device__ void convolve(const ConvShape& shape, const ConvColumn<Value, TAPS>& column, int first,
                         Value* to) {
  float4 inputs[TAPS - 1 + kConvTokens];
#pragma unroll
  for (int i = 0; i < TAPS - 1 + static_cast<int>(kConvTokens); ++i)
    inputs[i] = column.template inputAt<INSIDE>(first + i - TAPS + 1);
#pragma unroll
  for (int i = 0; i < static_cast<int>(kConvTokens); ++i) {
    if (!INSIDE && first + i >= static_cast<int>(shape.tokens)) return;
    setQuad(to + std::size_t(first + i) * shape.channels, each(silu, column.sumOf(inputs + i)));
  }
}

/// u' = SiLU(conv(u)); u lies in rows of [u, z]. Grid: channels, tokens, streams.
template <class Value, int TAPS>
__global__ void convKernel(const __grid_constant__ ConvShape shape,
                           const Value* __restrict__ expanded, Value* __restrict__ convolved) {
  const std::uint32_t channel = 4 * (blockIdx.x * kConvThreads + threadIdx.x);
  if (channel >= shape.channels) return;
  const ConvColumn<Value, TAPS> column(shape, expanded, blockIdx.z, channel);
  const int first = static_cast<int>(blockIdx.y * kConvTokens);
  Value* to = convolved + std::size_t{blockIdx.z} * shape.tokens * shape.channels + channel;
  if (first >= TAPS - 1 && first + kConvTokens <= shape.tokens)
    convolve<Value, TAPS, true>(shape, column, first, to);
  else
    convolve<Value, TAPS, false>(shape, column, first, to);
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
  std::uint32_t strip;      ///< tokens of a thread
  float* dWeights;          ///< [strips of all streams][e][k]
  float* dBias;             ///< [strips of all streams][e]
  float* dMemory;           ///< of the first stream, in strides as the memory; or null
};

/// Walks along a strip of tokens with the derivatives by the convolution's sums that its inputs
/// still wait for.
template <class Value, int TAPS>
class ConvStrip {
 public:
  __device__ ConvStrip(const ConvShape& shape, const ConvBack<Value>& arguments,
                       std::uint32_t channel)
      : m_shape(shape),
        a(arguments),
        m_column(shape, arguments.expanded, blockIdx.z, channel),
        m_channel(channel),
        m_firstRow(std::size_t{blockIdx.z} * shape.tokens),
        m_first(static_cast<int>(blockIdx.y * arguments.strip)),
        m_last(min(m_first + static_cast<int>(arguments.strip), static_cast<int>(shape.tokens))) {
#pragma unroll
    for (int i = 0; i < TAPS; ++i) {
      m_inputs[i] =
          i == 0 ? float4{0, 0, 0, 0} : m_column.template inputAt<false>(m_first - TAPS + i);
      m_dSums[i] = m_dWeights[i] = {0, 0, 0, 0};
    }
  }

  /// What its first outputs take of the tokens behind the strip is computed too.
  __device__ void run() {
    const int end = m_last + TAPS - 1;
    for (int token = m_first; token < end; token += kTogether) {
      if (token + kTogether <= min(end, static_cast<int>(m_shape.tokens)))
        take<true>(token, end);
      else
        take<false>(token, end);
    }
    write();
  }

 private:
  static constexpr int kTogether = 4;  ///< tokens that are loaded before the first is used

  template <bool INSIDE>
  __device__ void take(int first, int end) {
    float4 inputs[kTogether];
    float4 gradients[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      inputs[i] = m_column.template inputAt<INSIDE>(first + i);
      gradients[i] = {0, 0, 0, 0};
      if (INSIDE || first + i < static_cast<int>(m_shape.tokens))
        gradients[i] =
            quadAt(a.dConvolved + (m_firstRow + first + i) * m_shape.channels + m_channel);
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i)
      if (INSIDE || first + i < end) step(first + i, inputs[i], gradients[i]);
  }

  __device__ void step(int token, const float4& input, const float4& gradient) {
#pragma unroll
    for (int i = 0; i + 1 < TAPS; ++i) {
      m_inputs[i] = m_inputs[i + 1];
      m_dSums[i] = m_dSums[i + 1];
    }
    m_inputs[TAPS - 1] = input;
    const auto slope = [](float x) { return siluSlope(x, sigmoid(x)); };
    const float4 dSum = gradient * each(slope, m_column.sumOf(m_inputs));
    m_dSums[TAPS - 1] = dSum;
    if (token < m_last) {
      m_dBias = m_dBias + dSum;
#pragma unroll
      for (int tap = 0; tap < TAPS; ++tap) addProduct(m_dWeights[tap], dSum, m_inputs[tap]);
    }
    const int from = token - (TAPS - 1);  // the input that gets nothing more
    float4 dInput{0, 0, 0, 0};
#pragma unroll
    for (int tap = 0; tap < TAPS; ++tap)
      addProduct(dInput, m_column.weight(tap), m_dSums[TAPS - 1 - tap]);
    const int memory = static_cast<int>(m_shape.taps) - 1;
    if (from >= m_first)
      setQuad(a.dExpanded + (m_firstRow + from) * 2 * m_shape.channels + m_channel, dInput);
    else if (from < 0 && from >= -memory && a.dMemory)
      setQuad(a.dMemory + blockIdx.z * m_shape.stateStride +
                  std::size_t(from + memory) * m_shape.channels + m_channel,
              dInput);
  }

  __device__ void write() const {
    const std::size_t strip = std::size_t{blockIdx.z} * gridDim.y + blockIdx.y;
    setQuad(a.dBias + strip * m_shape.channels + m_channel, m_dBias);
    const int absent = TAPS - static_cast<int>(m_shape.taps);
#pragma unroll
    for (int tap = 0; tap < TAPS; ++tap) {
      if (tap < absent) continue;
      float* to = a.dWeights + (strip * m_shape.channels + m_channel) * m_shape.taps + tap - absent;
      to[0] = m_dWeights[tap].x;
      to[m_shape.taps] = m_dWeights[tap].y;
      to[2 * m_shape.taps] = m_dWeights[tap].z;
      to[3 * m_shape.taps] = m_dWeights[tap].w;
    }
  }

  const ConvShape& m_shape;
  const ConvBack<Value>& a;
  ConvColumn<Value, TAPS> m_column;
  std::uint32_t m_channel;
  std::size_t m_firstRow;
  int m_first;
  int m_last;
  float4 m_inputs[TAPS];  ///< that the newest token takes
  float4 m_dSums[TAPS];   ///< of the newest tokens
  float4 m_dWeights[TAPS];
  float4 m_dBias{0, 0, 0, 0};
};

/// Through SiLU and convolution. Grid: channels, strips, streams.
template <class Value, int TAPS>
__global__ void __launch_bounds__(kConvThreads, TAPS > 4 ? 1 : 4)
    convBackKernel(const __grid_constant__ ConvShape shape,
                   const __grid_constant__ ConvBack<Value> a) {
  const std::uint32_t channel = 4 * (blockIdx.x * kConvThreads + threadIdx.x);
  if (channel < shape.channels) ConvStrip<Value, TAPS>(shape, a, channel).run();
}

}  // namespace mb::cuda::training
