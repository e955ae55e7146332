#include "kernels/cuda/work_plan.h"

#include <algorithm>

namespace mb::cuda {

namespace {

constexpr Matrix kLayerMatrices[] = {Matrix::InProj, Matrix::XProj, Matrix::DtProj,
                                     Matrix::OutProj};

/// `count` things over `blocks`; what does not divide evenly goes to the first blocks, or to the
/// last.
Share shareOf(std::uint32_t count, std::uint32_t blocks, std::uint32_t block, bool restToLast) {
  const std::uint32_t each = count / blocks;
  const std::uint32_t rest = count % blocks;
  const std::uint32_t extraFrom = restToLast ? blocks - rest : 0;
  const std::uint32_t extraTo = restToLast ? blocks : rest;
  const std::uint32_t extrasBefore = std::clamp(block, extraFrom, extraTo) - extraFrom;
  const bool hasExtra = block >= extraFrom && block < extraTo;
  return {block * each + extrasBefore, each + (hasExtra ? 1 : 0)};
}

}  // namespace

WorkPlan::WorkPlan(const Dimensions& dimensions, std::uint32_t blocks) : m_dimensions(dimensions) {
  const auto& d = m_dimensions;
  const auto groups = (d.inner + kGroupChannels - 1) / kGroupChannels;
  m_blocks.resize(blocks);
  for (std::uint32_t i = 0; i < blocks; ++i) {
    BlockPlan& block = m_blocks[i];
    block.groups = shareOf(groups, blocks, i, false);
    block.outTiles = shareOf(tilesFor(d.model), blocks, i, true);
    block.headTiles = shareOf(tilesFor(d.vocabulary), blocks, i, true);
    block.recordTiles = (recordSize(block) * 4 + kTileBytes - 1) / kTileBytes;
    block.layerTiles = block.recordTiles;
    for (const Matrix matrix : kLayerMatrices) block.layerTiles += tilesOf(block, matrix);
    block.headStretch = tilesOf(block, Matrix::Head);
    block.firstTile = m_layerTiles;
    m_layerTiles += block.layerTiles;
  }
  m_tiles = std::uint64_t{d.layers} * m_layerTiles;
  for (BlockPlan& block : m_blocks) {
    block.firstHeadTile = m_tiles;
    m_tiles += block.headStretch;
  }
}

std::uint32_t WorkPlan::mostChannels() const {
  return kTileRows * std::max(1u, tilesFor(m_blocks.front().groups.count * kGroupChannels));
}

std::uint32_t WorkPlan::mostOutRows() const {
  return kTileRows * m_blocks.back().outTiles.count;
}

std::uint32_t WorkPlan::mixingBlocks() const {
  const auto hasChannels = [](const BlockPlan& block) { return block.groups.count > 0; };
  return static_cast<std::uint32_t>(std::ranges::count_if(m_blocks, hasChannels));
}

std::uint32_t WorkPlan::paddedChannels(const BlockPlan& block) {
  return kTileRows * tilesFor(block.groups.count * kGroupChannels);
}

std::uint32_t WorkPlan::recordSize(const BlockPlan& block) const {
  return paddedChannels(block) * (kConvWeights + m_dimensions.taps + m_dimensions.states);
}

/// Tile rows with `firstTile` still open.
std::vector<TileRow> WorkPlan::rowsOf(const BlockPlan& block, Matrix matrix) const {
  const auto& d = m_dimensions;
  const std::uint32_t channelBegin = block.groups.begin * kGroupChannels;
  const std::uint32_t channels = block.groups.count * kGroupChannels;
  std::vector<TileRow> rows;
  const auto add = [&](std::uint32_t columnBegin, std::uint32_t columnEnd, std::uint32_t columns,
                       auto rowAt) {
    TileRow tileRow;
    tileRow.columnTiles = tilesFor(columns);
    tileRow.columnBegin = columnBegin;
    tileRow.columnEnd = columnEnd;
    for (std::uint32_t i = 0; i < kTileRows; ++i) tileRow.rows[i] = rowAt(i);
    rows.push_back(tileRow);
  };
  const auto below = [](std::uint32_t row, std::uint32_t end, std::uint32_t offset = 0) {
    return row < end ? static_cast<std::int32_t>(row + offset) : -1;
  };

  switch (matrix) {
    case Matrix::InProj:  // u of 8 channels, then their z
      for (std::uint32_t g = 0; g < block.groups.count; ++g) {
        add(0, d.model, d.model, [&](std::uint32_t i) {
          const std::uint32_t channel = channelBegin + g * kGroupChannels + i % kGroupChannels;
          return below(channel, d.inner, i < kGroupChannels ? 0 : d.inner);
        });
      }
      break;
    case Matrix::XProj: {  // all rows; columns of the block's own channels
      if (channels == 0) break;
      const std::uint32_t bFirst = kTileRows * tilesFor(d.dtRank);
      const std::uint32_t cFirst = bFirst + kTileRows * tilesFor(d.states);
      for (std::uint32_t t = 0; t < projectedRows(d) / kTileRows; ++t) {
        add(channelBegin, std::min(channelBegin + channels, d.inner), channels,
            [&](std::uint32_t i) {
              const std::uint32_t row = t * kTileRows + i;
              if (row < bFirst) return below(row, d.dtRank);
              if (row < cFirst) return below(row - bFirst, d.states, d.dtRank);
              return below(row - cFirst, d.states, d.dtRank + d.states);
            });
      }
      break;
    }
    case Matrix::DtProj:
      for (std::uint32_t t = 0; t < tilesFor(channels); ++t) {
        add(0, d.dtRank, d.dtRank, [&](std::uint32_t i) {
          const std::uint32_t own = t * kTileRows + i;
          return own < channels ? below(channelBegin + own, d.inner) : -1;
        });
      }
      break;
    case Matrix::OutProj:
      for (std::uint32_t t = 0; t < block.outTiles.count; ++t) {
        add(0, d.inner, d.inner, [&](std::uint32_t i) {
          return below((block.outTiles.begin + t) * kTileRows + i, d.model);
        });
      }
      break;
    case Matrix::Head:
      for (std::uint32_t t = 0; t < block.headTiles.count; ++t) {
        add(0, d.model, d.model, [&](std::uint32_t i) {
          return below((block.headTiles.begin + t) * kTileRows + i, d.vocabulary);
        });
      }
      break;
  }
  return rows;
}

std::uint32_t WorkPlan::tilesOf(const BlockPlan& block, Matrix matrix) const {
  std::uint32_t tiles = 0;
  for (const TileRow& row : rowsOf(block, matrix)) tiles += row.columnTiles * m_dimensions.planes;
  return tiles;
}

std::vector<TileRow> WorkPlan::tileRows(Matrix matrix, std::uint32_t layer) const {
  const bool flat = matrix != Matrix::XProj && matrix != Matrix::DtProj;
  std::vector<TileRow> all;
  for (const BlockPlan& block : m_blocks) {
    std::uint64_t at = block.firstHeadTile;
    if (matrix != Matrix::Head) {
      at = layerStart(block, layer) + block.recordTiles;
      for (const Matrix before : kLayerMatrices) {
        if (before == matrix) break;
        at += tilesOf(block, before);
      }
    }
    std::vector<TileRow> rows = rowsOf(block, matrix);
    const std::size_t height = flat ? kPanelTiles : kTallPanelTiles;
    for (std::size_t first = 0; first < rows.size(); first += height) {
      const std::size_t count = std::min(height, rows.size() - first);
      for (std::size_t i = 0; i < count; ++i) {
        rows[first + i].firstTile = at + i;
        rows[first + i].stride = static_cast<std::uint32_t>(count);
        rows[first + i].layerTiles = m_layerTiles;
      }
      at += count * rows[first].columnTiles * m_dimensions.planes;
    }
    all.insert(all.end(), rows.begin(), rows.end());
  }
  return all;
}

}  // namespace mb::cuda
