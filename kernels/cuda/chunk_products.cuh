// Products of weights with a chunk's activations, and the norms before them.
#pragma once

#include "kernels/cuda/chunk_block.cuh"

namespace mb::cuda {

/// Rows of `tileRows` tile rows, in panels. A warp takes every eighth column tile; the warps' sums
/// are added in their order. Operands must be free when it begins.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::product(Part part, int layer, int tileRows, int columns) {
  const int columnTiles = (columns + 15) / 16;
  const int staged = m_operandBytes / Operands<NT>::kTileStride / kComputeWarps * kComputeWarps;
#pragma unroll 1
  for (int panel = 0; panel < tileRows; panel += kPanel) {
    const int height = min(kPanel, tileRows - panel);
    Sums sums = {};
#pragma unroll 1
    for (int first = 0; first < columnTiles; first += staged) {
      const int count = min(staged, columnTiles - first);
      if (panel > 0 || first > 0) meet();
      stage(layer, first, count);
      meet();
      if (planes() > 1)
        multiplyPlanes(first, count, height, sums);
      else if (height == 1)
        multiplyStaged<1>(first, count, sums);
      else if (height == 2)
        multiplyStaged<2>(first, count, sums);
      else if (height == 3)
        multiplyStaged<3>(first, count, sums);
      else
        multiplyStaged<4>(first, count, sums);
    }
    m_cursor += columnTiles * planes() * height;
    m_reader.hold(m_cursor - 1, m_cursor - 1);
    if (!hasOwnSums(NT) || panel > 0) meet();
    reduce(part, panel * 16, height, sums);
  }
}

/// This warp's part of the staged columns, in panels of HEIGHT tile rows. Tiles are taken in
/// batches, all loads before all products: one warp has to hide its own latencies.
template <int NT, int SPL, bool ONE>
template <int HEIGHT>
__device__ void Chunk<NT, SPL, ONE>::multiplyStaged(int first, int count, Sums& sums) {
  constexpr int kBatch = NT <= 2 ? 4 : 2;  // spans up to kBatch + 1 stages
  constexpr int kStep = kComputeWarps * HEIGHT;
  const int batch = a.slots > kBatch ? kBatch : 1;
  int c = m_warp;
#pragma unroll 1
  for (; batch > 1 && c + (kBatch - 1) * kComputeWarps < count; c += kBatch * kComputeWarps) {
    const int tile = m_cursor + (first + c) * HEIGHT;
    m_reader.hold(tile, tile + (kBatch - 1) * kStep + HEIGHT - 1);
    uint2 b[kBatch][NT];
    uint4 weights[kBatch][HEIGHT];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
#pragma unroll
      for (int j = 0; j < NT; ++j) b[i][j] = m_operands.load(c + i * kComputeWarps, j);
#pragma unroll
      for (int m = 0; m < HEIGHT; ++m) weights[i][m] = m_reader.tile(tile + i * kStep + m);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
#pragma unroll
      for (int m = 0; m < HEIGHT; ++m) multiplyRow(sums, m, weights[i][m], b[i]);
  }
#pragma unroll 1
  for (; c < count; c += kComputeWarps) {
    const int tile = m_cursor + (first + c) * HEIGHT;
    m_reader.hold(tile, tile + HEIGHT - 1);
    uint2 b[NT];
#pragma unroll
    for (int j = 0; j < NT; ++j) b[j] = m_operands.load(c, j);
#pragma unroll
    for (int m = 0; m < HEIGHT; ++m) multiplyRow(sums, m, m_reader.tile(tile + m), b);
  }
}

