// One block's work on a chunk: what it holds, and the order of a layer's stages.
#pragma once

#include <cstdint>

#include "kernels/cuda/chunk_arguments.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/tiles.cuh"

namespace mb::cuda {

/// All blocks of the grid meet: arrive(), then wait().
class GridBarrier {
 public:
  __device__ GridBarrier(std::uint32_t* arrivals, std::uint32_t arrived)
      : m_arrivals(arrivals), m_target(arrived) {}

  __device__ void arrive() {
    meet();
    m_target += gridDim.x;
    if (threadIdx.x == 0)
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(m_arrivals) : "memory");
  }

  __device__ void wait() {
    if (threadIdx.x == 0) {
      std::uint32_t arrived = 0;
      do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                     : "=r"(arrived)
                     : "l"(m_arrivals)
                     : "memory");
      } while (static_cast<std::int32_t>(arrived - m_target) < 0);
    }
    meet();
  }

 private:
  std::uint32_t* m_arrivals;
  std::uint32_t m_target;
};

/// Meetings of a launch: before each layer and the head, and three within each layer.
inline constexpr std::uint32_t kBarriersPerLayer = 4;

/// One block's work. NT blocks of 4 tokens; a scanning thread holds SPL states.
template <int NT, int SPL>
class Chunk {
 public:
  __device__ Chunk(const ChunkArguments& arguments, char* shared);
  __device__ void run();

 private:
  using Sums = float[kPanel][NT][4];

  __device__ int tokens() const { return m_tokens; }
  __device__ int planes() const { return static_cast<int>(a.size.planes); }

  /// The products over whole rows. One loop serves them all: instructions have to fit the
  /// instruction cache, or every layer waits for them.
  enum class Part { Expand, Contract, Head };

  __device__ void product(Part part, int layer, int tileRows, int columns);
  __device__ void output(Part part, int row, int token, float sum);
  __device__ void reduce(Part part, int firstRow, int tileRows, const Sums& sums);
  /// For small matrices: a warp takes every eighth tile row.
  template <class From, class Output>
  __device__ void productByRows(const From& from, int tileRows, int columns, Output output);
  template <class From>
  __device__ int multiplyFewRows(const From& from, int tileRows, int columnTiles, Sums& sums);
  template <int HEIGHT>
  __device__ void multiplyWhole(const GridOperands<NT>& from, int columnTiles, Sums& sums);
  __device__ void multiplyPlanes(const GridOperands<NT>& from, int columnTiles, int height,
                                 Sums& sums);
  __device__ void multiplyRow(Sums& sums, int m, const uint4& weights, const uint2 (&b)[NT]) const;

  __device__ void measure();
  __device__ float normed(int token, float sum, float mean, float bias) const;

  __device__ void mix(int layer);
  __device__ void fetch(int layer);
  __device__ void keepHistory(int layer);
  __device__ void convolve(int layer);
  __device__ void project();
  __device__ void addPartials();
  __device__ void computeDelta();
  __device__ void scan(int layer);

  __device__ float normWeight(int layer, int tile) const;
  __device__ void startResidual();
  __device__ void publish(int layer);
  __device__ GridOperands<NT> operandsIn(uint2* memory, int columnTiles) const {
    return {memory, planes() > 1 ? columnTiles * GridOperands<NT>::kTileStride : 0};
  }
  /// Row of the channels' record, see RecordField.
  __device__ const float* record(int field) const { return m_record + field * m_channels; }
  __device__ float* shared(float* base, int token, int channel) const {
    return base + token * a.channels + channel;
  }

  const ChunkArguments& a;
  const BlockPlan m_block;
  int m_tokens;
  int m_warp;
  int m_lane;
  int m_channelBegin;
  int m_own;         // channels of this block
  int m_channels;    // padded to 16
  int m_projected;   // rows of x_proj
  int m_rankRows;    // those of δ
  int m_modelTiles;  // of d
  int m_innerTiles;  // of e
  int m_cursor = 0;  // next tile of the stretch

  BlockOperands<NT> m_operands;
  GridOperands<NT> m_input;
  GridOperands<NT> m_deltaInput;
  GridOperands<NT> m_gated;
  float* m_sums;  // of the warps, for reduce()
  float* m_record;
  float* m_history;  // [k - 1][channels]
  float* m_u;
  float* m_z;
  float* m_convolved;
  float* m_delta;
  float* m_bc;        // [tokens][2 · states]
  float* m_scales;    // [tokens], of the norm
  float* m_means;     // [tokens]
  float* m_residual;  // [tokens][rows]: the block's part of x
  TileReader m_reader;
  GridBarrier m_barrier;

