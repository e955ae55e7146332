// The selective scan over segments of a text.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/chunk.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/values.cuh"

namespace mb::cuda {

inline constexpr std::uint32_t kSegmentChannels = 32;  ///< of one block
inline constexpr std::uint32_t kSegmentLanes = 4;      ///< threads that share a channel's states
inline constexpr std::uint32_t kSegmentThreads = kSegmentChannels * kSegmentLanes;
inline constexpr std::uint32_t kSegmentTile = 32;  ///< tokens scanned between two loads

struct ScanArguments {
  const float* channels;  // [field][inner]
  const float* selected;  // δ, B, C
  std::uint32_t selectedStride;
  std::uint32_t bOffset;
  std::uint32_t cOffset;
  std::uint32_t inner;
  std::uint32_t states;
  std::uint32_t taps;
  std::uint32_t tokens;
  std::uint32_t segment;  // tokens
  const float* stateIn;   // of the layer
  float* stateOut;
  float* ends;
  float* sums;
};

/// One block scans kSegmentChannels channels over a segment of the text, a thread SPL states of one
/// channel. Without OUTPUT it starts from zero and leaves the segment's end and the sum of its Δ;
/// with OUTPUT it starts from what those of the segments before make of the first state, and
/// writes (s C + D u') SiLU(z) in the place of W_dt δ. The last segment leaves the state.
template <class Value, int SPL, bool OUTPUT>
class Scan {
 public:
  __device__ Scan(const ScanArguments& a, const Value* __restrict__ expanded,
                  const Value* __restrict__ convolved, Value* delta)
      : a(a),
        m_expanded(expanded),
        m_convolved(convolved),
        m_delta(delta),
        m_first(blockIdx.y * a.segment),
        m_last(min(m_first + a.segment, a.tokens)),
        m_channel(blockIdx.x * kSegmentChannels + threadIdx.x / kSegmentLanes),
        m_lane(threadIdx.x % kSegmentLanes),
        m_eighth(blockIdx.x * kSegmentChannels + m_lane * 8) {}

  __device__ void run() {
    const bool active = m_channel < a.inner;
#pragma unroll
    for (int i = 0; i < SPL; ++i) {
      const std::uint32_t n = m_lane * SPL + i;
      const bool real = active && n < a.states;
      m_rate[i] = real ? a.channels[(kConvWeights + a.taps + n) * a.inner + m_channel] : 0.0f;
      m_state[i] = OUTPUT && real ? stateBefore(n) : 0.0f;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t channel = m_eighth + 4 * half;
      const bool real = channel < a.inner;
      const auto field = [&](std::uint32_t f) {
        return real ? quadAt(a.channels + f * a.inner + channel) : float4{0, 0, 0, 0};
      };
      m_dtBias[half] = field(kDtBias);
      if (OUTPUT) m_skip[half] = field(kSkip);
      if (OUTPUT) m_gateBias[half] = field(kInBiasZ);
    }
    Raw now;
    load(m_first, now);
    float deltas = 0;
    for (std::uint32_t token = m_first; token < m_last; token += kSegmentTile) {
      prepare(token, now);
      __syncthreads();
      Raw next;
      if (token + kSegmentTile < m_last) load(token + kSegmentTile, next);
      deltas += scanTile();
      __syncthreads();
      if (OUTPUT) write(token, now);
      now = next;
    }
    if (!active) return;
    float* to = OUTPUT ? a.stateOut : a.ends + std::size_t{blockIdx.y} * a.states * a.inner;
    if (!OUTPUT && m_lane == 0) a.sums[std::size_t{blockIdx.y} * a.inner + m_channel] = deltas;
    if (OUTPUT && m_last < a.tokens) return;
    if (OUTPUT && m_lane == 0) remember();
#pragma unroll
    for (int i = 0; i < SPL; ++i) {
      const std::uint32_t n = m_lane * SPL + i;
      if (n < a.states) to[placeOf(n)] = m_state[i];
    }
  }

 private:
  static constexpr std::uint32_t kStates = kSegmentLanes * SPL;
  static constexpr int kGroup = 32 / SPL;  // tokens
  static constexpr int kQuads = kSegmentTile * 2 * kStates / 4 / kSegmentThreads;
  static_assert(kSegmentThreads * 8 == kSegmentTile * kSegmentChannels);

