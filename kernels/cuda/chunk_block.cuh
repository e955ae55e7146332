// One block's work on a chunk: what it holds, and the order of a layer's stages.
#pragma once

#include <cstdint>

#include "kernels/cuda/chunk_supply.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/scan_sums.cuh"
#include "kernels/cuda/tiles.cuh"

namespace mb::cuda {

/// How a computing warp takes part in the meetings of the grid: arrive(), then wait(). What the
/// block writes in between to its own memory is not ordered by it.
class GridMeeting {
 public:
  __device__ void arrive() const {
    __syncwarp();
    asm volatile("bar.arrive 2, %0;" ::"n"(kComputeThreads + kSupplyThreads) : "memory");
  }
  __device__ void wait(StageSync& met) { waitFull(met, m_meetings++); }

 private:
  std::uint32_t m_meetings = 0;
};

inline constexpr int kSumTiles = 2;  // tile rows whose sums the warps add at a time

/// One block's work. NT blocks of kOperandTokens tokens; a scanning thread holds SPL states.
template <int NT, int SPL>
class Chunk {
 public:
  __device__ explicit Chunk(const ChunkArguments& arguments);
  __device__ void run();

 private:
  using Sums = float[kPanel][NT][4];

  __device__ int tokens() const { return m_tokens; }
  __device__ int planes() const { return static_cast<int>(a.size.planes); }

  /// The products over whole rows. One loop serves them all: instructions have to fit the
  /// instruction cache, or every layer waits for them.
  enum class Part { Expand, Contract, Head };

  __device__ void product(Part part, int tileRows, int columns);
  __device__ void output(Part part, int row, int token, float sum);
  __device__ void reduce(Part part, int firstRow, int tileRows, const Sums& sums);
  /// For small matrices, whose tiles fit the ring together: a warp takes every eighth tile row, or
  /// share of one.
  template <int BLOCKS, class From, class Output>
  __device__ void productByRows(const From& from, int tileRows, int columns, Output output);
  template <int HEIGHT>
  __device__ void multiplySupplied(int columnTiles, Sums& sums);
  __device__ void passSupplied(int columnTiles);
  __device__ std::uint32_t supplySlot() const {
    return m_supplied & ((1u << a.memory.supplyShift) - 1);
  }
  __device__ char* awaitSupplied();
  __device__ void releaseSupplied();
  __device__ void multiplyPlanes(const GridOperands<NT>& from, int columnTiles, int height,
                                 Sums& sums);

  __device__ char* awaitMail();
  __device__ void measure();
  __device__ float normed(int token, float sum, float mean, float bias) const;

  __device__ void meetGrid();
  __device__ void mix(int layer);
  __device__ void fetch(int layer);
  __device__ void keepHistory(int layer);
  __device__ void convolve(int layer);
  __device__ void project(std::uint32_t sequence);
  __device__ void sendParts(int pair, int block, const float2& sums, std::uint32_t sequence);
  __device__ void addPartials(std::uint32_t sequence);
  __device__ void gatherSelected(SuppliedOperands<NT> delta, float* selected,
                                 std::uint32_t sequence);
  __device__ const float* computeDelta(std::uint32_t sequence);
  __device__ void scan(int layer, const float* selected);
  __device__ void scanTokens(int layer, int first, int channel, const float* selected,
                             float (&s)[SPL], const float (&rate)[SPL]);
  __device__ void leaveBehind(int layer, int token, int channel, const ScanSums& sums) const;

  /// Keeps the compiler from holding what follows from these through a whole layer: it would run
  /// out of registers, and what it spills lies beyond the level 1 cache.
  __device__ void forget() {
    asm volatile(""
                 : "+r"(m_thread), "+r"(m_warp), "+r"(m_lane), "+r"(m_channels), "+r"(m_own),
                   "+r"(m_channelBegin), "+r"(m_tokens));
  }

  __device__ float normWeight(int layer, int tile) const;
  __device__ void startResidual();
  __device__ void publish(int layer);

