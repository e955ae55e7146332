// The stages of a layer on the channels of one block.
#pragma once

#include "kernels/cuda/chunk_products.cuh"
#include "kernels/cuda/scan_sums.cuh"

namespace mb::cuda {

/// Starts what can be loaded before the layer's input is known, and takes the channels' record.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::fetch(int layer) {
  forget();
  const int inner = a.layout.paddedInner;
  const int states = a.size.states;
  const float* state = a.stateIn + stateOffset(a, layer);
  const int channel = m_thread / kScanLanes;
  const int global = m_channelBegin + channel;
  const float* from = state + global / 16 * 16 * states + global % 16;
#pragma unroll
  for (int i = 0; i < SPL; ++i) {
    const int n = m_thread % kScanLanes * SPL + i;
    m_fetchedState[i] = channel < m_own && n < states ? __ldcg(from + n * 16) : 0.0f;
  }
  if (m_thread < (a.size.taps - 1) * m_channels) {
    const int position = m_historyPosition;
    const int own = m_thread - position * m_channels;
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
    if (at < size)
      *reinterpret_cast<uint4*>(floatsAt(a.memory.record) + at) = m_reader.tile(m_cursor + t);
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
  const int row = (m_block.outTiles.begin + tile) * 16 + m_thread % 16;
  const float* weights = a.parameters + static_cast<std::size_t>(layer) * a.layout.layerSize;
  return tile < static_cast<int>(m_block.outTiles.count) ? __ldg(weights + a.layout.norm + row)
                                                         : 0.0f;
}

template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::startResidual() {
  const int rows = static_cast<int>(m_block.outTiles.count) * 16;
  const int first = static_cast<int>(m_block.outTiles.begin) * 16;
#pragma unroll 1
  for (int i = m_thread; i < rows * tokens(); i += kComputeThreads) {
    const std::int32_t token = a.list ? a.list->tokens[i / rows] : a.input[i / rows];
    floatsAt(a.memory.residual)[i / rows * a.outRows + i % rows] =
        embedded(a, token, first + i % rows);
  }
  m_fetchedNorm = normWeight(0, 0);
  publish(0);
}

/// Tells the others what the layer's norm and product take. 16 threads a tile and token.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::publish(int layer) {
  forget();
  meet();
  if (layer == static_cast<int>(a.size.layers) && !a.head) return;
  const int lane = m_thread % 16;
  const int tiles = m_block.outTiles.count;
#pragma unroll 1
  for (int i = m_thread / 32 * 2; i < tiles * tokens(); i += kComputeThreads / 16) {
    const int wanted = i + m_lane / 16;
    const int task = min(wanted, tiles * tokens() - 1);  // the last one twice at worst
    const int tile = task / tokens();
    const int token = task % tokens();
    float& kept = floatsAt(a.memory.residual)[token * a.outRows + tile * 16 + lane];
    const int row = (m_block.outTiles.begin + tile) * 16 + lane;
    float x = kept;
    if (a.outBias && layer > 0) {
      const float* before = a.parameters + static_cast<std::size_t>(layer - 1) * a.layout.layerSize;
      x += __ldg(before + a.layout.outBias + row);
      __syncwarp();  // who has the last one a second time has read it
      if (task == wanted) kept = x;
    }
    const float scaled = x * (tile == 0 ? m_fetchedNorm : normWeight(layer, tile));
    const float next = __shfl_down_sync(~0u, scaled, 1);
    float squares = x * x;
    float sum = x;
    for (int offset = 8; offset > 0; offset /= 2) {
      squares += __shfl_xor_sync(~0u, squares, offset);
      sum += __shfl_xor_sync(~0u, sum, offset);
    }
    if (task != wanted) continue;
    if (lane % 2 == 0) input().store(token, row, scaled, next);
    if (lane != 0) continue;
    float* moment = a.moments + token * modelTiles() + m_block.outTiles.begin + tile;
    moment[0] = squares;
    if (a.layerNorm) moment[a.capacity * modelTiles()] = sum;
  }
}

