// What a block of a chunk gets from the others: a warp of its own meets them, and brings what they
// have left in the level 2 cache into shared memory while the computing warps go on.
#pragma once

#include <cstdint>

#include "kernels/cuda/chunk_arguments.cuh"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/tiles.cuh"

namespace mb::cuda {

/// Meetings of the grid: before each layer and the head, and before each out_proj.
inline constexpr std::uint32_t kMeetingsPerLayer = 2;
inline constexpr int kSupplyThreads = 32;

/// How often a block, or a pair of them, goes through a product's operands: once a panel.
struct Panels {
  int expand = 0;
  int contract = 0;
  int head = 0;
};

/// Blocks of a pair get the same operands, so one takes part where only the other has rows.
__device__ inline Panels panelsOf(const ChunkArguments& a) {
  const auto panelsFor = [](const Share& share) {
    return static_cast<int>((share.count + kPanelTiles - 1) / kPanelTiles);
  };
  Panels panels;
  for (std::uint32_t i = 0; i < (a.paired ? 2 : 1); ++i) {
    const BlockPlan& block = a.blocks[blockIdx.x ^ i];
    panels.expand = max(panels.expand, panelsFor(block.groups));
    panels.contract = max(panels.contract, panelsFor(block.outTiles));
    panels.head = max(panels.head, panelsFor(block.headTiles));
  }
  return panels;
}

/// Bytes of the operands of δ, and of B and C, for NT blocks of tokens.
__host__ __device__ constexpr int deltaBytes(const Dimensions& d, int tokenBlocks) {
  return static_cast<int>(d.planes * tilesFor(d.dtRank)) * tokenBlocks * kOperandBytes;
}
__host__ __device__ constexpr int selectedBytes(const Dimensions& d, int tokenBlocks) {
  return tokenBlocks * kOperandTokens * 2 *
         static_cast<int>(tilesFor(d.states) * kTileRows * sizeof(float));
}
/// And of one kind of moments.
__host__ __device__ constexpr int momentBytes(const Dimensions& d, int tokenBlocks) {
  return tokenBlocks * kOperandTokens * static_cast<int>(tilesFor(d.model) * sizeof(float));
}

__host__ __device__ constexpr int mailBytes(const Dimensions& d, int tokenBlocks, bool layerNorm) {
  const int moments = (layerNorm ? 2 : 1) * momentBytes(d, tokenBlocks);
  const int selected = deltaBytes(d, tokenBlocks) + selectedBytes(d, tokenBlocks);
  return ((moments > selected ? moments : selected) + 127) / 128 * 128;
}

inline constexpr int kMostSupplyShift = 2;  ///< 4 stages for operands, where there is room
inline constexpr int kMostSupplySlots = 1 << kMostSupplyShift;
inline constexpr int kSupplyColumns = 2;  ///< column tiles of a stage for each computing warp
__host__ __device__ constexpr int supplyStageBytes(int tokenBlocks) {
  return kSupplyColumns * kComputeWarps * tokenBlocks * kOperandBytes;
}
/// What keeps the stages in step, and two more for meetings and mail.
inline constexpr int kInboxSyncs = kMostSupplySlots + 2;

/// Where it arrives. Operands come through stages of their own, the norm's moments as they are.
/// When these have been read the computing warps gather δ, B and C in their place.
template <int NT>
struct Inbox {
  static constexpr int kTile = NT * kOperandBytes;
  static constexpr int kStage = supplyStageBytes(NT);
  static constexpr int kTiles = kSupplyColumns * kComputeWarps;  ///< of a stage

  __device__ Inbox(char* block, const ChunkMemory& memory)
      : stages(block + memory.stages),
        sync(reinterpret_cast<StageSync*>(block + memory.inboxSync)),
        mail(block + memory.mail) {}

  /// One thread.
  __device__ void init(bool paired) const {
    for (int i = 0; i < kMostSupplySlots; ++i) initStage(sync[i], paired ? 2 : 1);
    initStage(meeting());
    initStage(mailSync());
  }
  /// Full when all blocks have met.
  __device__ StageSync& meeting() const { return sync[kMostSupplySlots]; }
  __device__ StageSync& mailSync() const { return sync[kMostSupplySlots + 1]; }

