// Weights on their way to one block: a ring of stages in shared memory, filled ahead of time.
#pragma once

#include <cstdint>

#include "kernels/cuda/work_plan.h"

namespace mb::cuda {

inline constexpr int kComputeThreads = 32 * kComputeWarps;

/// Lanes of a warp that give a stage back, after the warp has met: one will do. compute-sanitizer's
/// racecheck does not follow the others' reads through that one, so for it all give back.
#ifdef MB_CUDA_RACECHECK
inline constexpr int kReleasingLanes = 32;
#else
inline constexpr int kReleasingLanes = 1;
#endif

inline constexpr int kStageBytes = static_cast<int>(kStageTiles * kTileBytes);

/// Barriers of one stage of the ring. From compute capability 9.0 the bulk copy engine fills
/// stages and completes `full`; before, the filling warp copies itself and counts.
struct StageSync {
  std::uint64_t full;
  std::uint64_t empty;
};

#if __CUDA_ARCH__ >= 900

/// One thread starts all copies. Were the others of its warp to wait beside it, it would wait for
/// its turn among them.
inline constexpr int kFillingThreads = 1;

__device__ inline std::uint32_t sharedAddress(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// `blocks`: how many share the stage's contents, and give it back.
__device__ inline void initStage(StageSync& stage, int blocks = 1) {
  asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(sharedAddress(&stage.full)));
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(sharedAddress(&stage.empty)),
               "r"(blocks * kComputeWarps * kReleasingLanes));
}

__device__ inline void publishStages() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// Waits for the phase with this parity to end.
__device__ inline void waitPhase(std::uint64_t& barrier, std::uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
      "@done bra ready;\n"
      "bra again;\n"
      "ready:\n"
      "}\n" ::"r"(sharedAddress(&barrier)),
      "r"(parity)
      : "memory");
}

/// `use` counts how often this stage was filled before.
__device__ inline void waitFull(StageSync& stage, std::uint32_t use) {
  waitPhase(stage.full, use & 1);
}

__device__ inline void waitEmpty(StageSync& stage, std::uint32_t use) {
  if (use > 0) waitPhase(stage.empty, (use - 1) & 1);
}

__device__ inline void release(StageSync& stage) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(sharedAddress(&stage.empty)) : "memory");
}

/// Of a pair of blocks, 0 or 1.
__device__ inline std::uint32_t rankInPair() {
  std::uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/// Both blocks of a pair meet, with all of their threads.
__device__ inline void meetInPair() {
  asm volatile("barrier.cluster.arrive;\nbarrier.cluster.wait;" ::: "memory");
}

/// Gives stages back to all blocks that get the same ones: a lane for each block.
class SharedRelease {
 public:
  __device__ SharedRelease(StageSync* stages, bool paired) {
    const int lane = threadIdx.x % 32;
    m_gives = lane < (paired ? 2 : kReleasingLanes);
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(m_empty)
        : "r"(sharedAddress(&stages->empty)), "r"(paired && m_gives ? lane : 0));
  }
  __device__ void operator()(std::uint32_t slot) const {
    if (m_gives)
      asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(
                       m_empty + slot * static_cast<std::uint32_t>(sizeof(StageSync)))
                   : "memory");
  }

 private:
  std::uint32_t m_empty;  // of the first stage, in that block
  bool m_gives;
};

/// How the level 2 cache is to treat weights: those that come once a token must not drive out what
/// blocks tell each other.
__device__ inline std::uint64_t cachePolicy(bool passing) {
  std::uint64_t policy;
  if (passing)
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  else
    asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

/// Says how much is going to be copied to a stage.
__device__ inline void expect(StageSync& stage, std::uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(sharedAddress(&stage.full)),
      "r"(bytes)
      : "memory");
}

__device__ inline void copy(StageSync& stage, uint4* to, const uint4* from, std::uint32_t bytes,
                            std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1], %2, [%3], %4;" ::"r"(sharedAddress(to)),
      "l"(from), "r"(bytes), "r"(sharedAddress(&stage.full)), "l"(policy)
      : "memory");
}

