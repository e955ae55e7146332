// Products of weights with what the packets of a single token bring.
#pragma once

#include "kernels/cuda/step.cuh"

namespace mb::cuda {

/// Register pair of the B operand for tile `tile` (0 to 7) of the eight that a warp's lanes hold.
/// Columns beyond the first are the same again, and nobody asks for their sums.
template <int PAIRS>
__device__ uint2 Step<PAIRS>::operandOf(const uint4& packet, int tile) const {
  const int lane = tile * kPacketsOfTile + m_lane % kPacketsOfTile;
  return {__shfl_sync(~0u, packet.x, lane), __shfl_sync(~0u, packet.z, lane)};
}

/// One panel: at most kPanel tile rows times what the packets bring. Leaves the warps' sums for
/// total(); with squares, m_scale as well.
template <int PAIRS>
__device__ void Step<PAIRS>::product(const uint4* packets, int columnTiles, int tileRows,
                                     bool withSquares) {
  forget();
  Sums sums = {};
  if (tileRows == 1)
    multiplyGathered<1>(packets, columnTiles, withSquares, sums);
  else if (tileRows == 2)
    multiplyGathered<2>(packets, columnTiles, withSquares, sums);
  else if (tileRows == 3)
    multiplyGathered<3>(packets, columnTiles, withSquares, sums);
  else
    multiplyGathered<4>(packets, columnTiles, withSquares, sums);
  m_cursor += columnTiles * tileRows;
  m_reader.hold(m_cursor - 1, m_cursor - 1);
  m_turn ^= 1;
#pragma unroll
  for (int m = 0; m < kPanel; ++m) {
    if (m >= tileRows) break;
    if (m_lane % 4 != 0) continue;
    float* at = turnSums() + m_warp * kStepSumStride + m * 16 + m_lane / 4;
    at[0] = sums[m][0];
    at[8] = sums[m][2];
  }
  if (withSquares && m_lane == 0) turnSums()[m_warp * kStepSumStride + kPanelRows] = m_squares;
  meet();
  if (withSquares) m_scale = normScale(a, total(kPanelRows), 0);
}

/// A warp takes every eighth column tile, and of eight of those a lane looks at one packet. The
/// next eight are looked at before the products of these: that takes its time even when they are
/// there.
template <int PAIRS>
template <int HEIGHT>
__device__ void Step<PAIRS>::multiplyGathered(const uint4* packets, int columnTiles,
                                              bool withSquares, Sums& sums) {
  constexpr int kHeld = HEIGHT <= 2 ? 8 : 4;  // column tiles whose weights are in registers
  static_assert(kTilesOfLook == kSquares);
  m_squares = 0;
  const auto columnAt = [&](int first, int i) {
    return min(first + i * kComputeWarps, columnTiles - 1);
  };
  const auto lookFrom = [&](int first) {
    return look(packets + columnAt(first, m_lane / kPacketsOfTile) * kLinePackets +
                m_lane % kPacketsOfTile);
  };
  uint4 next = lookFrom(m_warp);
#pragma unroll 1
  for (int first = m_warp; first < columnTiles; first += kTilesOfLook * kComputeWarps) {
    uint4 weights[kHeld][HEIGHT];
    const auto hold = [&](int from) {
      m_reader.hold(m_cursor + columnAt(first, from) * HEIGHT,
                    m_cursor + columnAt(first, from + kHeld - 1) * HEIGHT + HEIGHT - 1);
#pragma unroll
      for (int i = 0; i < kHeld; ++i)
#pragma unroll
        for (int m = 0; m < HEIGHT; ++m)
          weights[i][m] = m_reader.tile(m_cursor + columnAt(first, from + i) * HEIGHT + m);
    };
    hold(0);
    while (!__all_sync(~0u, isOf(next, m_sequence))) next = lookFrom(first);
    const uint4 seen = next;
    const int after = first + kTilesOfLook * kComputeWarps;
    if (after < columnTiles) next = lookFrom(after);
    const int squareTile = first + m_lane % kSquares * kComputeWarps;
    const auto* squareAt = reinterpret_cast<const uint2*>(
        packets + columnAt(first, m_lane % kSquares) * kLinePackets + kPacketsOfTile);
    uint2 square = {};
    if (withSquares) square = look(squareAt);  // comes while the products are made
#pragma unroll
    for (int i = 0; i < kTilesOfLook; ++i) {
      if (first + i * kComputeWarps >= columnTiles) break;
      if (i > 0 && i % kHeld == 0) hold(i);
      const uint2 b = operandOf(seen, i);
#pragma unroll
      for (int m = 0; m < HEIGHT; ++m) multiply(sums[m], weights[i % kHeld][m], b);
    }
    if (!withSquares) continue;
    while (!__all_sync(~0u, isOf(square, m_sequence))) square = look(squareAt);
    float sum = squareTile < columnTiles ? __uint_as_float(square.x) : 0.0f;
    for (int offset = 1; offset < kSquares; offset *= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    m_squares += sum;
  }
}

/// A row of the last product.
template <int PAIRS>
__device__ float Step<PAIRS>::total(int row) const {
  const float* parts = turnSums();
  float sum = parts[row];
#pragma unroll
  for (int w = 1; w < kComputeWarps; ++w) sum += parts[w * kStepSumStride + row];
  return sum;
}

}  // namespace mb::cuda