  // Fetched at the start of a layer, for when they are needed.
  int m_historyPosition;  // of the value this thread fetches
  float m_fetchedHistory = 0;
  float m_fetchedNorm = 0;
  float m_fetchedState[SPL];
};

__host__ __device__ constexpr int sumBytes(int tokenBlocks) {
  return kComputeWarps * kPanel * tokenBlocks * 64 * static_cast<int>(sizeof(float));
}

/// Shared memory besides the ring and its barriers.
__host__ __device__ inline int scratchBytes(const Dimensions& size, int operandBytes, int channels,
                                            int outRows, int tokens) {
  const int fields = recordFields(size) + static_cast<int>(size.taps) - 1;
  const int perToken = 4 * channels + 2 * paddedStates(size) + 2 + outRows;
  return operandBytes + sumBytes(tokens / 4) +
         static_cast<int>(sizeof(float)) * (fields * channels + tokens * perToken);
}

template <int NT, int SPL>
__device__ Chunk<NT, SPL>::Chunk(const ChunkArguments& arguments, char* memory)
    : a(arguments),
      m_block(arguments.blocks[blockIdx.x]),
      m_tokens(static_cast<int>(a.list ? a.list->count : a.tokens)),
      m_warp(threadIdx.x / 32),
      m_lane(threadIdx.x % 32),
      m_channelBegin(m_block.groups.begin * kGroupChannels),
      m_own(m_block.groups.count * kGroupChannels),
      m_channels(static_cast<int>(tilesFor(m_own) * kTileRows)),
      m_projected(static_cast<int>(projectedRows(arguments.size))),
      m_rankRows(static_cast<int>(tilesFor(arguments.size.dtRank) * kTileRows)),
      m_modelTiles(static_cast<int>(tilesFor(arguments.size.model))),
      m_innerTiles(static_cast<int>(tilesFor(arguments.size.inner))),
      m_operands(memory + a.slots * (kStageBytes + sizeof(StageSync)),
                 planes() > 1 ? a.operandBytes / 2 : 0),
      m_input(operandsIn(a.inputOperands, m_modelTiles)),
      m_deltaInput(operandsIn(a.deltaOperands, m_rankRows / 16)),
      m_gated(operandsIn(a.outputOperands, m_innerTiles)),
      m_reader(reinterpret_cast<uint4*>(memory),
               reinterpret_cast<StageSync*>(memory + a.slots * kStageBytes), a.slots),
      m_barrier(a.arrivals, a.arrived) {
  m_historyPosition = m_channels > 0 ? threadIdx.x / m_channels : 0;
  char* scratch = memory + a.slots * (kStageBytes + sizeof(StageSync));
  auto* at = reinterpret_cast<float*>(scratch + a.operandBytes);
  const auto take = [&](int count) {
    float* taken = at;
    at += count;
    return taken;
  };
  constexpr int kTokens = 4 * NT;
  m_sums = take(sumBytes(NT) / 4);
  m_record = take(recordFields(a.size) * a.channels);
  m_history = take((a.size.taps - 1) * a.channels);
  m_u = take(kTokens * a.channels);
  m_z = take(kTokens * a.channels);
  m_convolved = take(kTokens * a.channels);
  m_delta = take(kTokens * a.channels);
  m_bc = take(kTokens * 2 * paddedStates(a.size));
  m_scales = take(kTokens);
  m_means = take(kTokens);
  m_residual = take(kTokens * a.outRows);
}

template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::run() {
  const int layers = static_cast<int>(a.size.layers);
  const int steps = layers + (a.head ? 1 : 0);
  startResidual();
#pragma unroll 1
  for (int layer = 0; layer < steps; ++layer) {
    const Part part = layer == layers ? Part::Head : Part::Expand;
    m_barrier.arrive();
    if (part == Part::Expand) fetch(layer);
    m_barrier.wait();
    const int tileRows = part == Part::Expand ? m_block.groups.count : m_block.headTiles.count;
    product(part, layer, tileRows, a.size.model);
    if (part == Part::Expand) mix(layer);
  }
}

/// What a layer does behind in_proj.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::mix(int layer) {
  keepHistory(layer);
  convolve(layer);
  project();
  m_barrier.arrive();
  m_barrier.wait();
  addPartials();
  m_barrier.arrive();
  m_barrier.wait();
  computeDelta();
  scan(layer);
  m_barrier.arrive();
  m_barrier.wait();
  product(Part::Contract, layer, m_block.outTiles.count, a.size.inner);
  publish(layer + 1);
}

}  // namespace mb::cuda
