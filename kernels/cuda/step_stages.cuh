// The stages of a layer on a single token and the channels of one block.
#pragma once

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/scan_sums.cuh"
#include "kernels/cuda/step_products.cuh"

namespace mb::cuda {

// Row o of in_proj's panel is channel o / 16 · 8 + o % 8 of the block, u where o % 16 < 8 and z
// behind. In every warp lane o % 32 keeps row o, so a lane pair of groups fills a warp.

/// Starts what can be loaded before the layer's input is known, and takes the channels' record.
template <int PAIRS>
__device__ void Step<PAIRS>::fetch(int layer) {
  forget();
  const float* state = m_stateIn + stateOffset(a, layer);
  const int inner = static_cast<int>(a.layout.paddedInner);
#pragma unroll
  for (int pair = 0; pair < PAIRS; ++pair) {
    const int channel = pair * 16 + m_lane / 16 * 8 + m_lane % 8;
#pragma unroll
    for (int i = 0; i < kTaps - 1; ++i)
      m_history[pair][i] =
          channel < m_own ? __ldcg(state + (kStates + i) * inner + m_channelBegin + channel) : 0.0f;
  }
  const int channel = m_warp * 4 + m_lane / kScanLanes;
  if (channel < m_own) {
    const int global = m_channelBegin + channel;
    const float* from = state + global / 16 * 16 * kStates + global % 16;
#pragma unroll
    for (int i = 0; i < 2; ++i) m_state[i] = __ldcg(from + (m_lane % kScanLanes * 2 + i) * 16);
  }

  m_recordTurn ^= 1;
  const int tiles = static_cast<int>(m_block.recordTiles);
  const int size = kFields * m_channels;
  m_reader.hold(m_cursor, m_cursor + tiles - 1);
  for (int t = m_warp; t < tiles; t += kComputeWarps) {
    const int at = t * 128 + m_lane * 4;
    if (at < size) *reinterpret_cast<uint4*>(records() + at) = m_reader.tile(m_cursor + t);
  }
  m_cursor += tiles;
}

/// u' = SiLU(conv(u)) and SiLU(z), in every warp alike; the first moves the convolution's memory.
template <int PAIRS>
__device__ void Step<PAIRS>::convolve(int layer) {
  forget();
  const int inner = static_cast<int>(a.layout.paddedInner);
  float* memory = m_stateOut + stateOffset(a, layer) + kStates * inner + m_channelBegin;
  const bool isGate = m_lane % 16 >= 8;
#pragma unroll
  for (int pair = 0; pair < PAIRS; ++pair) {
    const int channel = pair * 16 + m_lane / 16 * 8 + m_lane % 8;
    m_mixed[pair] = 0;
    if (channel >= m_own) continue;
    const float value =
        fmaf(total(pair * 32 + m_lane), m_scale, record(isGate ? kInBiasZ : kInBiasU)[channel]);
    float sum = record(kConvBias)[channel];
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap)
      sum = fmaf(record(kConvWeights + tap)[channel],
                 tap < kTaps - 1 ? m_history[pair][tap] : value, sum);
    m_mixed[pair] = silu(isGate ? value : sum);
    if (m_warp != 0 || isGate) continue;
#pragma unroll
    for (int i = 0; i < kTaps - 1; ++i)
      memory[i * inner + channel] = i < kTaps - 2 ? m_history[pair][i + 1] : value;
  }
}

/// This block's part of [δ, B, C] = W_x u'.
template <int PAIRS>
__device__ void Step<PAIRS>::project() {
  forget();
  const int tileRows = static_cast<int>(projectedRows(a.size)) / 16;
  const int columnTiles = m_channels / 16;
  m_reader.hold(m_cursor, m_cursor + columnTiles * tileRows - 1);
  uint2 b[PAIRS];
#pragma unroll
  for (int pair = 0; pair < PAIRS; ++pair) {
    const int from = m_lane % 4 * 2;
    const auto mixed = [&](int lane) { return __shfl_sync(~0u, m_mixed[pair], lane); };
    b[pair].x = roundedPair(mixed(from), mixed(from + 1));
    b[pair].y = roundedPair(mixed(from + 16), mixed(from + 17));
  }
#pragma unroll 1
  for (int row = m_warp; row < tileRows; row += kComputeWarps) {
    float sums[4] = {};
#pragma unroll
    for (int pair = 0; pair < PAIRS; ++pair)
      if (pair < columnTiles)
        multiply(sums, m_reader.tile(m_cursor + pair * tileRows + row), b[pair]);
    const float nextNear = __shfl_down_sync(~0u, sums[0], 4);
    const float nextFar = __shfl_down_sync(~0u, sums[2], 4);
    if (m_lane % 8 != 0) continue;
    uint4* to =
        a.packets + a.packetLayout.partials + (row * 8 + m_lane / 8) * gridDim.x + blockIdx.x;
    send(to, __float_as_uint(sums[0]), __float_as_uint(nextNear), m_sequence);
    send(to + 4 * gridDim.x, __float_as_uint(sums[2]), __float_as_uint(nextFar), m_sequence);
  }
  m_cursor += columnTiles * tileRows;
}

