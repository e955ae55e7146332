// The stages of a layer on the channels of one block.
#pragma once

#include "kernels/cuda/chunk_products.cuh"
#include "kernels/cuda/scan_sums.cuh"

namespace mb::cuda {

/// Starts what can be loaded before the layer's input is known, and takes the channels' record.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::fetch(int layer) {
  const int inner = a.layout.paddedInner;
  const int states = a.size.states;
  const float* state = a.stateIn + stateOffset(a, layer);
  const int channel = threadIdx.x / kScanLanes;
  const int global = m_channelBegin + channel;
  const float* from = state + global / 16 * 16 * states + global % 16;
#pragma unroll
  for (int i = 0; i < SPL; ++i) {
    const int n = threadIdx.x % kScanLanes * SPL + i;
    m_fetchedState[i] = channel < m_own && n < states ? __ldcg(from + n * 16) : 0.0f;
  }
  if (threadIdx.x < (a.size.taps - 1) * m_channels) {
    const int position = m_historyPosition;
    const int own = threadIdx.x - position * m_channels;
    m_fetchedHistory =
        own < m_own ? __ldcg(state + (states + position) * inner + m_channelBegin + own) : 0.0f;
  }
  m_fetchedNorm = normWeight(layer + 1, 0);

  const int tiles = m_block.recordTiles;
  if (tiles == 0) return;
  const int size = recordFields(a.size) * m_channels;
  m_reader.hold(m_cursor, m_cursor + tiles - 1);
  for (int t = m_warp; t < tiles; t += kComputeWarps) {
    const int at = t * 128 + m_lane * 4;
    if (at < size) *reinterpret_cast<uint4*>(m_record + at) = m_reader.tile(m_cursor + t);
  }
  m_cursor += tiles;
}

// ---- the residual
//
// A block keeps the rows of x that its rows of out_proj add to, and tells the others x ⊙ w.

/// Weight of the norm before a layer, or of the last one, for the row of a tile of the block's own
/// that this thread publishes.
template <int NT, int SPL>
__device__ float Chunk<NT, SPL>::normWeight(int layer, int tile) const {
  const int row = (m_block.outTiles.begin + tile) * 16 + threadIdx.x % 16;
  const float* weights = a.parameters + static_cast<std::size_t>(layer) * a.layout.layerSize;
  return tile < static_cast<int>(m_block.outTiles.count) ? __ldg(weights + a.layout.norm + row)
                                                         : 0.0f;
}

template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::startResidual() {
  const int rows = static_cast<int>(m_block.outTiles.count) * 16;
  const int first = static_cast<int>(m_block.outTiles.begin) * 16;
#pragma unroll 1
  for (int i = threadIdx.x; i < rows * tokens(); i += kComputeThreads) {
    const std::int32_t token = a.list ? a.list->tokens[i / rows] : a.input[i / rows];
    m_residual[i / rows * a.outRows + i % rows] = embedded(a, token, first + i % rows);
  }
  m_fetchedNorm = normWeight(0, 0);
  publish(0);
}

/// Tells the others what the layer's norm and product take. 16 threads a tile and token.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::publish(int layer) {
  meet();
  if (layer == static_cast<int>(a.size.layers) && !a.head) return;
  const int lane = threadIdx.x % 16;
  const int tiles = m_block.outTiles.count;
#pragma unroll 1
  for (int i = threadIdx.x / 32 * 2; i < tiles * tokens(); i += kComputeThreads / 16) {
    const int task = min(i + m_lane / 16, tiles * tokens() - 1);  // the last one twice at worst
    const int tile = task / tokens();
    const int token = task % tokens();
    float& kept = m_residual[token * a.outRows + tile * 16 + lane];
    const int row = (m_block.outTiles.begin + tile) * 16 + lane;
    float x = kept;
    if (a.outBias && layer > 0 && task == i + m_lane / 16) {
      const float* before = a.parameters + static_cast<std::size_t>(layer - 1) * a.layout.layerSize;
      x += __ldg(before + a.layout.outBias + row);
      kept = x;
    }
    const float scaled = x * (tile == 0 ? m_fetchedNorm : normWeight(layer, tile));
    const float next = __shfl_down_sync(~0u, scaled, 1);
    float squares = x * x;
    float sum = x;
    for (int offset = 8; offset > 0; offset /= 2) {
      squares += __shfl_xor_sync(~0u, squares, offset);
      sum += __shfl_xor_sync(~0u, sum, offset);
    }
    if (task != i + m_lane / 16) continue;
    if (lane % 2 == 0) m_input.store(token, row, scaled, next);
    if (lane != 0) continue;
    float* moment = a.moments + token * m_modelTiles + m_block.outTiles.begin + tile;
    moment[0] = squares;
    if (a.layerNorm) moment[a.capacity * m_modelTiles] = sum;
  }
}