  // Places are looked up where they are needed: registers are short.
  __device__ GridOperands<NT> operandsIn(uint2* memory, int columnTiles) const {
    return {memory, planes(), columnTiles * GridOperands<NT>::kTileStride};
  }
  __device__ GridOperands<NT> input() const { return operandsIn(a.inputOperands, modelTiles()); }
  __device__ GridOperands<NT> gated() const {
    return operandsIn(a.outputOperands, static_cast<int>(tilesFor(a.size.inner)));
  }
  __device__ BlockOperands<NT> convolvedOperands() const {
    return {chunkMemory + a.memory.operands, planes(),
            m_channels / 16 * BlockOperands<NT>::kTileStride};
  }
  __device__ Inbox<NT> inbox() const { return {chunkMemory, a.memory}; }
  /// What blocks have to add for a pair of rows and a token, NT · kOperandTokens apart.
  __device__ uint4* partsOf(int pair, int token) const {
    return a.partials + pair * static_cast<int>(gridDim.x) * NT * kOperandTokens + token;
  }
  /// Of a place that has values of tokens and channels.
  __device__ float& at(int place, int token, int channel) const {
    return floatsAt(place)[token * a.memory.tokenStride + channel];
  }
  /// Row of the channels' record, see RecordField.
  __device__ const float* record(int field) const {
    return floatsAt(a.memory.record) + field * m_channels;
  }
  __device__ int projected() const { return static_cast<int>(projectedRows(a.size)); }
  __device__ int rankRows() const { return static_cast<int>(tilesFor(a.size.dtRank) * kTileRows); }
  __device__ int modelTiles() const { return static_cast<int>(tilesFor(a.size.model)); }

  const ChunkArguments& a;
  const BlockPlan m_block;
  int m_tokens;
  int m_thread;
  int m_warp;
  int m_lane;
  int m_channelBegin;
  int m_own;       // channels of this block
  int m_channels;  // padded to 16
  const Panels m_panels;
  int m_cursor = 0;              // next tile of the stretch
  std::uint32_t m_supplied = 0;  // stages of the inbox that were given back
  const SharedRelease m_giveBack;
  std::uint32_t m_mails = 0;  // that came
  TileReader m_reader;
  GridMeeting m_meeting;

  // Fetched at the start of a layer, for when they are needed.
  int m_historyPosition;  // of the value this thread fetches
  float m_fetchedHistory = 0;
  float m_fetchedNorm = 0;
  float m_fetchedState[SPL];
};

template <int NT, int SPL>
__device__ Chunk<NT, SPL>::Chunk(const ChunkArguments& arguments)
    : a(arguments),
      m_block(arguments.blocks[blockIdx.x]),
      m_tokens(static_cast<int>(a.list ? a.list->count : a.tokens)),
      m_thread(threadIdx.x),
      m_warp(threadIdx.x / 32),
      m_lane(threadIdx.x % 32),
      m_channelBegin(m_block.groups.begin * kGroupChannels),
      m_own(m_block.groups.count * kGroupChannels),
      m_channels(static_cast<int>(tilesFor(m_own) * kTileRows)),
      m_panels(panelsOf(arguments)),
      m_giveBack(inbox().sync, a.paired),
      m_reader(reinterpret_cast<uint4*>(chunkMemory),
               reinterpret_cast<StageSync*>(chunkMemory + a.memory.ringSync), a.slots),
      m_historyPosition(m_channels > 0 ? threadIdx.x / m_channels : 0) {}

template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::run() {
  const int layers = static_cast<int>(a.size.layers);
  const int steps = layers + (a.head ? 1 : 0);
  startResidual();
#pragma unroll 1
  for (int layer = 0; layer < steps; ++layer) {
    const Part part = layer == layers ? Part::Head : Part::Expand;
    m_meeting.arrive();
    if (part == Part::Expand) fetch(layer);
    m_meeting.wait(inbox().meeting());
    const int tileRows = part == Part::Expand ? m_block.groups.count : m_block.headTiles.count;
    product(part, tileRows, a.size.model);
    if (part == Part::Expand) mix(layer);
  }
}

template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::meetGrid() {
  m_meeting.arrive();
  m_meeting.wait(inbox().meeting());
}

/// What a layer does behind in_proj.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::mix(int layer) {
  keepHistory(layer);
  convolve(layer);
  // Here blocks do not meet: it is little that they tell each other, see packets.cuh.
  const std::uint32_t sequence = a.sequence + layer;
  project(sequence);
  addPartials(sequence);
  const float* selected = computeDelta(sequence);
  scan(layer, selected);
  meetGrid();
  product(Part::Contract, m_block.outTiles.count, a.size.inner);
  publish(layer + 1);
}

}  // namespace mb::cuda
