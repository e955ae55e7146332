// Products of weights with a chunk's activations, and the norms before them.
#pragma once

#include "kernels/cuda/chunk_block.cuh"

namespace mb::cuda {

/// Rows of `tileRows` tile rows, in panels. A warp takes every eighth column tile; the warps' sums
/// are added in their order.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::product(Part part, int tileRows, int columns) {
  forget();
  const int columnTiles = (columns + 15) / 16;
  const bool isNormed = part != Part::Contract;
  const int panels = planes() > 1           ? (tileRows + kPanel - 1) / kPanel
                     : part == Part::Expand ? m_panels.expand
                     : part == Part::Head   ? m_panels.head
                                            : m_panels.contract;
  if (isNormed && tileRows == 0) awaitMail();
#pragma unroll 1
  for (int panel = 0; panel < panels; ++panel) {
    const int height = min(kPanel, tileRows - panel * kPanel);
    if (height <= 0) {
      passSupplied(columnTiles);
      continue;
    }
    Sums sums = {};
    if (planes() > 1)
      multiplyPlanes(isNormed ? input() : gated(), columnTiles, height, sums);
    else if (height == 1)
      multiplySupplied<1>(columnTiles, sums);
    else if (height == 2)
      multiplySupplied<2>(columnTiles, sums);
    else if (height == 3)
      multiplySupplied<3>(columnTiles, sums);
    else
      multiplySupplied<4>(columnTiles, sums);
    m_cursor += columnTiles * planes() * height;
    m_reader.hold(m_cursor - 1, m_cursor - 1);
    if (panel == 0 && isNormed) measure();
    if (panel > 0) meet();
    reduce(part, panel * kPanel * 16, height, sums);
  }
}

/// In panels of HEIGHT tile rows. A stage's column tiles are taken together, all loads before all
/// products where there are registers for it: one warp has to hide its own latencies.
template <int NT, int SPL>
template <int HEIGHT>
__device__ void Chunk<NT, SPL>::multiplySupplied(int columnTiles, Sums& sums) {
  constexpr int kColumns = kSupplyColumns;
  static_assert(kColumns <= 2);
  constexpr bool kAhead = HEIGHT == 1;
#pragma unroll 1
  for (int c = m_warp; c - m_warp < columnTiles; c += Inbox<NT>::kTiles) {
    const int tile = m_cursor + c * HEIGHT;
    bool has[kColumns];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) has[i] = c + i * kComputeWarps < columnTiles;
    const auto tileAt = [&](int i, int m) {
      return m_reader.tile(tile + i * kComputeWarps * HEIGHT + m);
    };
    if (has[0])
      m_reader.hold(tile, tile + (has[kColumns - 1] ? kColumns - 1 : 0) * kComputeWarps * HEIGHT +
                              HEIGHT - 1);
    uint4 weights[kColumns][HEIGHT];
    if constexpr (kAhead) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i)
#pragma unroll
        for (int m = 0; m < HEIGHT; ++m)
          if (has[i]) weights[i][m] = tileAt(i, m);
    }
    const SuppliedOperands<NT> from(awaitSupplied(), 1, 0);
    uint2 b[kColumns][NT];
#pragma unroll
    for (int i = 0; i < kColumns; ++i)
#pragma unroll
      for (int j = 0; j < NT; ++j)
        if (has[i]) b[i][j] = from.load(m_warp + i * kComputeWarps, j);
    releaseSupplied();
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      if (!has[i]) break;
#pragma unroll
      for (int m = 0; m < HEIGHT; ++m) {
        if constexpr (!kAhead) weights[i][m] = tileAt(i, m);
#pragma unroll
        for (int j = 0; j < NT; ++j) multiply(sums[m][j], weights[i][m], b[i][j]);
      }
    }
  }
}

