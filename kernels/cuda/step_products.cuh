// Products of weights with what the packets of a single token bring.
#pragma once

#include "kernels/cuda/step.cuh"

namespace mb::cuda {

/// Register pair of the B operand for tile `tile` (0 to 3) of the four that a warp's lanes hold.
/// Columns beyond the first two are the same again, and nobody asks for their sums.
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
    at[0] = sums[m][0] + sums[m][1];
    at[8] = sums[m][2] + sums[m][3];
  }
  if (withSquares && m_lane == 0) turnSums()[m_warp * kStepSumStride + kPanelRows] = m_squares;
  meet();
  if (withSquares) m_scale = normScale(a, total(kPanelRows), 0);
}

/// A warp takes every eighth column tile, and of those a lane the packets of every fourth.
template <int PAIRS>
template <int HEIGHT>
__device__ void Step<PAIRS>::multiplyGathered(const uint4* packets, int columnTiles,
                                              bool withSquares, Sums& sums) {
  constexpr int kLooks = HEIGHT <= 2 ? 2 : 1;
  constexpr int kGather = 4 * kLooks;  // column tiles at a time
  const auto* squares = reinterpret_cast<const uint2*>(packets + columnTiles * kPacketsOfTile);
  m_squares = 0;
#pragma unroll 1
  for (int first = m_warp; first < columnTiles; first += kGather * kComputeWarps) {
    const auto columnAt = [&](int i) { return min(first + i * kComputeWarps, columnTiles - 1); };
    const int tile = m_cursor + first * HEIGHT;
    m_reader.hold(tile, m_cursor + columnAt(kGather - 1) * HEIGHT + HEIGHT - 1);
    uint4 weights[kGather][HEIGHT];
#pragma unroll
    for (int i = 0; i < kGather; ++i)
#pragma unroll
      for (int m = 0; m < HEIGHT; ++m)
        weights[i][m] = m_reader.tile(m_cursor + columnAt(i) * HEIGHT + m);

    uint4 seen[kLooks];
    const int batch = first / kComputeWarps;
    const bool measures = withSquares && batch % kSquares == 0;
    const int squareTile = first + m_lane % kSquares * kComputeWarps;
    await([&] {
      bool there = true;
#pragma unroll
      for (int i = 0; i < kLooks; ++i)
        seen[i] = look(packets + columnAt(4 * i + m_lane / kPacketsOfTile) * kPacketsOfTile +
                       m_lane % kPacketsOfTile);
#pragma unroll
      for (int i = 0; i < kLooks; ++i) there &= isOf(seen[i], m_sequence);
      return there;
    });
    const uint2* squareAt = squares + min(squareTile, columnTiles - 1);
    uint2 square = {};
    if (measures) square = look(squareAt);  // comes while the products are made
#pragma unroll
    for (int i = 0; i < kGather; ++i) {
      if (first + i * kComputeWarps >= columnTiles) break;
      const uint2 b = operandOf(seen[i / 4], i % 4);
#pragma unroll
      for (int m = 0; m < HEIGHT; ++m) multiply(sums[m], weights[i][m], b);
    }
    if (!measures) continue;
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