/// The convolution's memory, into shared memory.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::keepHistory(int layer) {
  const int remembered = (a.size.taps - 1) * m_channels;
  if (threadIdx.x < remembered) m_history[threadIdx.x] = m_fetchedHistory;
  const float* state = a.stateIn + stateOffset(a, layer) + a.size.states * a.layout.paddedInner;
  for (int i = threadIdx.x + kComputeThreads; i < remembered; i += kComputeThreads) {
    const int own = i % m_channels;
    m_history[i] =
        own < m_own ? __ldcg(state + i / m_channels * a.layout.paddedInner + m_channelBegin + own)
                    : 0.0f;
  }
  meet();
}

/// u' = SiLU(conv(u)), as the operands of x_proj; moves the convolution's memory.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::convolve(int layer) {
  const int taps = a.size.taps;
  const int memory = taps - 1;
  const auto inputAt = [&](int channel, int position) {  // counted from the oldest remembered
    return position < memory ? m_history[position * m_channels + channel]
                             : *shared(m_u, position - memory, channel);
  };
  const auto convolved = [&](int token, int channel) {
    if (channel >= m_own) return 0.0f;
    float sum = record(kConvBias)[channel];
#pragma unroll 4
    for (int tap = 0; tap < taps; ++tap)
      sum = fmaf(record(kConvWeights + tap)[channel], inputAt(channel, token + tap), sum);
    return silu(sum);
  };
#pragma unroll 1
  for (int token = m_warp; token < tokens(); token += kComputeWarps) {
#pragma unroll 1
    for (int channel = 2 * m_lane; channel < m_channels; channel += 64) {
      const float first = convolved(token, channel);
      const float second = convolved(token, channel + 1);
      *shared(m_convolved, token, channel) = first;
      *shared(m_convolved, token, channel + 1) = second;
      m_operands.store(token, channel, first, second);
    }
  }
  float* to = a.stateOut + stateOffset(a, layer) + a.size.states * a.layout.paddedInner;
#pragma unroll 1
  for (int position = m_warp; position < memory; position += kComputeWarps)
    for (int channel = m_lane; channel < m_own; channel += 32)
      to[position * a.layout.paddedInner + m_channelBegin + channel] =
          inputAt(channel, tokens() + position);
  meet();
}

/// This block's part of [δ, B, C] = W_x u'.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::project() {
  if (m_own == 0) return;
  auto* partials = reinterpret_cast<float*>(a.partials);
  productByRows(m_operands, m_projected / 16, m_channels, [&](int row, int token, float sum) {
    if (token >= tokens()) return;
    const std::size_t slot =
        (static_cast<std::size_t>(row / 2) * a.capacity + token) * gridDim.x + blockIdx.x;
    partials[slot * 2 + row % 2] = sum;
  });
}

/// Adds the blocks' parts of a few rows, a pair of rows and a token at a time.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::addPartials() {
  const int others = m_projected - m_rankRows;
  const int pairs =
      (m_projected / 2 - static_cast<int>(blockIdx.x) + static_cast<int>(gridDim.x) - 1) /
      static_cast<int>(gridDim.x);
#pragma unroll 1
  for (int i = m_warp; i < pairs * tokens(); i += kComputeWarps) {
    const int pair = blockIdx.x + i / tokens() * gridDim.x;
    const int token = i % tokens();
    const float2* parts =
        a.partials + (static_cast<std::size_t>(pair) * a.capacity + token) * gridDim.x;
    float first = 0;
    float second = 0;
#pragma unroll 4
    for (int block = m_lane; block < a.mixingBlocks; block += 32) {
      const float2 part = __ldcg(parts + block);
      first += part.x;
      second += part.y;
    }
    first = sumOfWarp(first);
    second = sumOfWarp(second);
    if (m_lane != 0) continue;
    if (2 * pair < m_rankRows)
      m_deltaInput.store(token, 2 * pair, first, second);
    else
      *reinterpret_cast<float2*>(a.selected + token * others + 2 * pair - m_rankRows) = {first,
                                                                                         second};
  }
}