/// Adds the blocks' parts of a few pairs of rows, a warp a pair, and tells everyone.
template <int PAIRS>
__device__ void Step<PAIRS>::addPartials() {
  forget();
  const int pairs = static_cast<int>(projectedRows(a.size)) / 2;
  const int rankPairs = static_cast<int>(tilesFor(a.size.dtRank)) * 8;
  int warp = kComputeWarps - 1;  // the last ones have least to do
#pragma unroll 1
  for (int pair = blockIdx.x; pair < pairs; pair += gridDim.x) {
    const bool mine = m_warp == warp;
    warp = warp == 0 ? kComputeWarps - 1 : warp - 1;
    if (!mine) continue;
    const uint4* parts = a.packets + a.packetLayout.partials + pair * gridDim.x;
    const float2 sums = sumOfParts(parts, a.mixingBlocks, m_sequence);
    if (m_lane >= kSelectedCopies) continue;
    uint4* copy = a.packets + a.packetLayout.selected + m_lane * a.packetLayout.selectedSize;
    if (pair >= rankPairs) {
      uint4* to = copy + rankPairs / 8 * kLinePackets + pair - rankPairs;
      send(to, __float_as_uint(sums.x), __float_as_uint(sums.y), m_sequence);
    } else {
      auto* to = reinterpret_cast<uint2*>(copy + pair / 8 * kLinePackets + pair % 4);
      send(to + pair % 8 / 4, roundedPair(sums.x, sums.y), m_sequence);
    }
  }
}

