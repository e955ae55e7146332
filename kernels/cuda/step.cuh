// One block's work on single tokens of a common shape: the same sums as Chunk's, in the same
// order, arranged for latency. Blocks do not meet; each value is waited for by those who need it
// (see packets.cuh), and warps repeat small work rather than share it.
#pragma once

#include <cstdint>

#include "kernels/cuda/chunk_arguments.cuh"
#include "kernels/cuda/draw_tree.cuh"
#include "kernels/cuda/packets.cuh"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/tiles.cuh"

namespace mb::cuda {

inline constexpr int kStepStates = 16;                        ///< n
inline constexpr int kStepTaps = 4;                           ///< k
inline constexpr int kStepSlots = (128 << 10) / kStageBytes;  ///< least stages of the ring
inline constexpr int kStepRankTiles = 12;
inline constexpr int kStepMostPairs = 2;                ///< of groups of channels, of one block
inline constexpr int kStepSumStride = kPanel * 16 + 4;  ///< the squares lie behind a panel's rows

/// Whether a model is of the shape that Step takes.
inline bool isForStep(const DeviceWeights& weights) {
  const Dimensions& d = weights.plan.dimensions();
  return d.planes == 1 && d.states == kStepStates && d.taps == kStepTaps && d.model % 16 == 0 &&
         d.inner % 16 == 0 && tilesFor(d.dtRank) <= kStepRankTiles && !weights.layerNorm &&
         !weights.outBias && weights.plan.mostChannels() <= kStepMostPairs * 16 &&
         weights.plan.mostOutRows() <= kPanelTiles * kTileRows;
}

/// PAIRS: most pairs of groups of channels of one block, 16 channels each.
template <int PAIRS>
class Step {
 public:
  __device__ explicit Step(const ChunkArguments& arguments);
  /// FROM_TREE: tokens are drawn from a tree. That takes registers.
  template <bool FROM_TREE>
  __device__ void run();

 private:
  static constexpr int kStates = kStepStates;
  static constexpr int kTaps = kStepTaps;
  static constexpr int kFields = kConvWeights + kTaps + kStates;
  static constexpr int kPanelRows = kPanel * 16;
  static constexpr int kSquares = 8;  // tiles whose squares a warp adds at a time
  static constexpr int kTilesOfLook = 32 / kPacketsOfTile;
  using Sums = float[kPanel][4];

  __device__ void product(const uint4* packets, int columnTiles, int tileRows, bool withSquares);
  template <int HEIGHT>
  __device__ void multiplyGathered(const uint4* packets, int columnTiles, bool withSquares,
                                   Sums& sums);
  __device__ float total(int row) const;
  __device__ uint2 operandOf(const uint4& packet, int tile) const;

  template <bool FROM_TREE>
  __device__ void read(std::int32_t token);
  template <bool FROM_TREE>
  __device__ int draw();
  __device__ int drawFromAll(const uint4* logits);
  __device__ int takeBest(const uint4* bests);
  __device__ int drawFromTree(const uint4* logits);
  __device__ void fetch(int layer);
  __device__ void convolve(int layer);
  __device__ void project();
  __device__ void addPartials();
  __device__ void scan(int layer);
  __device__ void contract();
  __device__ void publish();
  template <bool FROM_TREE>
  __device__ void writeLogits();
  __device__ void sendBest(const Best& best);
  __device__ bool isDrafted() const {
    return m_treeProgress.sure < m_treeProgress.drawn ||
           m_treeProgress.tokens == static_cast<int>(a.draftTokens);
  }
  __device__ void endDraft();

  /// Of the token behind this pass among those that are drawn; negative before a given one.
  __device__ int drawIndex() const { return m_pass + 1 - static_cast<int>(a.tokens); }
  __device__ bool drawsNext() const { return drawIndex() < static_cast<int>(a.draws); }
  __device__ bool mayBeDrawn(std::uint32_t token) const;
  __device__ const uint4* inputPackets() const {
    return a.packets + a.packetLayout.input + blockIdx.x % kInputCopies * a.packetLayout.inputSize;
  }

  /// Row of the channels' record, see RecordField.
  __device__ const float* record(int field) const { return records() + field * m_channels; }

  /// See Chunk::forget().
  __device__ void forget() {
    asm volatile(""
                 : "+r"(m_warp), "+r"(m_lane), "+r"(m_channels), "+r"(m_own), "+r"(m_channelBegin));
  }

  // Places are looked up where they are needed: registers are short.
  __device__ float* turnSums() const {
    return floatsAt(a.memory.sums) + m_turn * kComputeWarps * kStepSumStride;
  }
  __device__ float* records() const {
    return floatsAt(a.memory.record) + m_recordTurn * kFields * a.channels;
  }
  __device__ DrawMemory& drawMemory() const {
    return *reinterpret_cast<DrawMemory*>(chunkMemory + a.memory.draw);
  }

