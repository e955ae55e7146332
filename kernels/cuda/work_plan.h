// Which block of the grid computes what, and the order in which it reads its weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mb::cuda {

inline constexpr std::uint32_t kTileRows = 16;      ///< rows and columns of a weight tile
inline constexpr std::uint32_t kTileBytes = 512;    ///< bfloat16
inline constexpr std::uint32_t kGroupChannels = 8;  ///< u and z of so many channels fill a tile
inline constexpr std::uint32_t kPanelTiles = 4;     ///< most tiles multiplied side by side
inline constexpr std::uint32_t kStageTiles = 32;    ///< tiles of one stage of the ring
inline constexpr int kComputeWarps = 8;             ///< of a block
/// Most tile rows multiplied side by side where a warp takes every eighth.
inline constexpr std::uint32_t kTallPanelTiles = kPanelTiles * std::uint32_t{kComputeWarps};

/// Extents of a model as the kernels see it. `planes` is 1 for bfloat16 weights; float32 weights
/// are split exactly into 3 bfloat16 planes, high to low.
struct Dimensions {
  std::uint32_t model = 0;       ///< d
  std::uint32_t inner = 0;       ///< e
  std::uint32_t states = 0;      ///< n
  std::uint32_t taps = 0;        ///< k
  std::uint32_t dtRank = 0;      ///< r
  std::uint32_t layers = 0;      ///< L
  std::uint32_t vocabulary = 0;  ///< V
  std::uint32_t planes = 1;
};

/// A contiguous share of something.
struct Share {
  std::uint32_t begin = 0;
  std::uint32_t count = 0;
};

/// The parameters of a block's channels, as float32 rows [field][channels padded to 16]. The
/// convolution's weights follow as k rows, then A · log2(e) as n rows.
enum RecordField : std::uint32_t {
  kInBiasU,
  kInBiasZ,
  kInMeanU,  ///< what a mean of 1 adds to the product, for LayerNorm
  kInMeanZ,
  kConvBias,
  kDtBias,
  kSkip,  ///< D
  kConvWeights
};

/// What one block does. Its weights of a layer lie in one stretch of memory, in the order in which
/// it needs them: the record of its channels' parameters, in_proj, x_proj, dt_proj, out_proj. The
/// stretches of a layer lie together: blocks that are about as far then read the same few pages,
/// and no block has to look up addresses alone while all others wait for it. The head comes last.
/// Within a matrix: panels of at most kPanelTiles tile rows, or kTallPanelTiles where columns are
/// few; in a panel column tile by column tile, plane by plane.
struct BlockPlan {
  /// Groups of channels: rows of in_proj and dt_proj, the scan, columns of x_proj.
  Share groups;
  Share outTiles;  ///< tile rows of out_proj, whose part of the residual the block keeps
  Share headTiles;
  std::uint32_t recordTiles = 0;  ///< that the parameters of its channels fill, see RecordField
  std::uint32_t firstTile = 0;    ///< of the block's stretch, counted from a layer's first
  std::uint32_t layerTiles = 0;   ///< tiles of the stretch
  std::uint64_t firstHeadTile = 0;
  std::uint32_t headStretch = 0;  ///< tiles of the block's rows of the head
};

/// One tile row of a packed matrix: where its tiles go, and which weights they take.
struct TileRow {
  std::uint64_t firstTile = 0;
  std::uint32_t stride = 0;      ///< tiles from one column tile and plane to the next
  std::uint32_t layerTiles = 0;  ///< from one layer to the next
  std::uint32_t columnTiles = 0;
  std::uint32_t columnBegin = 0;      ///< column of the matrix at the first tile
  std::uint32_t columnEnd = 0;        ///< columns from here on are zero
  std::int32_t rows[kTileRows] = {};  ///< row of the matrix, or -1 for zeros
};

enum class Matrix : std::uint8_t { InProj, XProj, DtProj, OutProj, Head };

class WorkPlan {
 public:
  WorkPlan(const Dimensions& dimensions, std::uint32_t blocks);

  const Dimensions& dimensions() const { return m_dimensions; }
  const std::vector<BlockPlan>& blocks() const { return m_blocks; }
  /// Tiles of all blocks together.
  std::uint64_t tiles() const { return m_tiles; }
  /// Those of one layer.
  std::uint32_t layerTiles() const { return m_layerTiles; }
  /// Most channels of one block, a multiple of 16.
  std::uint32_t mostChannels() const;
  /// Most values of the residual that one block keeps.
  std::uint32_t mostOutRows() const;
  /// Blocks that have channels: the first ones.
  std::uint32_t mixingBlocks() const;

  /// Channels of a block, padded to 16.
  static std::uint32_t paddedChannels(const BlockPlan& block);
  /// Floats of a block's record.
  std::uint32_t recordSize(const BlockPlan& block) const;
  /// First tile of a block's stretch of a layer: that of its record.
  std::uint64_t layerStart(const BlockPlan& block, std::uint32_t layer) const {
    return static_cast<std::uint64_t>(layer) * m_layerTiles + block.firstTile;
  }
  /// Tile rows of a matrix of a layer; the layer is ignored for the head.
  std::vector<TileRow> tileRows(Matrix matrix, std::uint32_t layer) const;

 private:
  std::uint32_t tilesOf(const BlockPlan& block, Matrix matrix) const;
  std::vector<TileRow> rowsOf(const BlockPlan& block, Matrix matrix) const;

  Dimensions m_dimensions;
  std::vector<BlockPlan> m_blocks;
  std::uint32_t m_layerTiles = 0;
  std::uint64_t m_tiles = 0;
};

constexpr std::uint32_t tilesFor(std::uint32_t extent) {
  return (extent + kTileRows - 1) / kTileRows;
}

/// Rows of x_proj's packed output: δ, B and C, each padded to whole tiles.
constexpr std::uint32_t projectedRows(const Dimensions& d) {
  return kTileRows * (tilesFor(d.dtRank) + 2 * tilesFor(d.states));
}

}  // namespace mb::cuda