/// The convolution's memory, into shared memory.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::keepHistory(int layer) {
  forget();
  const int remembered = (a.size.taps - 1) * m_channels;
  if (m_thread < remembered) floatsAt(a.memory.history)[m_thread] = m_fetchedHistory;
  const float* state = a.stateIn + stateOffset(a, layer) + a.size.states * a.layout.paddedInner;
  for (int i = m_thread + kComputeThreads; i < remembered; i += kComputeThreads) {
    const int own = i % m_channels;
    floatsAt(a.memory.history)[i] =
        own < m_own ? __ldcg(state + i / m_channels * a.layout.paddedInner + m_channelBegin + own)
                    : 0.0f;
  }
  meet();
}

/// u' = SiLU(conv(u)), as the operands of x_proj; moves the convolution's memory.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::convolve(int layer) {
  forget();
  const int taps = a.size.taps;
  const int memory = taps - 1;
  const auto inputAt = [&](int channel, int position) {  // counted from the oldest remembered
    return position < memory ? floatsAt(a.memory.history)[position * m_channels + channel]
                             : at(a.memory.u, position - memory, channel);
  };
  const auto convolved = [&](int token, int channel) {
    if (channel >= m_own) return 0.0f;
    float sum = record(kConvBias)[channel];
#pragma unroll 4
    for (int tap = 0; tap < taps; ++tap)
      sum = fmaf(record(kConvWeights + tap)[channel], inputAt(channel, token + tap), sum);
    return silu(sum);
  };
  const int pairs = m_channels / 2;
#pragma unroll 1
  for (int i = m_thread; i < tokens() * pairs; i += kComputeThreads) {
    const int token = i / pairs;
    const int channel = i % pairs * 2;
    const float first = convolved(token, channel);
    const float second = convolved(token, channel + 1);
    at(a.memory.convolved, token, channel) = first;
    at(a.memory.convolved, token, channel + 1) = second;
    convolvedOperands().store(token, channel, first, second);
  }
  float* to = a.stateOut + stateOffset(a, layer) + a.size.states * a.layout.paddedInner;
#pragma unroll 1
  for (int position = m_warp; position < memory; position += kComputeWarps)
    for (int channel = m_lane; channel < m_own; channel += 32)
      to[position * a.layout.paddedInner + m_channelBegin + channel] =
          inputAt(channel, tokens() + position);
  meet();
}

/// This block's part of [δ, B, C] = W_x u', to those who add it.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::project(std::uint32_t sequence) {
  forget();
  if (m_own == 0) return;
  productByRows<NT>(convolvedOperands(), projected() / 16, m_channels,
                    [&](int row, int block, const float(&sums)[4]) {
                      sendParts(row / 2, block, {sums[0], sums[1]}, sequence);
                      sendParts(row / 2 + 4, block, {sums[2], sums[3]}, sequence);
                    });
}

/// Of a pair of rows, where this lane has the sums of one for two tokens and another of the other
/// row: each takes a token, and sends a packet of both rows.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::sendParts(int pair, int block, const float2& sums,
                                          std::uint32_t sequence) {
  const bool hasSecond = m_lane / 4 % 2 == 1;
  const float other = __shfl_xor_sync(~0u, hasSecond ? sums.x : sums.y, 4);
  const int token = block * kOperandTokens + m_lane % 4 * 2 + (hasSecond ? 1 : 0);
  send(partsOf(pair, token) + blockIdx.x * NT * kOperandTokens,
       __float_as_uint(hasSecond ? other : sums.x), __float_as_uint(hasSecond ? sums.y : other),
       sequence);
}

/// Adds the blocks' parts of a few pairs of rows, each for two tokens, and tells everyone. A warp
/// takes a pair: half of its lanes a token, and each of those every 16th block, added as
/// sumOfParts() does.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::addPartials(std::uint32_t sequence) {
  forget();
  constexpr int kLooks = 10;
  constexpr int kBlocks = 16;  // that are looked at together
  const int pairs = projected() / 2;
  const int tokenPairs = (tokens() + 1) / 2;
