// Products of weights with a chunk's activations, and the norms before them.
#pragma once

#include "kernels/cuda/chunk_block.cuh"

namespace mb::cuda {

/// Rows of `tileRows` tile rows, in panels. A warp takes every eighth column tile; the warps' sums
/// are added in their order.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::product(Part part, int layer, int tileRows, int columns) {
  const int columnTiles = (columns + 15) / 16;
  const GridOperands<NT>& from = part == Part::Contract ? m_gated : m_input;
#pragma unroll 1
  for (int panel = 0; panel < tileRows; panel += kPanel) {
    const int height = min(kPanel, tileRows - panel);
    Sums sums = {};
    if (planes() > 1)
      multiplyPlanes(from, columnTiles, height, sums);
    else if (height == 1)
      multiplyWhole<1>(from, columnTiles, sums);
    else if (height == 2)
      multiplyWhole<2>(from, columnTiles, sums);
    else if (height == 3)
      multiplyWhole<3>(from, columnTiles, sums);
    else
      multiplyWhole<4>(from, columnTiles, sums);
    m_cursor += columnTiles * planes() * height;
    m_reader.hold(m_cursor - 1, m_cursor - 1);
    if (panel == 0 && part != Part::Contract) measure();
    if (panel > 0) meet();
    reduce(part, panel * 16, height, sums);
  }
}

/// In panels of HEIGHT tile rows. Tiles are taken in batches, all loads before all products: one
/// warp has to hide its own latencies.
template <int NT, int SPL>
template <int HEIGHT>
__device__ void Chunk<NT, SPL>::multiplyWhole(const GridOperands<NT>& from, int columnTiles,
                                              Sums& sums) {
  constexpr int kBatch = NT <= 4 ? 4 : 2;  // spans up to kBatch + 1 stages
  constexpr int kStep = kComputeWarps * HEIGHT;
  const int batch = a.slots > kBatch ? kBatch : 1;
  int c = m_warp;
#pragma unroll 1
  for (; batch > 1 && c + (kBatch - 1) * kComputeWarps < columnTiles; c += kBatch * kComputeWarps) {
    const int tile = m_cursor + c * HEIGHT;
    uint2 b[kBatch][NT];
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
#pragma unroll
      for (int j = 0; j < NT; ++j) b[i][j] = from.load(c + i * kComputeWarps, j);
    m_reader.hold(tile, tile + (kBatch - 1) * kStep + HEIGHT - 1);
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
#pragma unroll
      for (int m = 0; m < HEIGHT; ++m)
        multiplyRow(sums, m, m_reader.tile(tile + i * kStep + m), b[i]);
  }
#pragma unroll 1
  for (; c < columnTiles; c += kComputeWarps) {
    const int tile = m_cursor + c * HEIGHT;
    uint2 b[NT];
#pragma unroll
    for (int j = 0; j < NT; ++j) b[j] = from.load(c, j);
    m_reader.hold(tile, tile + HEIGHT - 1);
#pragma unroll
    for (int m = 0; m < HEIGHT; ++m) multiplyRow(sums, m, m_reader.tile(tile + m), b);
  }
}

/// Likewise for weights in several planes, with third parts of the operands.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::multiplyPlanes(const GridOperands<NT>& from, int columnTiles,
                                               int height, Sums& sums) {
#pragma unroll 1
  for (int c = m_warp; c < columnTiles; c += kComputeWarps) {
    const int tile = m_cursor + c * planes() * height;
    m_reader.hold(tile, tile + planes() * height - 1);
#pragma unroll 1
    for (int term = 0; term <= planes(); ++term) {
      const bool least = term == planes();  // third parts take the high parts of the weights
      uint2 b[NT];
#pragma unroll
      for (int j = 0; j < NT; ++j) b[j] = least ? from.loadLeast(c, j) : from.load(c, j);
#pragma unroll
      for (int m = 0; m < kPanel; ++m)
        if (m < height)
          multiplyRow(sums, m, m_reader.tile(tile + (least ? 0 : term * height) + m), b);
    }
  }
}

template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::multiplyRow(Sums& sums, int m, const uint4& weights,
                                            const uint2 (&b)[NT]) const {
#pragma unroll
  for (int j = 0; j < NT; ++j) multiply(sums[m][j], weights, b[j]);
}

/// Adds the warps' sums.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::reduce(Part part, int firstRow, int tileRows, const Sums& sums) {
  const int perWarp = tileRows * NT * 64;
#pragma unroll
  for (int m = 0; m < kPanel; ++m) {
    if (m >= tileRows) break;
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      float* at = m_sums + m_warp * perWarp + (m * NT + j) * 64 + m_lane;
      at[0] = sums[m][j][0] + sums[m][j][1];
      at[32] = sums[m][j][2] + sums[m][j][3];
    }
  }
  meet();
#pragma unroll 1
  for (int i = threadIdx.x; i < perWarp; i += kComputeThreads) {
    const int token = i / 64 % NT * 4 + i % 4;
    if (token >= tokens()) continue;
    float sum = m_sums[i];
#pragma unroll
    for (int w = 1; w < kComputeWarps; ++w) sum += m_sums[w * perWarp + i];
    const int row = firstRow + i / (64 * NT) * 16 + i % 64 / 32 * 8 + i % 32 / 4;
    output(part, row, token, sum);
  }
}