/// Δ = softplus(W_dt δ + b_dt).
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::computeDelta() {
  if (m_own == 0) return;
  for (int i = threadIdx.x; i < tokens() * 2 * paddedStates(a.size); i += kComputeThreads)
    m_bc[i] = __ldcg(a.selected + i);
  productByRows(m_deltaInput, m_channels / 16, m_rankRows, [&](int row, int token, float sum) {
    *shared(m_delta, token, row) = softplus(sum + record(kDtBias)[row]);
  });
  meet();
}

/// s = Ā ⊙ s + (Δ ⊙ u') ⊗ B, y = s C + D ⊙ u', gated with SiLU(z), as the operands of out_proj.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::scan(int layer) {
  const int inner = a.layout.paddedInner;
  const int states = a.size.states;
  const int stateStride = 2 * paddedStates(a.size);
  const int q = threadIdx.x % kScanLanes;
#pragma unroll 1
  for (int first = 0; first < m_channels; first += kScanChannels) {
    const int channel = first + threadIdx.x / kScanLanes;
    const int global = m_channelBegin + channel;
    const bool active = channel < m_own;
    const std::size_t place = stateOffset(a, layer) + global / 16 * 16 * states + global % 16;
    float s[SPL];
    float rate[SPL];
#pragma unroll
    for (int i = 0; i < SPL; ++i) {
      const int n = q * SPL + i;
      const bool real = active && n < states;
      if (first == 0)
        s[i] = m_fetchedState[i];
      else
        s[i] = real ? __ldcg(a.stateIn + place + n * 16) : 0.0f;
      rate[i] = real ? record(kConvWeights + a.size.taps + n)[channel] : 0.0f;
    }
    const float skip = active ? record(kSkip)[channel] : 0.0f;
    const int slot = active ? channel : 0;
#pragma unroll 1
    for (int token = 0; token < tokens(); ++token) {
      const float delta = *shared(m_delta, token, slot);
      const float u = *shared(m_convolved, token, slot);
      const float gained = delta * u;
      const float* b = m_bc + token * stateStride;
      const float* c = b + stateStride / 2;
      ScanSums sums;
#pragma unroll
      for (int i = 0; i < SPL; ++i) {
        const int n = q * SPL + i;
        if (n >= states) break;
        const float kept = power2(delta * rate[i]);
        sums.advance(s[i], kept, gained, b[n], c[n]);
      }
      sums.addLanes(a.taps != nullptr);
      const float gated = active ? fmaf(skip, u, sums.y) * silu(*shared(m_z, token, slot)) : 0.0f;
      const float next = __shfl_down_sync(~0u, gated, kScanLanes);
      if (q != 0 || !active) continue;
      if (channel % 2 == 0) m_gated.store(token, global, gated, next);
      const std::size_t row = static_cast<std::size_t>(layer) * a.capacity + token;
      if (a.traceInput) {
        a.traceInput[row * inner + global] = *shared(m_u, token, channel);
        a.traceConvolved[row * inner + global] = u;
        a.traceDelta[row * inner + global] = delta;
      }
      if (a.taps) {
        float* tap = a.taps + row * kTapKinds * inner + global;
        sums.writeTaps(tap, inner, delta, states);
      }
    }
#pragma unroll
    for (int i = 0; i < SPL; ++i) {
      const int n = q * SPL + i;
      if (active && n < states) a.stateOut[place + n * 16] = s[i];
    }
  }
  if (a.traceB && blockIdx.x == 0) {
    for (int i = threadIdx.x; i < tokens() * states; i += kComputeThreads) {
      const int token = i / states;
      a.traceB[(static_cast<std::size_t>(layer) * a.capacity + token) * states + i % states] =
          m_bc[token * stateStride + i % states];
    }
  }
}

}  // namespace mb::cuda