#pragma unroll 1
  for (int task = m_warp * gridDim.x + blockIdx.x; task < pairs * tokenPairs;
       task += kComputeWarps * gridDim.x) {
    const int token = task % tokenPairs * 2 + m_lane % 2;
    const int pair = task / tokenPairs;
    const uint4* parts = partsOf(pair, token);
    float2 sums[2] = {};
#pragma unroll 1
    for (int begin = 0; begin < a.mixingBlocks; begin += kBlocks * kLooks) {
      const auto blockOf = [&](int i) { return begin + i * kBlocks + m_lane / 2; };
      uint4 seen[kLooks];
      awaitPackets(seen, sequence, [&](int i) {
        return parts + min(blockOf(i), a.mixingBlocks - 1) * NT * kOperandTokens;
      });
#pragma unroll
      for (int i = 0; i < kLooks; ++i) {
        if (blockOf(i) >= a.mixingBlocks) break;
        sums[i % 2].x += __uint_as_float(seen[i].x);
        sums[i % 2].y += __uint_as_float(seen[i].z);
      }
    }
    float first = sums[0].x + sums[1].x;
    float second = sums[0].y + sums[1].y;
    for (int offset = 16; offset > 1; offset /= 2) {
      first += __shfl_xor_sync(~0u, first, offset);
      second += __shfl_xor_sync(~0u, second, offset);
    }
    if (m_lane >= 2 * kSelectedCopies || token >= tokens()) continue;
    uint4* to = a.selected + (m_lane / 2 * pairs + pair) * tokens() + token;
    send(to, __float_as_uint(first), __float_as_uint(second), sequence);
  }
}

/// Brings [δ, B, C] into shared memory: operands of δ, and B and C, [tokens][2 · padded states].
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::gatherSelected(SuppliedOperands<NT> delta, float* selected,
                                               std::uint32_t sequence) {
  constexpr int kLooks = 5;
  const int pairs = projected() / 2;
  const int all = pairs * tokens();
  const uint4* from = a.selected + static_cast<int>(blockIdx.x) % kSelectedCopies * all;
#pragma unroll 1
  for (int first = m_warp * 32; first < all; first += kLooks * kComputeThreads) {
    const auto placeOf = [&](int i) { return first + i * kComputeThreads + m_lane; };
    uint4 seen[kLooks];
    awaitPackets(seen, sequence, [&](int i) { return from + min(placeOf(i), all - 1); });
#pragma unroll
    for (int i = 0; i < kLooks; ++i) {
      if (placeOf(i) >= all) break;
      const int token = placeOf(i) % tokens();
      const int row = placeOf(i) / tokens() * 2;
      const float2 values{__uint_as_float(seen[i].x), __uint_as_float(seen[i].z)};
      if (row < rankRows())
        delta.store(token, row, values.x, values.y);
      else
        *reinterpret_cast<float2*>(selected + token * (projected() - rankRows()) + row -
                                   rankRows()) = values;
    }
  }
  meet();
}

/// Δ = softplus(W_dt δ + b_dt). Returns B and C: [tokens][2 · padded states].
template <int NT, int SPL>
__device__ const float* Chunk<NT, SPL>::computeDelta(std::uint32_t sequence) {
  forget();
  char* mail = inbox().mail;  // the moments have been read
  const int deltaSize = deltaBytes(a.size, NT);
  auto* selected = reinterpret_cast<float*>(mail + deltaSize);
  if (m_own == 0) return selected;
  const SuppliedOperands<NT> delta(mail, planes(), deltaSize / planes());
  gatherSelected(delta, selected, sequence);
  productByRows<1>(delta, m_channels / 16, rankRows(),
                   [&](int row, int block, const float(&sums)[4]) {
#pragma unroll
                     for (int i = 0; i < 4; ++i) {
                       const int own = row + i / 2 * 8;
                       const int token = block * kOperandTokens + m_lane % 4 * 2 + i % 2;
                       at(a.memory.delta, token, own) = softplus(sums[i] + record(kDtBias)[own]);
                     }
                   });
  meet();
  return selected;
}