  char* stages;
  StageSync* sync;  ///< of the stages, and behind them the others
  char* mail;
};

/// The supplying warp.
template <int NT>
class Supply {
 public:
  __device__ Supply(const ChunkArguments& arguments, const Inbox<NT>& inbox)
      : a(arguments),
        m_inbox(inbox),
        m_lane(threadIdx.x % 32),
        m_rank(arguments.paired ? rankInPair() : 0),
        m_target(arguments.arrived) {}

  __device__ void run() {
    const int modelTiles = static_cast<int>(tilesFor(a.size.model));
    const int innerTiles = static_cast<int>(tilesFor(a.size.inner));
    const int layers = static_cast<int>(a.size.layers);
    const Panels panels = panelsOf(a);
#pragma unroll 1
    for (int layer = 0; layer < layers; ++layer) {
      meetGrid();  // the residual is published
      sendMoments();
      stream(a.inputOperands, modelTiles, panels.expand);
      meetGrid();  // y
      stream(a.outputOperands, innerTiles, panels.contract);
    }
    if (!a.head) return;
    meetGrid();
    sendMoments();
    stream(a.inputOperands, modelTiles, panels.head);
  }

 private:
  /// Waits until this block's computing warps have arrived, and then all blocks.
  __device__ void meetGrid() {
    __syncwarp();
    asm volatile("bar.sync 2, %0;" ::"n"(kComputeThreads + kSupplyThreads) : "memory");
    m_target += gridDim.x;
    if (m_lane == 0) {
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(a.arrivals) : "memory");
      std::uint32_t arrived = 0;
      do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                     : "=r"(arrived)
                     : "l"(a.arrivals)
                     : "memory");
      } while (static_cast<std::int32_t>(arrived - m_target) < 0);
      beforeCopyingWritten();
      announce(m_inbox.meeting());
    }
    __syncwarp();
  }

  __device__ void sendMoments() const {
    if (m_lane >= kFillingThreads) return;
    const int bytes = momentBytes(a.size, NT);
    expect(m_inbox.mailSync(), (a.layerNorm ? 2 : 1) * bytes);
    copyWritten(m_inbox.mailSync(), m_inbox.mail, a.moments, bytes);
    if (a.layerNorm)
      copyWritten(m_inbox.mailSync(), m_inbox.mail + bytes,
                  a.moments + a.capacity * tilesFor(a.size.model), bytes);
    finish(m_inbox.mailSync());
  }

  /// Operands of so many column tiles, as often as there are panels. Of a pair, each block brings
  /// every second stage to both.
  __device__ void stream(const uint2* operands, int tiles, int panels) {
    if (m_lane >= kFillingThreads || a.size.planes > 1) return;
    const auto* from = reinterpret_cast<const char*>(operands);
#pragma unroll 1
    for (int i = 0; i < panels; ++i) {
#pragma unroll 1
      for (int tile = 0; tile < tiles; tile += Inbox<NT>::kTiles) {
        StageSync& stage = m_inbox.sync[m_place.slot];
        char* to = m_inbox.stages + m_place.slot * Inbox<NT>::kStage;
        const std::uint32_t bytes = min(Inbox<NT>::kTiles, tiles - tile) * Inbox<NT>::kTile;
        waitEmpty(stage, m_place.use);
        expect(stage, bytes);
        if (!a.paired)
          copyWritten(stage, to, from + tile * Inbox<NT>::kTile, bytes);
        else if (m_turn == m_rank)
          copyWrittenToPair(stage, to, from + tile * Inbox<NT>::kTile, bytes);
        finish(stage);
        m_turn ^= 1;
        m_place.advance(1u << a.memory.supplyShift);
      }
    }
  }

  const ChunkArguments& a;
  const Inbox<NT> m_inbox;
  int m_lane;
  std::uint32_t m_rank;
  std::uint32_t m_target;
  std::uint32_t m_turn = 0;  // whose the next stage is
  RingPlace m_place;
};

}  // namespace mb::cuda