/// Likewise for weights in several planes, with third parts of the operands.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::multiplyPlanes(int first, int count, int height, Sums& sums) {
#pragma unroll 1
  for (int c = m_warp; c < count; c += kComputeWarps) {
    const int tile = m_cursor + (first + c) * planes() * height;
    m_reader.hold(tile, tile + planes() * height - 1);
#pragma unroll 1
    for (int term = 0; term <= planes(); ++term) {
      const bool least = term == planes();  // third parts take the high parts of the weights
      uint2 b[NT];
#pragma unroll
      for (int j = 0; j < NT; ++j)
        b[j] = least ? m_operands.loadLeast(c, j) : m_operands.load(c, j);
#pragma unroll
      for (int m = 0; m < kPanel; ++m)
        if (m < height)
          multiplyRow(sums, m, m_reader.tile(tile + (least ? 0 : term * height) + m), b);
    }
  }
}

template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::multiplyRow(Sums& sums, int m, const uint4& weights,
                                                 const uint2 (&b)[NT]) const {
#pragma unroll
  for (int j = 0; j < NT; ++j) multiply(sums[m][j], weights, b[j]);
}

/// Adds the warps' sums.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::reduce(Part part, int firstRow, int tileRows,
                                            const Sums& sums) {
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
template <int NT, int SPL, bool ONE>
__device__ int Chunk<NT, SPL, ONE>::multiplyFewRows(int tileRows, int columnTiles, Sums& sums) {
  constexpr int kBatch = NT <= 2 ? 4 : 1;
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
      for (int j = 0; j < NT; ++j) b[i][j] = m_operands.load(c + i, j);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) multiplyRow(sums, 0, weights[i], b[i]);
  }
  return c;
}

template <int NT, int SPL, bool ONE>
template <class Output>
__device__ void Chunk<NT, SPL, ONE>::productByRows(int tileRows, int columns, Output output) {
  if (tileRows == 0) return;
  const int columnTiles = (columns + 15) / 16;
  Sums sums = {};
  int c = 0;
  if (planes() == 1 && tileRows <= kComputeWarps) c = multiplyFewRows(tileRows, columnTiles, sums);
#pragma unroll 1
  for (; c < columnTiles; ++c) {
#pragma unroll 1
    for (int term = 0; term < (planes() == 1 ? 1 : planes() + 1); ++term) {
      const bool least = term == planes();  // third parts take the high parts of the weights
      const int tile = m_cursor + (c * planes() + (least ? 0 : term)) * tileRows;
      if (!least) m_reader.hold(m_cursor + c * planes() * tileRows, tile + tileRows - 1);
      uint2 b[NT];
#pragma unroll
      for (int j = 0; j < NT; ++j)
        b[j] = least ? m_operands.loadLeast(c, j) : m_operands.load(c, j);
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
      const int token = 4 * j + m_lane % 4;
      if (token >= tokens()) continue;
      output(row, token, sums[m][j][0] + sums[m][j][1]);
      output(row + 8, token, sums[m][j][2] + sums[m][j][3]);
    }
  }
}

/// Puts column tiles of all tokens in place: (x - mean) ⊙ w.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::stage(int layer, int firstTile, int columnTiles) {
  if (isSingle()) return stageSingle(layer, columnTiles);
  const int columns = columnTiles * 16;
#pragma unroll 4
  for (int i = threadIdx.x; i < columns / 4 * tokens(); i += kComputeThreads) {
    const int token = tokens() == 1 ? 0 : i / (columns / 4);
    const int k = (i - token * (columns / 4)) * 4;
    const float4 x = residualAt(layer, token, firstTile * 16 + k);
    const float4 w = __ldg(reinterpret_cast<const float4*>(m_parameters + firstTile * 16 + k));
    const float mean = a.layerNorm ? m_means[token] : 0.0f;
    m_operands.store(token, k, (x.x - mean) * w.x, (x.y - mean) * w.y);
    m_operands.store(token, k + 2, (x.z - mean) * w.z, (x.w - mean) * w.w);
  }
}

template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::output(Part part, int row, int token, float sum) {
  if (part == Part::Expand) {
    const int own = row / 16 * 8 + row % 8;
    const bool isGate = row % 16 >= 8;
    *shared(isGate ? m_z : m_u, token, own) =
        fmaf(sum, scaleOf(token), record(isGate ? kInBiasZ : kInBiasU)[own]);
  } else {
    const std::uint32_t id = m_block.headTiles.begin * 16 + row;
    if (id < a.size.vocabulary)
      a.logits[static_cast<std::size_t>(token) * a.size.vocabulary + id] =
          fmaf(sum, scaleOf(token), a.headBias ? __ldg(a.headBias + id) : 0.0f);
  }
}