/// s = Ā ⊙ s + (Δ ⊙ u') ⊗ B, y = s C + D ⊙ u', gated with SiLU(z), as the operands of out_proj.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::scan(int layer, const float* selected) {
  forget();
  const int states = a.size.states;
  const int q = m_thread % kScanLanes;
#pragma unroll 1
  for (int first = 0; first < m_channels; first += kScanChannels) {
    const int channel = first + m_thread / kScanLanes;
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
#pragma unroll 1
    for (int token = 0; token < tokens(); token += kScanLanes)
      scanTokens(layer, token, channel, selected, s, rate);
#pragma unroll
    for (int i = 0; i < SPL; ++i) {
      const int n = q * SPL + i;
      if (active && n < states) a.stateOut[place + n * 16] = s[i];
    }
  }
  if (a.traceB && blockIdx.x == 0) {
    const int stateStride = 2 * paddedStates(a.size);
    for (int i = m_thread; i < tokens() * states; i += kComputeThreads) {
      const int token = i / states;
      a.traceB[(static_cast<std::size_t>(layer) * a.capacity + token) * states + i % states] =
          selected[token * stateStride + i % states];
    }
  }
}

/// As many tokens as a channel has lanes: each lane then finishes one of them. Behind the last
/// token it is taken again with Δ = 0, which changes no state.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::scanTokens(int layer, int first, int channel, const float* selected,
                                           float (&s)[SPL], const float (&rate)[SPL]) {
  const int states = a.size.states;
  const int stateStride = 2 * paddedStates(a.size);
  const int q = m_thread % kScanLanes;
  const bool active = channel < m_own;
  const int slot = active ? channel : 0;
  ScanSums sums[kScanLanes];
#pragma unroll
  for (int t = 0; t < kScanLanes; ++t) {
    const int token = min(first + t, tokens() - 1);
    const float delta = first + t < tokens() ? at(a.memory.delta, token, slot) : 0.0f;
    const float gained = delta * at(a.memory.convolved, token, slot);
    const float* b = selected + token * stateStride + q * SPL;
    const float* c = b + stateStride / 2;
#pragma unroll
    for (int i = 0; i < SPL; i += 2) {
      const float2 rows = *reinterpret_cast<const float2*>(b + i);
      const float2 columns = *reinterpret_cast<const float2*>(c + i);
      if (q * SPL + i < states)
        sums[t].advance(s[i], power2(delta * rate[i]), gained, rows.x, columns.x);
      if (q * SPL + i + 1 < states)
        sums[t].advance(s[i + 1], power2(delta * rate[i + 1]), gained, rows.y, columns.y);
    }
  }
  const ScanSums own = sumsOfLanes(sums, a.taps != nullptr);
  const int token = min(first + q, tokens() - 1);
  const float skip = record(kSkip)[slot];
  const float u = at(a.memory.convolved, token, slot);
  const float value = active ? fmaf(skip, u, own.y) * silu(at(a.memory.z, token, slot)) : 0.0f;
  const float next = __shfl_down_sync(~0u, value, kScanLanes);
  if (!active || first + q >= tokens()) return;
  if (channel % 2 == 0) gated().store(token, m_channelBegin + channel, value, next);
  if (a.traceInput || a.taps) leaveBehind(layer, token, channel, own);
}

/// For replay, and for the taps.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::leaveBehind(int layer, int token, int channel,
                                            const ScanSums& sums) const {
  const int inner = a.layout.paddedInner;
  const int global = m_channelBegin + channel;
  const std::size_t row = static_cast<std::size_t>(layer) * a.capacity + token;
  const float delta = at(a.memory.delta, token, channel);
  if (a.traceInput) {
    a.traceInput[row * inner + global] = at(a.memory.u, token, channel);
    a.traceConvolved[row * inner + global] = at(a.memory.convolved, token, channel);
    a.traceDelta[row * inner + global] = delta;
  }
  if (a.taps)
    sums.writeTaps(a.taps + row * kTapKinds * inner + global, inner, delta,
                   static_cast<int>(a.size.states));
}

}  // namespace mb::cuda
