// The stages of a layer on the channels of one block.
#pragma once

#include "kernels/cuda/chunk_products.cuh"

namespace mb::cuda {

/// Starts what can be loaded before the layer's input is known, and takes the channels' record.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::fetch(int layer) {
  const int inner = a.layout.paddedInner;
  const int states = a.size.states;
  holdNorm(m_parameters);

  const float* state = a.stateIn + stateOffset(layer);
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

  const int tiles = m_block.recordTiles;
  if (tiles > 0) {
    const int size = (kConvWeights + a.size.taps + states) * m_channels;
    m_reader.hold(m_cursor, m_cursor + tiles - 1);
    for (int t = m_warp; t < tiles; t += kComputeWarps) {
      const int at = t * 128 + m_lane * 4;
      if (at < size) *reinterpret_cast<uint4*>(m_record + at) = m_reader.tile(m_cursor + t);
    }
    m_cursor += tiles;
  }
  if (layer == 0) meet();  // later layers meet at the barrier
}

template <int NT, int SPL, bool ONE>
__device__ float4 Chunk<NT, SPL, ONE>::embedded(int token, int k) const {
  const std::size_t row = static_cast<std::size_t>(a.input[token]);
  float4 sum = {};
#pragma unroll 1
  for (std::uint32_t plane = 0; plane < static_cast<std::uint32_t>(planes()); ++plane) {
    const std::uint16_t* values =
        a.embedding + (plane * a.size.vocabulary + row) * a.layout.paddedModel;
    const uint2 v = __ldg(reinterpret_cast<const uint2*>(values + k));
    sum.x += __uint_as_float(v.x << 16);
    sum.y += __uint_as_float(v.x & 0xffff0000u);
    sum.z += __uint_as_float(v.y << 16);
    sum.w += __uint_as_float(v.y & 0xffff0000u);
  }
  return sum;
}

/// x before the layer. The embedding is at every block's hands; later values come from the others.
template <int NT, int SPL, bool ONE>
__device__ float4 Chunk<NT, SPL, ONE>::residualAt(int layer, int token, int k) const {
  if (layer == 0) return embedded(token, k);
  const auto* at =
      reinterpret_cast<const ulonglong2*>(a.residual + token * a.layout.paddedModel + k);
  const ulonglong2 first = __ldcg(at);
  const ulonglong2 second = __ldcg(at + 1);
  return {fromFixed(first.x), fromFixed(first.y), fromFixed(second.x), fromFixed(second.y)};
}

/// The embeddings, where layers are going to add to them. Every layer meets before it adds.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::startResidual() {
  const int quads = a.layout.paddedModel / 4;
  for (int i = blockIdx.x * kComputeThreads + threadIdx.x; i < quads * tokens();
       i += gridDim.x * kComputeThreads) {
    const int token = i / quads;
    const int k = (i - token * quads) * 4;
    const float4 x = embedded(token, k);
    auto* at = reinterpret_cast<ulonglong2*>(a.residual + token * a.layout.paddedModel + k);
    __stcg(at, make_ulonglong2(toFixed(x.x), toFixed(x.y)));
    __stcg(at + 1, make_ulonglong2(toFixed(x.z), toFixed(x.w)));
  }
}

/// The convolution's memory, into shared memory.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::keepHistory(int layer) {
  const int remembered = (a.size.taps - 1) * m_channels;
  if (threadIdx.x < remembered) m_history[threadIdx.x] = m_fetchedHistory;
  const float* state = a.stateIn + stateOffset(layer) + a.size.states * a.layout.paddedInner;
  for (int i = threadIdx.x + kComputeThreads; i < remembered; i += kComputeThreads) {
    const int own = i % m_channels;
    m_history[i] =
        own < m_own ? __ldcg(state + i / m_channels * a.layout.paddedInner + m_channelBegin + own)
                    : 0.0f;
  }
  meet();
}

/// u' = SiLU(conv(u)), as the operands of x_proj; moves the convolution's memory.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::convolve(int layer) {
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
  float* to = a.stateOut + stateOffset(layer) + a.size.states * a.layout.paddedInner;
#pragma unroll 1
  for (int position = m_warp; position < memory; position += kComputeWarps)
    for (int channel = m_lane; channel < m_own; channel += 32)
      to[position * a.layout.paddedInner + m_channelBegin + channel] =
          inputAt(channel, tokens() + position);
  meet();
}

/// This block's part of [δ, B, C] = W_x u', added to those of the others.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::project(int layer) {
  if (m_own == 0) return;
  unsigned long long* sums = projected(layer);
  const int first = static_cast<int>(m_block.firstProjected) * 16;
  productByRows(m_projected / 16, m_channels, [&](int row, int token, float sum) {
    row += first;
    if (row >= m_projected) row -= m_projected;
    atomicAdd(sums + token * m_projected + row, toFixed(sum));
  });
}