// ---- norms
//
// norm(x) = (x - mean) ⊙ w · scale + b, where RMSNorm has neither mean nor b. The scale is one
// factor for all of a token's values and is left until after the product; W b is added to what the
// product's output has for a bias when the weights are loaded.

/// Loads the norm's weights for a single token.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::holdNorm(const float* weight) {
  if (!isSingle()) return;
#pragma unroll
  for (int i = 0; i < kHeldQuads; ++i) {
    const int k = threadIdx.x * 4 + i * kQuadColumns;
    if (k < static_cast<int>(a.layout.paddedModel))
      m_norm[i] = __ldg(reinterpret_cast<const float4*>(weight + k));
  }
}

/// Keeps this warp's part of a sum over a token's values.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::keepMoment(int token, float sum) {
  sum = sumOfWarp(sum);
  if (m_lane == 0) m_moments[token * kComputeWarps + m_warp] = sum;
}

/// Sums over every token's values, by all blocks alike: of squares, and for LayerNorm of what is
/// left when the mean is taken away. A thread adds the same values of a token in every chunk.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::measure(int layer) {
  const int model = a.size.model;
#pragma unroll 1
  for (int pass = a.layerNorm ? 0 : 1; pass < 2; ++pass) {
#pragma unroll 1
    for (int token = 0; token < tokens(); ++token) {
      const float mean = a.layerNorm && pass == 1 ? m_means[token] : 0.0f;
      float sum = 0;
#pragma unroll 1
      for (int k = threadIdx.x * 4; k < model; k += kQuadColumns) {
        const float4 v = residualAt(layer, token, k);
        const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float centred = k + i < model ? values[i] - mean : 0.0f;
          sum = pass == 0 ? sum + centred : fmaf(centred, centred, sum);
        }
      }
      keepMoment(token, sum);
    }
    meet();
    if (pass == 1) return;
    for (int token = threadIdx.x; token < tokens(); token += kComputeThreads) {
      float sum = 0;
      for (int w = 0; w < kComputeWarps; ++w) sum += m_moments[token * kComputeWarps + w];
      m_means[token] = sum / static_cast<float>(model);
    }
    meet();
  }
}

/// 1 / sqrt(variance + ε).
template <int NT, int SPL, bool ONE>
__device__ float Chunk<NT, SPL, ONE>::scaleOf(int token) const {
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kComputeWarps; ++w) sum += m_moments[token * kComputeWarps + w];
  return rsqrtf(sum / static_cast<float>(a.size.model) + a.epsilon);
}

/// A single token's values, and the sum of their squares, in one go.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::stageSingle(int layer, int columnTiles) {
  const int columns = columnTiles * 16;
  float4 x[kHeldQuads];
#pragma unroll
  for (int i = 0; i < kHeldQuads; ++i) {
    const int k = threadIdx.x * 4 + i * kQuadColumns;
    if (k < columns) x[i] = residualAt(layer, 0, k);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kHeldQuads; ++i) {
    const int k = threadIdx.x * 4 + i * kQuadColumns;
    if (k >= columns) break;
    m_operands.store(0, k, x[i].x * m_norm[i].x, x[i].y * m_norm[i].y);
    m_operands.store(0, k + 2, x[i].z * m_norm[i].z, x[i].w * m_norm[i].w);
    sum = fmaf(x[i].x, x[i].x, sum);  // values behind the last are zero and add nothing
    sum = fmaf(x[i].y, x[i].y, sum);
    sum = fmaf(x[i].z, x[i].z, sum);
    sum = fmaf(x[i].w, x[i].w, sum);
  }
  keepMoment(0, sum);
}

}  // namespace mb::cuda