/// Of what other blocks have written: to the stage, or to both of a pair.
__device__ inline void copyWritten(StageSync& stage, void* to, const void* from,
                                   std::uint32_t bytes) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(sharedAddress(to)),
      "l"(from), "r"(bytes), "r"(sharedAddress(&stage.full))
      : "memory");
}

__device__ inline void copyWrittenToPair(StageSync& stage, void* to, const void* from,
                                         std::uint32_t bytes) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1], %2, [%3], %4;" ::"r"(sharedAddress(to)),
      "l"(from), "r"(bytes), "r"(sharedAddress(&stage.full)), "h"(std::uint16_t{3})
      : "memory");
}

/// Before copies of what other blocks have written, by whoever has seen that they have.
__device__ inline void beforeCopyingWritten() {
  asm volatile("fence.proxy.async;" ::: "memory");
}

/// Says that all copies to a stage have been started.
__device__ inline void finish(StageSync&) {}

/// Says that what needs no copy is there. One thread.
__device__ inline void announce(StageSync& stage) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(sharedAddress(&stage.full)) : "memory");
}

#else

__device__ inline void initStage(StageSync& stage, int = 1) {
  stage.full = 0;
  stage.empty = 0;
}

__device__ inline void publishStages() {}

__device__ inline void waitFull(StageSync& stage, std::uint32_t use) {
  while (*static_cast<volatile std::uint64_t*>(&stage.full) <= use) {
  }
  __threadfence_block();
}

__device__ inline void waitEmpty(StageSync& stage, std::uint32_t use) {
  while (*static_cast<volatile std::uint64_t*>(&stage.empty) <
         static_cast<std::uint64_t>(use) * kComputeWarps * kReleasingLanes) {
  }
  __threadfence_block();
}

__device__ inline void release(StageSync& stage) {
  __threadfence_block();
  atomicAdd(reinterpret_cast<unsigned long long*>(&stage.empty), 1ull);
}

inline constexpr int kFillingThreads = 32;

// There are no pairs of blocks.
__device__ inline std::uint32_t rankInPair() {
  return 0;
}
__device__ inline void meetInPair() {}
class SharedRelease {
 public:
  __device__ SharedRelease(StageSync* stages, bool) : m_stages(stages) {}
  __device__ void operator()(std::uint32_t slot) const {
    if (threadIdx.x % 32 < kReleasingLanes) release(m_stages[slot]);
  }

 private:
  StageSync* m_stages;
};

__device__ inline std::uint64_t cachePolicy(bool) {
  return 0;
}

__device__ inline void expect(StageSync&, std::uint32_t) {}

__device__ inline void copy(StageSync&, uint4* to, const uint4* from, std::uint32_t bytes,
                            std::uint64_t) {
  for (std::uint32_t i = threadIdx.x % 32; i < bytes / 16; i += 32) to[i] = __ldg(from + i);
}

__device__ inline void copyWritten(StageSync&, void* to, const void* from, std::uint32_t bytes) {
  for (std::uint32_t i = threadIdx.x % 32; i < bytes / 16; i += 32)
    static_cast<uint4*>(to)[i] = __ldcg(static_cast<const uint4*>(from) + i);
}

__device__ inline void copyWrittenToPair(StageSync& stage, void* to, const void* from,
                                         std::uint32_t bytes) {
  copyWritten(stage, to, from, bytes);
}

__device__ inline void beforeCopyingWritten() {}

__device__ inline void announce(StageSync& stage) {
  __threadfence_block();
  *static_cast<volatile std::uint64_t*>(&stage.full) = stage.full + 1;
}

__device__ inline void finish(StageSync& stage) {
  __threadfence_block();
  __syncwarp();
  if (threadIdx.x % 32 == 0) announce(stage);
}

#endif

/// A place in the ring that moves on by stages.
struct RingPlace {
  std::uint32_t slot = 0;
  std::uint32_t use = 0;  ///< how often the slot was filled before

  __device__ void advance(std::uint32_t slots) {
    if (++slot < slots) return;
    slot = 0;
    ++use;
  }
};

inline constexpr std::uint32_t kPieceTiles = 8;  ///< that are copied at a time

