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

__device__ inline std::uint32_t sharedAddress(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

__device__ inline void initStage(StageSync& stage) {
  asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(sharedAddress(&stage.full)));
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(sharedAddress(&stage.empty)),
               "r"(kComputeWarps * kReleasingLanes));
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

/// One thread starts all copies. Were the others of its warp to wait beside it, it would wait for
/// its turn among them.
inline constexpr int kFillingThreads = 1;

__device__ inline void fill(StageSync& stage, uint4* to, const uint4* from) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(sharedAddress(&stage.full)),
      "r"(kStageBytes)
      : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(sharedAddress(to)),
      "l"(from), "r"(kStageBytes), "r"(sharedAddress(&stage.full))
      : "memory");
}

#else

__device__ inline void initStage(StageSync& stage) {
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

__device__ inline void fill(StageSync& stage, uint4* to, const uint4* from) {
  const int lane = threadIdx.x % 32;
  for (int i = lane; i < kStageBytes / 16; i += 32) to[i] = __ldg(from + i);
  __threadfence_block();
  __syncwarp();
  if (lane == 0) *static_cast<volatile std::uint64_t*>(&stage.full) = stage.full + 1;
}

#endif

/// The filling warp's loop: `stages` stages of a stretch of tiles, in order.
__device__ inline void fillRing(uint4* ring, StageSync* sync, std::uint32_t slotBits,
                                const uint4* stretch, std::uint32_t stages) {
  constexpr std::uint32_t kStageValues = kStageBytes / 16;
  if (threadIdx.x % 32 >= kFillingThreads) return;
  for (std::uint32_t stage = 0; stage < stages; ++stage) {
    const std::uint32_t slot = stage & ((1u << slotBits) - 1);
    waitEmpty(sync[slot], stage >> slotBits);
    fill(sync[slot], ring + slot * kStageValues,
         stretch + static_cast<std::uint64_t>(stage) * kStageValues);
  }
}

/// One compute warp's view of the ring.
class TileReader {
 public:
  /// The ring has 2^slotBits slots.
  __device__ TileReader(const uint4* ring, StageSync* sync, std::uint32_t slotBits)
      : m_ring(ring), m_sync(sync), m_slotBits(slotBits), m_slots(1u << slotBits) {}

  /// Waits until tiles up to `last` are there, and gives back the stages before that of `first`.
  /// Both only grow; together they must not span more stages than there are slots.
  __device__ void hold(std::uint32_t first, std::uint32_t last) {
    while ((m_free + 1) * kStageTiles <= first) {  // before waiting: the wait may be for their room
      if (m_free == m_full) waitNext();
      __syncwarp();
      if (threadIdx.x % 32 < kReleasingLanes) release(m_sync[m_free & (m_slots - 1)]);
      ++m_free;
    }
    while (m_full * kStageTiles <= last) waitNext();
  }

  /// Registers of this lane's part of a tile that is held: the A operand of mma.m16n8k16.
  __device__ uint4 tile(std::uint32_t index) const {
    return m_ring[(index & (m_slots * kStageTiles - 1)) * 32 + threadIdx.x % 32];
  }

 private:
  __device__ void waitNext() {
    waitFull(m_sync[m_full & (m_slots - 1)], m_full >> m_slotBits);
    ++m_full;
  }

  const uint4* m_ring;
  StageSync* m_sync;
  std::uint32_t m_slotBits;
  std::uint32_t m_slots;
  std::uint32_t m_full = 0;  ///< stages known to be full
  std::uint32_t m_free = 0;  ///< stages given back
};

}  // namespace mb::cuda