/// At most one tile row a warp: column tiles in batches, all loads before all products. Returns how
/// many it took.
template <int NT, int SPL>
template <class From>
__device__ int Chunk<NT, SPL>::multiplyFewRows(const From& from, int tileRows, int columnTiles,
                                               Sums& sums) {
  constexpr int kBatch = NT <= 2 ? 4 : NT <= 4 ? 2 : 1;
  int c = 0;
#pragma unroll 1
  for (; c + kBatch <= columnTiles; c += kBatch) {
    const int tile = m_cursor + c * tileRows;
    m_reader.hold(tile, tile + kBatch * tileRows - 1);
    if (m_warp >= tileRows) continue;
    uint2 b[kBatch][NT];
    uint4 weights[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      weights[i] = m_reader.tile(tile + i * tileRows + m_warp);
#pragma unroll
      for (int j = 0; j < NT; ++j) b[i][j] = from.load(c + i, j);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) multiplyRow(sums, 0, weights[i], b[i]);
  }
  return c;
}

template <int NT, int SPL>
template <class From, class Output>
__device__ void Chunk<NT, SPL>::productByRows(const From& from, int tileRows, int columns,
                                              Output output) {
  if (tileRows == 0) return;
  const int columnTiles = (columns + 15) / 16;
  Sums sums = {};
  int c = 0;
  if (planes() == 1 && tileRows <= kComputeWarps)
    c = multiplyFewRows(from, tileRows, columnTiles, sums);
#pragma unroll 1
  for (; c < columnTiles; ++c) {
#pragma unroll 1
    for (int term = 0; term < (planes() == 1 ? 1 : planes() + 1); ++term) {
      const bool least = term == planes();  // third parts take the high parts of the weights
      const int tile = m_cursor + (c * planes() + (least ? 0 : term)) * tileRows;
      if (!least) m_reader.hold(m_cursor + c * planes() * tileRows, tile + tileRows - 1);
      uint2 b[NT];
#pragma unroll
      for (int j = 0; j < NT; ++j) b[j] = least ? from.loadLeast(c, j) : from.load(c, j);
#pragma unroll
      for (int m = 0; m < kPanel; ++m) {
        const int row = m * kComputeWarps + m_warp;
        if (row < tileRows) multiplyRow(sums, m, m_reader.tile(tile + row), b);
      }
    }
  }
  m_cursor += columnTiles * planes() * tileRows;
  m_reader.hold(m_cursor - 1, m_cursor - 1);
#pragma unroll
  for (int m = 0; m < kPanel; ++m) {
    const int row = (m * kComputeWarps + m_warp) * 16 + m_lane / 4;
    if (row >= tileRows * 16) break;
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      output(row, 4 * j + m_lane % 4, sums[m][j][0] + sums[m][j][1]);
      output(row + 8, 4 * j + m_lane % 4, sums[m][j][2] + sums[m][j][3]);
    }
  }
}

template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::output(Part part, int row, int token, float sum) {
  if (part == Part::Expand) {
    const int own = row / 16 * 8 + row % 8;
    const bool isGate = row % 16 >= 8;
    *shared(isGate ? m_z : m_u, token, own) =
        normed(token, sum, a.layerNorm ? record(isGate ? kInMeanZ : kInMeanU)[own] : 0.0f,
               record(isGate ? kInBiasZ : kInBiasU)[own]);
  } else if (part == Part::Contract) {
    m_residual[token * a.outRows + row] += sum;
  } else {
    const std::uint32_t id = m_block.headTiles.begin * 16 + row;
    if (id < a.size.vocabulary)
      a.logits[static_cast<std::size_t>(token) * a.size.vocabulary + id] =
          normed(token, sum, a.headMean ? __ldg(a.headMean + id) : 0.0f,
                 a.headBias ? __ldg(a.headBias + id) : 0.0f);
  }
}

// ---- norms
//
// norm(x) = (x - mean) ⊙ w · scale + b, where RMSNorm has neither mean nor b. Operands are x ⊙ w.
// The scale is one factor for all of a token's values and is left until after the product, and so
// is the mean, times W w; W b is added to what the product's output has for a bias when the weights
// are loaded.

/// A product's sum with the norm completed. `mean` and `bias` are the row's W w and W b.
template <int NT, int SPL>
__device__ float Chunk<NT, SPL>::normed(int token, float sum, float mean, float bias) const {
  if (a.layerNorm) sum = fmaf(-m_means[token], mean, sum);
  return fmaf(sum, m_scales[token], bias);
}

/// Adds up what the residual's owners found, in the order of Step: for each warp there the tiles
/// that it takes, by eights, and then the warps.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::measure() {
#pragma unroll 1
  for (int token = m_warp; token < tokens(); token += kComputeWarps) {
    const auto total = [&](int kind) {
      const float* moments = a.moments + (kind * a.capacity + token) * m_modelTiles;
      float sums[2] = {};  // of warps lane / 8 and lane / 8 + 4
      for (int first = 0; first < m_modelTiles; first += 8 * kComputeWarps) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int tile = first + m_lane % 8 * kComputeWarps + m_lane / 8 + 4 * half;
          float sum = tile < m_modelTiles ? __ldcg(moments + tile) : 0.0f;
          for (int offset = 1; offset < 8; offset *= 2) sum += __shfl_xor_sync(~0u, sum, offset);
          sums[half] += sum;
        }
      }
      float sum = __shfl_sync(~0u, sums[0], 0);
#pragma unroll
      for (int w = 1; w < kComputeWarps; ++w) sum += __shfl_sync(~0u, sums[w / 4], w % 4 * 8);
      return sum;
    };
    const float mean = a.layerNorm ? total(1) / static_cast<float>(a.size.model) : 0.0f;
    const float scale = normScale(a, total(0), mean);
    if (m_lane == 0) {
      m_scales[token] = scale;
      m_means[token] = mean;
    }
  }
}

}  // namespace mb::cuda