  /// What a thread holds of a tile: eight channels of one token, and its part of B and C.
  struct Raw {
    float4 input[2];
    float4 delta[2];
    float4 gate[2];
    float4 selected[kQuads];
  };

  struct Shared {
    alignas(16) float2 steps[kSegmentTile][kSegmentChannels];  // Δ and Δ u'
    alignas(16) float selected[kSegmentTile][2 * kStates];     // B, C
    alignas(16) float outputs[kSegmentTile][kSegmentChannels + 4];
  };
  __device__ static Shared& shared() {
    __shared__ Shared memory;
    return memory;
  }

  __device__ std::size_t placeOf(std::uint32_t n) const {
    return std::size_t{m_channel / 16} * 16 * a.states + n * 16 + m_channel % 16;
  }

  /// The convolution's memory after the text: its last k - 1 inputs.
  __device__ void remember() const {
    const std::uint32_t memory = a.taps - 1;
    const std::size_t offset = std::size_t{a.states} * a.inner + m_channel;
    for (std::uint32_t i = 0; i < memory; ++i) {
      const std::uint32_t at = a.tokens + i;
      a.stateOut[offset + i * a.inner] =
          at < memory
              ? a.stateIn[offset + at * a.inner]
              : static_cast<float>(m_expanded[std::size_t{at - memory} * 2 * a.inner + m_channel]) +
                    a.channels[kInBiasU * a.inner + m_channel];
    }
  }

  __device__ float stateBefore(std::uint32_t n) const {
    float s = a.stateIn[placeOf(n)];
    const float rate = a.channels[(kConvWeights + a.taps + n) * a.inner + m_channel];
    for (std::uint32_t g = 0; g < blockIdx.y; ++g) {
      const float kept = power2(rate * a.sums[std::size_t{g} * a.inner + m_channel]);
      s = fmaf(kept, s, a.ends[std::size_t{g} * a.states * a.inner + placeOf(n)]);
    }
    return s;
  }

  __device__ void load(std::uint32_t first, Raw& raw) const {
    const std::uint32_t token = first + threadIdx.x / kSegmentLanes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t channel = m_eighth + 4 * half;
      raw.input[half] = raw.delta[half] = raw.gate[half] = {0, 0, 0, 0};
      if (token >= m_last || channel >= a.inner) continue;
      const std::size_t at = std::size_t{token} * a.inner + channel;
      raw.input[half] = quadAt(m_convolved + at);
      raw.delta[half] = quadAt(m_delta + at);
      if (OUTPUT) raw.gate[half] = quadAt(m_expanded + at + std::size_t{token + 1} * a.inner);
    }
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const std::uint32_t at = (threadIdx.x + i * kSegmentThreads) * 4;
      const std::uint32_t token = first + at / (2 * kStates);
      const std::uint32_t n = at % kStates;
      const bool isC = at % (2 * kStates) >= kStates;
      const bool real = token < m_last && n < (a.states + 15) / 16 * 16 && (OUTPUT || !isC);
      const float* row = a.selected + std::size_t{token} * a.selectedStride;
      raw.selected[i] =
          real ? *reinterpret_cast<const float4*>(row + (isC ? a.cOffset : a.bOffset) + n)
               : float4{0, 0, 0, 0};
    }
  }

  /// Lays a tile out for the scan. Tokens behind the last have Δ = 0 and change nothing.
  __device__ void prepare(std::uint32_t first, const Raw& raw) const {
    Shared& to = shared();
    const std::uint32_t row = threadIdx.x / kSegmentLanes;
    const bool real = first + row < m_last;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float4 delta = each(softplus, raw.delta[half] + m_dtBias[half]);
      if (!real) delta = {0, 0, 0, 0};
      const float4 gained = delta * raw.input[half];
      auto* steps = reinterpret_cast<float4*>(&to.steps[row][m_lane * 8 + 4 * half]);
      steps[0] = {delta.x, gained.x, delta.y, gained.y};
      steps[1] = {delta.z, gained.z, delta.w, gained.w};
    }
