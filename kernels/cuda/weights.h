// Weights of a model on a device: in tiles for chunks, and from there laid out for cuBLAS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>
#include <span>
#include <vector>

#include "kernels/cuda/memory.h"
#include "kernels/cuda/work_plan.h"

namespace mb::cuda {

/// Offsets into one layer's float parameters that every block reads. Channels are padded to 16; A
/// lies in blocks of 16 channels as on the host.
struct ParameterLayout {
  explicit ParameterLayout(const Dimensions& dimensions);

  std::uint32_t paddedModel;  ///< d, padded to 16
  std::uint32_t paddedInner;  ///< e, padded to 16
  std::uint32_t norm;         ///< [d]
  std::uint32_t outBias;      ///< [d]
  std::uint32_t decay;        ///< A · log2(e), [e / 16][n][16], for replay
  std::uint32_t layerSize;
};

/// The parameters of one layer's channels, e values each.
struct ChannelParameters {
  /// [2][e]: u, z; or empty. For LayerNorm W_in times the norm's bias is added.
  std::vector<float> inBias;
  std::vector<float> inMean;    ///< likewise, for LayerNorm: W_in times the norm's weight
  std::vector<float> conv;      ///< [e][k]
  std::vector<float> convBias;  ///< or empty
  std::vector<float> dtBias;
  std::vector<float> skip;   ///< D
  std::vector<float> decay;  ///< A · log2(e), [e][n]
};

/// Weights of one model on one device.
struct DeviceWeights {
  DeviceWeights(const Dimensions& dimensions, std::uint32_t blocks);

  WorkPlan plan;
  ParameterLayout layout;
  bool layerNorm = false;
  bool outBias = false;  ///< out_proj has a bias
  float epsilon = 0;
  DeviceArray<uint4> tiles;              ///< in the order of the plan
  DeviceArray<BlockPlan> blocks;         ///< the plan
  DeviceArray<float> parameters;         ///< [L][layerSize], then the final norm
  DeviceArray<float> headBias;           ///< [V] for LayerNorm: W_head times the norm's bias
  DeviceArray<float> headMean;           ///< likewise, times its weight
  DeviceArray<std::uint16_t> embedding;  ///< [planes][V][d] bfloat16, high part first; d padded

  std::size_t bytes() const;
};

/// Packs one matrix, given row-major as float32 in device memory, into its tiles.
void packTiles(DeviceWeights& weights, Matrix matrix, std::uint32_t layer, const float* values,
               std::uint32_t columns, cudaStream_t stream);

/// Puts the parameters of a layer's channels into the blocks' records.
void packRecords(DeviceWeights& weights, std::uint32_t layer, const ChannelParameters& channels);

/// Where a tile row goes when it is laid out row-major.
struct UnpackRow {
  TileRow from;               ///< of layer 0; its `rows` say which rows it fills
  std::uint32_t columns = 0;  ///< of the matrix it goes to, a multiple of 16
  std::int64_t offset = 0;    ///< of that matrix's first row, in values
};

/// Lays tile rows of a layer out in `to`: bfloat16, or float32 when the weights have several
/// planes. `rows` are in device memory.
void unpackTiles(const DeviceWeights& weights, std::span<const UnpackRow> rows, std::uint32_t layer,
                 void* to, cudaStream_t stream);

/// Lays the parameters of a layer's channels out as float32 [field][e], see RecordField; e padded.
void unpackRecords(const DeviceWeights& weights, std::uint32_t layer, float* to,
                   cudaStream_t stream);

}  // namespace mb::cuda