/// Δ = softplus(W_dt δ + b_dt), s = Ā ⊙ s + (Δ ⊙ u') ⊗ B, y = s C + D ⊙ u', gated with SiLU(z). A
/// warp takes four channels, and eight lanes a channel's states.
template <int PAIRS>
__device__ void Step<PAIRS>::scan(int layer) {
  forget();
  const int rankTiles = static_cast<int>(tilesFor(a.size.dtRank));
  const int tileRows = m_channels / 16;
  const int matrix = m_cursor;
  m_cursor += rankTiles * tileRows;
  m_reader.hold(matrix, m_cursor - 1);
  if (m_warp * 4 >= m_own) return;

  constexpr int kLooks = (kStepRankTiles + kTilesOfLook - 1) / kTilesOfLook;
  const int q = m_lane % kScanLanes;
  const uint4* delta = a.packets + a.packetLayout.selected +
                       blockIdx.x % kSelectedCopies * a.packetLayout.selectedSize;
  const uint4* selected = delta + rankTiles * kLinePackets;
  uint4 seen[kLooks];
  uint4 b;
  uint4 c;
  await([&] {
#pragma unroll
    for (int i = 0; i < kLooks; ++i)
      if (i * kTilesOfLook < rankTiles)
        seen[i] = look(
            delta + min(i * kTilesOfLook + m_lane / kPacketsOfTile, rankTiles - 1) * kLinePackets +
            m_lane % kPacketsOfTile);
    b = look(selected + q);
    c = look(selected + kStates / 2 + q);
    bool there = isOf(b, m_sequence) && isOf(c, m_sequence);
#pragma unroll
    for (int i = 0; i < kLooks; ++i)
      if (i * kTilesOfLook < rankTiles) there &= isOf(seen[i], m_sequence);
    return there;
  });
  float sums[4] = {};
#pragma unroll
  for (int i = 0; i < kStepRankTiles; ++i) {
    if (i >= rankTiles) break;
    multiply(sums, m_reader.tile(matrix + i * tileRows + m_warp / 4),
             operandOf(seen[i / kTilesOfLook], i % kTilesOfLook));
  }

  const int channel = m_warp * 4 + m_lane / kScanLanes;
  const bool isFar = channel % 16 >= 8;
  const float rank = __shfl_sync(~0u, isFar ? sums[2] : sums[0], channel % 8 * 4);
  // Not by m_warp / 4 == pair, from which the compiler makes an index, and memory of registers.
  float mixed = m_mixed[PAIRS - 1];
#pragma unroll
  for (int pair = PAIRS - 2; pair >= 0; --pair)
    if (m_warp < (pair + 1) * 4) mixed = m_mixed[pair];
  const int from = channel % 16 / 8 * 16 + channel % 8;
  const float u = __shfl_sync(~0u, mixed, from);
  const float gate = __shfl_sync(~0u, mixed, from + 8);

  const float step = softplus(rank + record(kDtBias)[channel]);
  const float gained = step * u;
  const float rows[2] = {__uint_as_float(b.x), __uint_as_float(b.z)};
  const float columns[2] = {__uint_as_float(c.x), __uint_as_float(c.z)};
  ScanSums scanned;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float kept = power2(step * record(kConvWeights + kTaps + 2 * q + i)[channel]);
    scanned.advance(m_state[i], kept, gained, rows[i], columns[i]);
  }
  scanned.addLanes(a.taps != nullptr);
  const float gated = fmaf(record(kSkip)[channel], u, scanned.y) * gate;
  const float next = __shfl_down_sync(~0u, gated, kScanLanes);
  const int global = m_channelBegin + channel;
  if (channel % 2 == 0 && q == 0) {
    auto* to = reinterpret_cast<uint2*>(a.packets + a.packetLayout.output +
                                        global / 16 * kLinePackets + global % 8 / 2);
    send(to + global % 16 / 8, roundedPair(gated, next), m_sequence);
  }
  float* to = m_stateOut + stateOffset(a, layer) + global / 16 * 16 * kStates + global % 16;
#pragma unroll
  for (int i = 0; i < 2; ++i) to[(2 * q + i) * 16] = m_state[i];
  if (a.taps && q == 0) {
    const int inner = static_cast<int>(a.layout.paddedInner);
    float* tap = a.taps +
                 (static_cast<std::size_t>(layer) * a.capacity + m_pass) * kTapKinds * inner +
                 global;
    scanned.writeTaps(tap, inner, step, kStates);
  }
}

/// Adds the block's rows of W_out y to its part of the residual.
template <int PAIRS>
__device__ void Step<PAIRS>::contract() {
  product(a.packets + a.packetLayout.output, static_cast<int>(a.size.inner) / 16,
          m_block.outTiles.count, false);
  if (m_warp < m_block.outTiles.count) m_residual += total(m_warp * 16 + m_lane % 16);
}

/// Tells the others what the next norm and product take.
template <int PAIRS>
__device__ void Step<PAIRS>::publish() {
  forget();
  const float scaled = m_residual * m_normWeight;
  const float next = __shfl_down_sync(~0u, scaled, 1);
  float squares = m_residual * m_residual;
  for (int offset = 8; offset > 0; offset /= 2) squares += __shfl_xor_sync(~0u, squares, offset);
  const std::uint32_t tile = m_block.outTiles.begin + m_warp;
  const std::uint32_t rounded = roundedPair(scaled, next);
  // Lanes of the lower half have the same values as those of the upper: they serve other copies.
  uint4* copy = a.packets + a.packetLayout.input + m_lane / 16 * a.packetLayout.inputSize;
#pragma unroll
  for (int i = 0; i < kInputCopies; i += 2, copy += 2 * a.packetLayout.inputSize) {
    if (m_lane % 2 == 0) {
      auto* to =
          reinterpret_cast<uint2*>(copy + tile * kLinePackets + m_lane % 8 / 2) + m_lane % 16 / 8;
      send(to, rounded, m_sequence);
    }
    if (m_lane % 16 == 0)
      send(reinterpret_cast<uint2*>(copy + tile * kLinePackets + kPacketsOfTile),
           __float_as_uint(squares), m_sequence);
  }
}

}  // namespace mb::cuda