#pragma unroll
    for (int i = 0; i < kQuads; ++i)
      reinterpret_cast<float4*>(to.selected)[threadIdx.x + i * kSegmentThreads] = raw.selected[i];
  }

  /// Tokens in groups, all loads of a group before its sums and its one store: a warp has to hide
  /// its own latencies. Returns the sum of Δ.
  __device__ float scanTile() {
    Shared& tile = shared();
    const std::uint32_t column = threadIdx.x / kSegmentLanes;
    float deltas = 0;
#pragma unroll 1
    for (std::uint32_t t = 0; t < kSegmentTile; t += kGroup) {
      float2 step[kGroup];
      float b[kGroup][SPL];
      float c[kGroup][SPL];
#pragma unroll
      for (int g = 0; g < kGroup; ++g) {
        step[g] = tile.steps[t + g][column];
#pragma unroll
        for (int i = 0; i < SPL; i += 4) {
          const float* row = tile.selected[t + g] + m_lane * SPL + i;
          *reinterpret_cast<float4*>(b[g] + i) = *reinterpret_cast<const float4*>(row);
          if (OUTPUT)
            *reinterpret_cast<float4*>(c[g] + i) = *reinterpret_cast<const float4*>(row + kStates);
        }
      }
      float y[kGroup];
#pragma unroll
      for (int g = 0; g < kGroup; ++g) {
        y[g] = 0;
        deltas += step[g].x;
#pragma unroll
        for (int i = 0; i < SPL; ++i) {
          m_state[i] = fmaf(power2(step[g].x * m_rate[i]), m_state[i], step[g].y * b[g][i]);
          if (OUTPUT) y[g] = fmaf(m_state[i], c[g][i], y[g]);
        }
      }
      if (OUTPUT) keepOutputs(t, column, y);
    }
    return deltas;
  }

  /// Sums over a channel's lanes. Each round halves what a lane holds: it gives one half away and
  /// adds what it gets to the other.
  __device__ void keepOutputs(std::uint32_t first, std::uint32_t column, float (&y)[kGroup]) const {
    static_assert(kGroup >= 2 && kSegmentLanes == 4);
    const bool upper = m_lane & 2;
    constexpr int kHalf = kGroup / 2;
#pragma unroll
    for (int g = 0; g < kHalf; ++g) {
      const float got = __shfl_xor_sync(~0u, upper ? y[g] : y[g + kHalf], 2);
      y[g] = (upper ? y[g + kHalf] : y[g]) + got;
    }
    const std::uint32_t token = first + (upper ? kHalf : 0);
#pragma unroll
    for (int g = 0; g < kHalf; ++g) y[g] += __shfl_xor_sync(~0u, y[g], 1);
#pragma unroll
    for (int g = 0; g < kHalf; ++g)
      if (g % 2 == static_cast<int>(m_lane & 1)) shared().outputs[token + g][column] = y[g];
  }

  __device__ void write(std::uint32_t first, const Raw& raw) const {
    const std::uint32_t row = threadIdx.x / kSegmentLanes;
    if (first + row >= m_last) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t channel = m_eighth + 4 * half;
      if (channel >= a.inner) return;
      const float4 y = quadAt(shared().outputs[row] + m_lane * 8 + 4 * half);
      setQuad(m_delta + std::size_t{first + row} * a.inner + channel,
              (y + m_skip[half] * raw.input[half]) * each(silu, raw.gate[half] + m_gateBias[half]));
    }
  }

  const ScanArguments& a;
  const Value* m_expanded;
  const Value* m_convolved;
  Value* m_delta;
  std::uint32_t m_first;
  std::uint32_t m_last;
  std::uint32_t m_channel;
  std::uint32_t m_lane;
  std::uint32_t m_eighth;  ///< first of the channels it loads
  float4 m_dtBias[2];
  float4 m_skip[2];
  float4 m_gateBias[2];
  float m_rate[SPL];
  float m_state[SPL];
};

template <class Value, int SPL, bool OUTPUT>
__global__ void __launch_bounds__(kSegmentThreads, SPL > 4 ? 2 : 4)
    scanKernel(const __grid_constant__ ScanArguments a, const Value* expanded,
               const Value* convolved, Value* delta) {
  Scan<Value, SPL, OUTPUT>(a, expanded, convolved, delta).run();
}

}  // namespace mb::cuda
