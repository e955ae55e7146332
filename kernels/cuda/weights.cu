// Weights on their way into the tiles and records that chunks read.
#include <algorithm>
#include <cuda_bf16.h>
#include <utility>

#include "kernels/cuda/weights.h"

namespace mb::cuda {

namespace {

struct PackArguments {
  const TileRow* rows;
  const float* values;
  std::uint32_t columns;
  std::uint32_t planes;
  uint4* tiles;
};

/// Part `plane` of a value: bfloat16, of what the parts before leave over.
__device__ inline std::uint32_t partOf(float value, std::uint32_t plane) {
  __nv_bfloat16 part = __float2bfloat16_rn(value);
  for (std::uint32_t i = 0; i < plane; ++i) {
    value -= __bfloat162float(part);
    part = __float2bfloat16_rn(value);
  }
  return __bfloat16_as_ushort(part);
}

/// One block a tile row, one warp a tile.
__global__ void packKernel(PackArguments a) {
  const TileRow& row = a.rows[blockIdx.x];
  const int lane = threadIdx.x % 32;
  const auto pair = [&](int line, std::uint32_t column, std::uint32_t plane) {
    const std::int32_t source = row.rows[line];
    std::uint32_t packed = 0;
    for (std::uint32_t i = 0; i < 2; ++i) {
      if (source < 0 || column + i >= row.columnEnd) continue;
      const float value = a.values[static_cast<std::size_t>(source) * a.columns + column + i];
      packed |= partOf(value, plane) << (16 * i);
    }
    return packed;
  };
  for (std::uint32_t t = threadIdx.x / 32; t < row.columnTiles * a.planes; t += blockDim.x / 32) {
    const std::uint32_t plane = t % a.planes;
    const std::uint32_t column = row.columnBegin + t / a.planes * 16 + lane % 4 * 2;
    const int line = lane / 4;
    a.tiles[(row.firstTile + static_cast<std::uint64_t>(t) * row.stride) * 32 + lane] =
        make_uint4(pair(line, column, plane), pair(line + 8, column, plane),
                   pair(line, column + 8, plane), pair(line + 8, column + 8, plane));
  }
}

struct UnpackArguments {
  const UnpackRow* rows;
  const uint4* tiles;
  std::uint32_t layer;
  std::uint32_t planes;
};

/// Component i of lane t's value becomes component t of lane i's, in each four lanes.
__device__ inline uint4 transposed(const uint4& value) {
  const std::uint32_t in[4] = {value.x, value.y, value.z, value.w};
  std::uint32_t out[4];
  const std::uint32_t t = threadIdx.x % 4;
#pragma unroll
  for (std::uint32_t r = 0; r < 4; ++r) {
    const std::uint32_t want = t ^ r;
    const std::uint32_t sent = want == 0 ? in[0] : want == 1 ? in[1] : want == 2 ? in[2] : in[3];
    const std::uint32_t got = __shfl_xor_sync(~0u, sent, r);
#pragma unroll
    for (std::uint32_t i = 0; i < 4; ++i)
      if (i == want) out[i] = got;
  }
  return {out[0], out[1], out[2], out[3]};
}

/// The inverse of packKernel. blockIdx.y shares a row's tiles.
template <class Value>
__global__ void unpackKernel(UnpackArguments a, Value* __restrict__ to) {
  const UnpackRow& target = a.rows[blockIdx.x];
  const TileRow& row = target.from;
  const std::uint32_t lane = threadIdx.x % 32;
  const std::uint64_t first = row.firstTile + std::uint64_t{a.layer} * row.layerTiles;
  const std::uint32_t warps = gridDim.y * blockDim.x / 32;
  // After transposing, a lane has 8 values of one row.
  const std::int32_t line = row.rows[lane / 4 + lane % 2 * 8];
  const std::uint32_t column = row.columnBegin + lane % 4 / 2 * 8;
  Value* out = to + target.offset + std::int64_t{line} * target.columns + column;
#pragma unroll 4
  for (std::uint32_t t = (blockIdx.y * blockDim.x + threadIdx.x) / 32; t < row.columnTiles;
       t += warps) {
    const uint4* from = a.tiles + (first + std::uint64_t{t * a.planes} * row.stride) * 32 + lane;
    if constexpr (sizeof(Value) == 2) {
      const uint4 values = transposed(__ldcs(from));
      if (line >= 0 && column + t * 16 < row.columnEnd)
        *reinterpret_cast<uint4*>(out + t * 16) = values;
    } else {
      float sums[8] = {};
      for (std::uint32_t plane = a.planes; plane-- > 0;) {
        const uint4 part = transposed(__ldcs(from + std::size_t{plane} * row.stride * 32));
        const std::uint32_t pairs[4] = {part.x, part.y, part.z, part.w};
#pragma unroll
        for (int i = 0; i < 8; ++i)
          sums[i] += __uint_as_float(i % 2 ? pairs[i / 2] & 0xffff0000u : pairs[i / 2] << 16);
      }
      if (line >= 0 && column + t * 16 < row.columnEnd)
        for (int i = 0; i < 8; ++i) out[t * 16 + i] = sums[i];
    }
  }
}

__global__ void unpackRecordsKernel(const BlockPlan* blocks, const uint4* tiles,
                                    std::uint64_t layerStart, std::uint32_t fields,
                                    std::uint32_t inner, float* to) {
  const BlockPlan& block = blocks[blockIdx.x];
  const std::uint32_t begin = block.groups.begin * kGroupChannels;
  const std::uint32_t own = min(block.groups.count * kGroupChannels, inner - begin);
  const std::uint32_t width =
      (block.groups.count * kGroupChannels + kTileRows - 1) / kTileRows * kTileRows;
  const auto* record = reinterpret_cast<const float*>(tiles + (layerStart + block.firstTile) * 32);
  for (std::uint32_t i = threadIdx.x; i < fields * own; i += blockDim.x)
    to[i / own * inner + begin + i % own] = record[i / own * width + i % own];
}

}  // namespace

ParameterLayout::ParameterLayout(const Dimensions& d) {
  paddedModel = static_cast<std::uint32_t>(tilesFor(d.model) * kTileRows);
  paddedInner = static_cast<std::uint32_t>(tilesFor(d.inner) * kTileRows);
  std::uint32_t at = 0;
  const auto take = [&](std::uint32_t size) { return std::exchange(at, at + size); };
  norm = take(paddedModel);
  outBias = take(paddedModel);
  decay = take(d.states * paddedInner);
  layerSize = at;
}

DeviceWeights::DeviceWeights(const Dimensions& d, std::uint32_t blockCount)
    : plan(d, blockCount),
      layout(d),
      tiles(plan.tiles() * 32),
      blocks(blockCount),
      parameters(static_cast<std::size_t>(d.layers) * layout.layerSize + layout.paddedModel),
      embedding(static_cast<std::size_t>(d.planes) * d.vocabulary * layout.paddedModel) {
  blocks.upload(plan.blocks().data(), blockCount);
}

std::size_t DeviceWeights::bytes() const {
  return tiles.bytes() + blocks.bytes() + parameters.bytes() + embedding.bytes();
}

void packRecords(DeviceWeights& weights, std::uint32_t layer, const ChannelParameters& channels) {
  const Dimensions& d = weights.plan.dimensions();
  for (const BlockPlan& block : weights.plan.blocks()) {
    const std::uint32_t begin = block.groups.begin * kGroupChannels;
    const std::uint32_t end = std::min(begin + block.groups.count * kGroupChannels, d.inner);
    const std::uint32_t width = WorkPlan::paddedChannels(block);
    std::vector<float> record(std::size_t{block.recordTiles} * kTileBytes / sizeof(float));
    if (record.empty()) continue;
    for (std::uint32_t channel = begin; channel < end; ++channel) {
      const auto set = [&](std::uint32_t field, const std::vector<float>& values, std::size_t at) {
        if (!values.empty()) record[field * width + channel - begin] = values[at];
      };
      set(kInBiasU, channels.inBias, channel);
      set(kInBiasZ, channels.inBias, d.inner + channel);
      set(kInMeanU, channels.inMean, channel);
      set(kInMeanZ, channels.inMean, d.inner + channel);
      set(kConvBias, channels.convBias, channel);
      set(kDtBias, channels.dtBias, channel);
      set(kSkip, channels.skip, channel);
      for (std::uint32_t tap = 0; tap < d.taps; ++tap)
        set(kConvWeights + tap, channels.conv, std::size_t{channel} * d.taps + tap);
      for (std::uint32_t n = 0; n < d.states; ++n)
        set(kConvWeights + d.taps + n, channels.decay, std::size_t{channel} * d.states + n);
    }
    check(cudaMemcpy(weights.tiles.data() + weights.plan.layerStart(block, layer) * 32,
                     record.data(), record.size() * sizeof(float), cudaMemcpyHostToDevice),
          "packing parameters");
  }
}

void packTiles(DeviceWeights& weights, Matrix matrix, std::uint32_t layer, const float* values,
               std::uint32_t columns, cudaStream_t stream) {
  const std::vector<TileRow> rows = weights.plan.tileRows(matrix, layer);
  DeviceArray<TileRow> onDevice(rows.size());
  onDevice.upload(rows.data(), rows.size());
  const PackArguments arguments{onDevice.data(), values, columns, weights.plan.dimensions().planes,
                                weights.tiles.data()};
  packKernel<<<static_cast<unsigned>(rows.size()), 256, 0, stream>>>(arguments);
  check(cudaGetLastError(), "packing weights");
  check(cudaStreamSynchronize(stream), "packing weights");
}

void unpackTiles(const DeviceWeights& weights, std::span<const UnpackRow> rows, std::uint32_t layer,
                 void* to, cudaStream_t stream) {
  const std::uint32_t planes = weights.plan.dimensions().planes;
  const UnpackArguments arguments{rows.data(), weights.tiles.data(), layer, planes};
  const dim3 grid(static_cast<unsigned>(rows.size()), 4);
  constexpr unsigned kThreads = 128;
  if (planes == 1)
    unpackKernel<<<grid, kThreads, 0, stream>>>(arguments, static_cast<std::uint16_t*>(to));
  else
    unpackKernel<<<grid, kThreads, 0, stream>>>(arguments, static_cast<float*>(to));
  check(cudaGetLastError(), "unpacking weights");
}

void unpackRecords(const DeviceWeights& weights, std::uint32_t layer, float* to,
                   cudaStream_t stream) {
  const Dimensions& d = weights.plan.dimensions();
  unpackRecordsKernel<<<static_cast<unsigned>(weights.blocks.size()), 256, 0, stream>>>(
      weights.blocks.data(), weights.tiles.data(), std::uint64_t{layer} * weights.plan.layerTiles(),
      kConvWeights + d.taps + d.states, weights.layout.paddedInner, to);
  check(cudaGetLastError(), "unpacking parameters");
}

}  // namespace mb::cuda