/// Δ = softplus(W_dt δ + b_dt).
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::computeDelta(int layer) {
  const int rankRows = static_cast<int>(tilesFor(a.size.dtRank) * kTileRows);
  const int others = m_projected - rankRows;
  const unsigned long long* sums = projected(layer);
#pragma unroll 1
  for (int i = threadIdx.x; i < tokens() * m_projected / 2; i += kComputeThreads) {
    const int token = tokens() == 1 ? 0 : 2 * i / m_projected;
    const int row = 2 * i - token * m_projected;
    const ulonglong2 pair =
        __ldcg(reinterpret_cast<const ulonglong2*>(sums + token * m_projected + row));
    if (row < rankRows) {
      m_operands.store(token, row, fromFixed(pair.x), fromFixed(pair.y));
    } else {
      m_bc[token * others + row - rankRows] = fromFixed(pair.x);
      m_bc[token * others + row - rankRows + 1] = fromFixed(pair.y);
    }
  }
  meet();
  productByRows(m_channels / 16, rankRows, [&](int row, int token, float sum) {
    *shared(m_delta, token, row) = softplus(sum + record(kDtBias)[row]);
  });
  // All blocks are done with the sums of two layers ago, which the next layer's are to replace.
  unsigned long long* next = projected(layer + 1);
  const int size = a.capacity * m_projected;
#pragma unroll 1
  for (int i = blockIdx.x * kComputeThreads + threadIdx.x; i < size;
       i += gridDim.x * kComputeThreads)
    __stcg(next + i, 0ull);
  meet();
}

/// s = Ā ⊙ s + (Δ ⊙ u') ⊗ B, y = s C + D ⊙ u', gated with SiLU(z), as the operands of out_proj.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::scan(int layer) {
  const int inner = a.layout.paddedInner;
  const int states = a.size.states;
  const int stateStride = 2 * paddedStates(a.size);
  const int q = threadIdx.x % kScanLanes;
#pragma unroll 1
  for (int first = 0; first < m_channels; first += kScanChannels) {
    const int channel = first + threadIdx.x / kScanLanes;
    const int global = m_channelBegin + channel;
    const bool active = channel < m_own;
    const std::size_t place = stateOffset(layer) + global / 16 * 16 * states + global % 16;
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
      float y = 0;
      float squares = 0;
      float decays = 0;
#pragma unroll
      for (int i = 0; i < SPL; ++i) {
        const int n = q * SPL + i;
        if (n >= states) break;
        const float kept = power2(delta * rate[i]);
        s[i] = fmaf(kept, s[i], gained * b[n]);
        y = fmaf(s[i], c[n], y);
        squares = fmaf(s[i], s[i], squares);
        decays += kept;
      }
      for (int offset = 1; offset < kScanLanes; offset *= 2) {
        y += __shfl_xor_sync(~0u, y, offset);
        if (a.taps) {
          squares += __shfl_xor_sync(~0u, squares, offset);
          decays += __shfl_xor_sync(~0u, decays, offset);
        }
      }
      const float gated = active ? fmaf(skip, u, y) * silu(*shared(m_z, token, slot)) : 0.0f;
      const float next = __shfl_down_sync(~0u, gated, kScanLanes);
      if (q != 0) continue;
      if (channel % 2 == 0 && channel < m_channels) m_operands.store(token, channel, gated, next);
      if (!active) continue;
      const std::size_t row = static_cast<std::size_t>(layer) * a.capacity + token;
      if (a.traceInput) {
        a.traceInput[row * inner + global] = *shared(m_u, token, channel);
        a.traceConvolved[row * inner + global] = u;
        a.traceDelta[row * inner + global] = delta;
      }
      if (a.taps) {
        float* tap = a.taps + row * kTapKinds * inner + global;
        tap[0] = delta;
        tap[inner] = sqrtf(squares);
        tap[2 * inner] = decays / static_cast<float>(states);
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

/// Adds W_out times this block's gated channels to the residual.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::contract() {
  meet();
  const auto add = [&](int row, int token, float sum) {
    if (row < static_cast<int>(a.size.model))
      atomicAdd(a.residual + token * a.layout.paddedModel + row, toFixed(sum));
  };
  constexpr int kTall = static_cast<int>(kTallPanelTiles);
  const int tileRows = m_own > 0 ? static_cast<int>(tilesFor(a.size.model)) : 0;
  const int first = static_cast<int>(m_block.firstOut) * 16;
  const int rows = static_cast<int>(a.layout.paddedModel);
#pragma unroll 1
  for (int panel = 0; panel < tileRows; panel += kTall) {
    productByRows(min(kTall, tileRows - panel), m_channels, [&](int row, int token, float sum) {
      row += first + panel * 16;
      add(row < rows ? row : row - rows, token, sum);
    });
  }
  if (!a.outBias) return;
  const int all = static_cast<int>(a.size.model) * tokens();
  for (int i = blockIdx.x * kComputeThreads + threadIdx.x; i < all;
       i += gridDim.x * kComputeThreads) {
    const int token = i / static_cast<int>(a.size.model);
    const int row = i - token * static_cast<int>(a.size.model);
    add(row, token, __ldg(m_parameters + a.layout.outBias + row));
  }
}

}  // namespace mb::cuda