/// Lets operands go by that only the other block of the pair has rows for.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::passSupplied(int columnTiles) {
#pragma unroll 1
  for (int c = 0; c < columnTiles; c += Inbox<NT>::kTiles) {
    awaitSupplied();
    releaseSupplied();
  }
}

/// Waits for the inbox's next stage, which releaseSupplied() gives back.
template <int NT, int SPL>
__device__ char* Chunk<NT, SPL>::awaitSupplied() {
  waitFull(inbox().sync[supplySlot()], m_supplied >> a.memory.supplyShift);
  return inbox().stages + supplySlot() * Inbox<NT>::kStage;
}

template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::releaseSupplied() {
  __syncwarp();
  m_giveBack(supplySlot());
  ++m_supplied;
}

/// The panel's products for weights in several planes, with as many parts of the operands, which
/// come from where the other blocks left them.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::multiplyPlanes(const GridOperands<NT>& from, int columnTiles,
                                               int height, Sums& sums) {
#pragma unroll 1
  for (int c = m_warp; c < columnTiles; c += kComputeWarps) {
    const int tile = m_cursor + c * planes() * height;
    m_reader.hold(tile, tile + planes() * height - 1);
#pragma unroll 1
    for (int part = 0; part < planes(); ++part) {
      uint2 b[NT];
#pragma unroll
      for (int j = 0; j < NT; ++j) b[j] = from.load(c, j, part);
#pragma unroll 1
      for (int plane = 0; plane < planes() - part; ++plane) {
#pragma unroll
        for (int m = 0; m < kPanel; ++m) {
          if (m >= height) continue;
          const uint4 weights = m_reader.tile(tile + plane * height + m);
#pragma unroll
          for (int j = 0; j < NT; ++j) multiply(sums[m][j], weights, b[j]);
        }
      }
    }
  }
}

/// Adds the warps' sums, of a few tile rows at a time.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::reduce(Part part, int firstRow, int tileRows, const Sums& sums) {
  forget();
#pragma unroll
  for (int first = 0; first < kPanel; first += kSumTiles) {
    if (first >= tileRows) break;
    if (first > 0) meet();
    constexpr int kBlockSums = kOperandTokens * 16;
    const int perWarp = min(kSumTiles, tileRows - first) * NT * kBlockSums;
    float* warpSums = floatsAt(a.memory.sums);
#pragma unroll
    for (int m = 0; m < kSumTiles; ++m) {
      if (first + m >= tileRows) break;
#pragma unroll
      for (int j = 0; j < NT; ++j) {
        const float(&own)[4] = sums[first + m][j];
        auto* to =
            reinterpret_cast<float2*>(warpSums + m_warp * perWarp + (m * NT + j) * kBlockSums) +
            m_lane;
        to[0] = {own[0], own[1]};
        to[32] = {own[2], own[3]};
      }
    }
    meet();
#pragma unroll 1
    for (int i = m_thread; i < perWarp; i += kComputeThreads) {
      const int token = i / kBlockSums % NT * kOperandTokens + i % kOperandTokens;
      if (token >= tokens()) continue;
      float sum = warpSums[i];
#pragma unroll
      for (int w = 1; w < kComputeWarps; ++w) sum += warpSums[w * perWarp + i];
      const int row =
          firstRow + (first + i / (kBlockSums * NT)) * 16 + i % kBlockSums / kOperandTokens;
      output(part, row, token, sum);
    }
  }
}