  const ChunkArguments& a;
  const BlockPlan m_block;
  int m_warp;
  int m_lane;
  int m_channelBegin;
  int m_own;       // channels of this block
  int m_channels;  // padded to 16
  int m_modelTiles;
  int m_cursor = 0;  // next tile of the stretch
  std::uint32_t m_sequence;

  int m_turn = 0;  // which of the two sums, [warps][rows of a panel]
  int m_recordTurn = 0;
  int m_pass = 0;  // token of this launch
  const float* m_stateIn;
  float* m_stateOut = nullptr;
  TileReader m_reader;
  TreeProgress m_treeProgress;

  float m_squares = 0;                // of what this warp has gathered
  float m_scale = 0;                  // of the norm
  float m_residual = 0;               // in warp t, lane r: row r of the block's tile t of x
  float m_normWeight = 0;             // of the next norm, likewise
  float m_history[PAIRS][kTaps - 1];  // of the lane's channels, see convolve()
  float m_mixed[PAIRS];               // u', or SiLU(z)
  float m_state[2];
};

/// Floats of the sums of both turns, and of both records.
inline constexpr int kStepSums = 2 * kComputeWarps * kStepSumStride;
inline int stepRecords(const Dimensions& size, int channels) {
  return 2 * recordFields(size) * channels;
}

template <int PAIRS>
__device__ Step<PAIRS>::Step(const ChunkArguments& arguments)
    : a(arguments),
      m_block(arguments.blocks[blockIdx.x]),
      m_warp(threadIdx.x / 32),
      m_lane(threadIdx.x % 32),
      m_channelBegin(m_block.groups.begin * kGroupChannels),
      m_own(m_block.groups.count * kGroupChannels),
      m_channels(static_cast<int>(tilesFor(m_own) * kTileRows)),
      m_modelTiles(static_cast<int>(a.size.model / 16)),
      m_sequence(a.sequence),
      m_stateIn(a.stateIn),
      m_reader(reinterpret_cast<uint4*>(chunkMemory),
               reinterpret_cast<StageSync*>(chunkMemory + a.memory.ringSync), a.slots),
      m_treeProgress{.confidence = a.confidence} {}

template <int PAIRS>
template <bool FROM_TREE>
__device__ void Step<PAIRS>::run() {
  std::int32_t token = a.input[0];
#pragma unroll 1
  for (m_pass = 0; m_pass < static_cast<int>(a.passes); ++m_pass) {
    m_stateOut = a.statesOut[m_pass];
    read<FROM_TREE>(token);
    // Before a given token as well: with that, all have read what the next pass overwrites.
    // Drawing from a tree, all have to know when it ends.
    if (drawsNext() && (FROM_TREE || m_block.outTiles.count > 0)) token = draw<FROM_TREE>();
    if (FROM_TREE && isDrafted()) return endDraft();
    if (m_pass + 1 < static_cast<int>(a.tokens)) token = a.input[m_pass + 1];
    m_stateIn = m_stateOut;
    ++m_sequence;
  }
}

/// Takes the state past a token, and leaves the logits behind it.
template <int PAIRS>
template <bool FROM_TREE>
__device__ void Step<PAIRS>::read(std::int32_t token) {
  const int layers = static_cast<int>(a.size.layers);
  const int outTiles = static_cast<int>(m_block.outTiles.count);
  const auto outRow = [&] { return (m_block.outTiles.begin + m_warp) * 16 + m_lane % 16; };
  if (m_warp < outTiles) {
    m_residual = embedded(a, token, static_cast<int>(outRow()));
    m_normWeight = __ldg(a.parameters + a.layout.norm + outRow());
    publish();
  }
#pragma unroll 1
  for (int layer = 0; layer < layers; ++layer) {
    if (m_warp < outTiles) {
      const float* next = a.parameters + static_cast<std::size_t>(layer + 1) * a.layout.layerSize;
      m_normWeight = __ldg(next + a.layout.norm + outRow());
    }
    if (m_own > 0) {
      fetch(layer);
      product(inputPackets(), m_modelTiles, m_block.groups.count, true);
      convolve(layer);
      project();
    }
    addPartials();
    if (m_own > 0) scan(layer);
    if (outTiles > 0) contract();
    ++m_sequence;
    if (m_warp < outTiles && (a.head || layer + 1 < layers)) publish();
  }
  if (a.head) writeLogits<FROM_TREE>();
}

/// Nothing behind the token just drawn is drafted: what the ring brings for more is let go.
template <int PAIRS>
__device__ void Step<PAIRS>::endDraft() {
  const int next = drawIndex() + 1;
  if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0 && next < static_cast<int>(a.draws))
    a.drawn[next] = kNoToken;
  const std::uint32_t perPass = a.size.layers * m_block.layerTiles + m_block.headStretch;
  if (perPass > 0) m_reader.hold(a.passes * perPass, a.passes * perPass - 1);
}

}  // namespace mb::cuda
