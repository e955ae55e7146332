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
  kConvBias,
  kDtBias,
  kSkip,  ///< D
  kConvWeights
};

/// What one block does. Its weights lie in one stretch of memory, in the order in which it needs
/// them: per layer the record of its channels' parameters, in_proj, x_proj, dt_proj, out_proj, then
/// the head. Within a matrix: panels of at most kPanelTiles tile rows, or kTallPanelTiles where
/// only the columns are the block's own; in a panel column tile by column tile, plane by plane.
struct BlockPlan {
  /// Groups of channels: rows of in_proj and dt_proj, the scan, columns of x_proj and out_proj.
  Share groups;
  Share headTiles;
  /// First tile rows of x_proj and out_proj, the others follow in a circle: blocks that add to the
  /// same sums begin at different ones.
  std::uint32_t firstProjected = 0;
  std::uint32_t firstOut = 0;
  std::uint32_t recordTiles = 0;  ///< that the parameters of its channels fill, see RecordField
  std::uint64_t firstTile = 0;    ///< of the block's stretch
  std::uint32_t layerTiles = 0;   ///< tiles of one layer
  std::uint32_t tiles = 0;        ///< of the whole stretch, padded to whole stages
};

/// One tile row of a packed matrix: where its tiles go, and which weights they take.
struct TileRow {
  std::uint64_t firstTile = 0;
  std::uint32_t stride = 0;      ///< tiles from one column tile and plane to the next
  std::uint32_t layerTiles = 0;  ///< tiles from one layer to the next
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
  /// Most channels of one block, a multiple of 16.
  std::uint32_t mostChannels() const;

  /// Channels of a block, padded to 16.
  static std::uint32_t paddedChannels(const BlockPlan& block);
  /// Floats of a block's record.
  std::uint32_t recordSize(const BlockPlan& block) const;
  /// First tile of a layer in a block's stretch: that of its record.
  std::uint64_t layerStart(const BlockPlan& block, std::uint32_t layer) const {
    return block.firstTile + static_cast<std::uint64_t>(layer) * block.layerTiles;
  }
  /// Tile rows of a matrix of a layer; the layer is ignored for the head.
  std::vector<TileRow> tileRows(Matrix matrix, std::uint32_t layer) const;

 private:
  std::uint32_t tilesOf(const BlockPlan& block, Matrix matrix) const;
  std::vector<TileRow> rowsOf(const BlockPlan& block, Matrix matrix) const;

  Dimensions m_dimensions;
  std::vector<BlockPlan> m_blocks;
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