/// Of a tile row a warp takes BLOCKS blocks of tokens at a time. `output` gets a lane's row, which
/// has the first two sums, the others being 8 rows on; and the block of tokens, of which these are
/// 2 · (lane % 4) and the next.
template <int NT, int SPL>
template <int BLOCKS, class From, class Output>
__device__ void Chunk<NT, SPL>::productByRows(const From& from, int tileRows, int columns,
                                              Output output) {
  if (tileRows == 0) return;
  constexpr int kShares = NT / BLOCKS;
  const int columnTiles = (columns + 15) / 16;
  const int matrix = m_cursor;
  m_cursor += columnTiles * planes() * tileRows;
  m_reader.hold(matrix, m_cursor - 1);
#pragma unroll 1
  for (int task = m_warp; task < tileRows * kShares; task += kComputeWarps) {
    const int tileRow = task / kShares;
    const int firstBlock = task % kShares * BLOCKS;
    float sums[BLOCKS][4] = {};
#pragma unroll 2
    for (int c = 0; c < columnTiles; ++c) {
#pragma unroll 1
      for (int part = 0; part < planes(); ++part) {
#pragma unroll 1
        for (int plane = 0; plane < planes() - part; ++plane) {
          const uint4 weights = m_reader.tile(matrix + (c * planes() + plane) * tileRows + tileRow);
#pragma unroll
          for (int j = 0; j < BLOCKS; ++j)
            multiply(sums[j], weights, from.load(c, firstBlock + j, part));
        }
      }
    }
#pragma unroll
    for (int j = 0; j < BLOCKS; ++j) output(tileRow * 16 + m_lane / 4, firstBlock + j, sums[j]);
  }
  m_reader.hold(m_cursor - 1, m_cursor - 1);
}

template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::output(Part part, int row, int token, float sum) {
  if (part == Part::Expand) {
    const int own = row / 16 * 8 + row % 8;
    const bool isGate = row % 16 >= 8;
    at(isGate ? a.memory.z : a.memory.u, token, own) =
        normed(token, sum, a.layerNorm ? record(isGate ? kInMeanZ : kInMeanU)[own] : 0.0f,
               record(isGate ? kInBiasZ : kInBiasU)[own]);
  } else if (part == Part::Contract) {
    floatsAt(a.memory.residual)[token * a.outRows + row] += sum;
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
  if (a.layerNorm) sum = fmaf(-floatsAt(a.memory.means)[token], mean, sum);
  return fmaf(sum, floatsAt(a.memory.scales)[token], bias);
}

/// Waits for what comes next besides operands, and says where it is.
template <int NT, int SPL>
__device__ char* Chunk<NT, SPL>::awaitMail() {
  waitFull(inbox().mailSync(), m_mails++);
  return inbox().mail;
}

/// Adds up what the residual's owners found, in the order of Step: for each warp there the tiles
/// that it takes, by eights, and then the warps. Here eight lanes stand for the warps.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::measure() {
  forget();
  const auto* moments = reinterpret_cast<const float*>(awaitMail());
  constexpr int kWarps = kComputeWarps;
  const int token = m_thread / kWarps;
  const int warp = m_thread % kWarps;
  if (m_warp * (32 / kWarps) >= tokens()) return;
  const auto total = [&](int kind) {
    const float* own = moments + (kind * kOperandTokens * NT + token) * modelTiles();
    float sum = 0;
#pragma unroll 1
    for (int first = warp; first < modelTiles(); first += 8 * kWarps) {
      float parts[8];
#pragma unroll
      for (int i = 0; i < 8; ++i)
        parts[i] = first + i * kWarps < modelTiles() ? own[first + i * kWarps] : 0.0f;
#pragma unroll
      for (int offset = 1; offset < 8; offset *= 2)
#pragma unroll
        for (int i = 0; i < 8; i += 2 * offset) parts[i] += parts[i + offset];
      sum += parts[0];
    }
    float all = __shfl_sync(~0u, sum, 0, kWarps);
#pragma unroll
    for (int w = 1; w < kWarps; ++w) all += __shfl_sync(~0u, sum, w, kWarps);
    return all;
  };
  const float mean = a.layerNorm ? total(1) / static_cast<float>(a.size.model) : 0.0f;
  const float scale = normScale(a, total(0), mean);
  if (warp != 0 || token >= tokens()) return;
  floatsAt(a.memory.scales)[token] = scale;
  floatsAt(a.memory.means)[token] = mean;
}

}  // namespace mb::cuda