/// What the filling warp brings: a stretch of tiles of every layer, and one of the head.
struct Stretches {
  const uint4* layer;  ///< of the first layer
  std::uint32_t layers;
  std::uint32_t layerTiles;   ///< of one stretch
  std::uint32_t layerStride;  ///< tiles from one to the next
  const uint4* head;
  std::uint32_t headTiles;
  std::uint32_t passes;  ///< how often all of it comes
  bool passing;          ///< see cachePolicy()
};

/// The filling warp's loop: all tiles in order, in whole stages, whatever stretch they come from.
__device__ inline void fillRing(uint4* ring, StageSync* sync, std::uint32_t slots,
                                const Stretches& stretches) {
  constexpr std::uint32_t kTileValues = kTileBytes / 16;
  if (threadIdx.x % 32 >= kFillingThreads) return;
  const std::uint64_t policy = cachePolicy(stretches.passing);
  std::uint32_t left =
      stretches.passes * (stretches.layers * stretches.layerTiles + stretches.headTiles);
  std::uint32_t layer = 0;
  std::uint32_t taken = 0;  // tiles of the current stretch
  for (RingPlace place; left > 0; place.advance(slots)) {
    StageSync& stage = sync[place.slot];
    waitEmpty(stage, place.use);
    uint4* to = ring + place.slot * (kStageTiles * kTileValues);
    std::uint32_t wanted = min(kStageTiles, left);
    left -= wanted;
    expect(stage, wanted * kTileBytes);
    while (wanted > 0) {
      const bool isHead = layer == stretches.layers;
      const uint4* from =
          isHead ? stretches.head
                 : stretches.layer + std::uint64_t{layer} * stretches.layerStride * kTileValues;
      const std::uint32_t size = isHead ? stretches.headTiles : stretches.layerTiles;
      const std::uint32_t count = min(min(wanted, size - taken), kPieceTiles);
      if (count > 0) copy(stage, to, from + taken * kTileValues, count * kTileBytes, policy);
      to += count * kTileValues;
      wanted -= count;
      taken += count;
      if (taken < size) continue;
      taken = 0;
      layer = isHead ? 0 : layer + 1;
    }
    finish(stage);
  }
}

/// One compute warp's view of the ring.
class TileReader {
 public:
  __device__ TileReader(const uint4* ring, StageSync* sync, std::uint32_t slots)
      : m_ring(ring), m_sync(sync), m_slots(slots) {}

  /// Waits until tiles up to `last` are there, and gives back the stages before that of `first`.
  /// Both only grow; together they must not span more stages than there are slots.
  __device__ void hold(std::uint32_t first, std::uint32_t last) {
    while (m_freeEnd <= first) {  // before waiting: the wait may be for their room
      if (m_freeEnd > m_fullEnd) waitNext();
      __syncwarp();
      if (threadIdx.x % 32 < kReleasingLanes) release(m_sync[m_free.slot]);
      m_free.advance(m_slots);
      m_freeEnd += kStageTiles;
    }
    while (m_fullEnd <= last) waitNext();
    while (first - m_base >= m_slots * kStageTiles) m_base += m_slots * kStageTiles;
  }

  /// Registers of this lane's part of a tile that is held: the A operand of mma.m16n8k16.
  __device__ uint4 tile(std::uint32_t index) const {
    const std::uint32_t tiles = m_slots * kStageTiles;
    index -= m_base;
    if (index >= tiles) index -= tiles;
    return m_ring[index * 32 + threadIdx.x % 32];
  }

 private:
  __device__ void waitNext() {
    waitFull(m_sync[m_full.slot], m_full.use);
    m_full.advance(m_slots);
    m_fullEnd += kStageTiles;
  }

  const uint4* m_ring;
  StageSync* m_sync;
  std::uint32_t m_slots;
  RingPlace m_full;                       ///< stage that is not known to be full yet
  RingPlace m_free;                       ///< stage that is given back next
  std::uint32_t m_fullEnd = 0;            ///< tiles known to be there
  std::uint32_t m_freeEnd = kStageTiles;  ///< end of the stage that is given back next
  std::uint32_t m_base = 0;               ///< tile at the ring's beginning
};

}  // namespace mb::cuda
