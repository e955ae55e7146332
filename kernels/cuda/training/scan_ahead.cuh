// What the backward scan of one segment of a stream hands to the segment before it, so that
// segments need not wait for each other: derivatives by the state at its beginning, were those by
// the state at its end zero. They are linear in those: the rest is e^(A Σ Δ) times them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/training/scan.cuh"

namespace mb::cuda::training {

/// Some tiles of a stream, one after the other.
struct SegmentArguments {
  std::uint32_t segments = 1;  ///< of a stream
  std::uint32_t tiles = 0;     ///< of a segment; the last may have fewer
  float* ends = nullptr;       ///< the derivatives [streams][segments][e][n]
  float* deltas = nullptr;     ///< Σ Δ [streams][segments][e]

  __device__ std::size_t of(std::uint32_t stream, std::uint32_t segment) const {
    return std::size_t{stream} * segments + segment;
  }
};

template <class Value, int SPL>
class ScanAhead {
 public:
  static constexpr int kChannels = kScanThreads / kScanLanes;  ///< of a block

  __device__ ScanAhead(const ScanArguments<Value>& arguments, const Value* dGated)
      : a(arguments),
        m_dGated(dGated),
        m_channel(blockIdx.x * kChannels + threadIdx.x / kScanLanes),
        m_lane(static_cast<int>(threadIdx.x % kScanLanes)) {}

  __device__ void run(const SegmentArguments& segments, std::uint32_t segment) {
    const std::size_t place = std::size_t{m_channel} * Tile::kStates + m_lane * SPL;
    loadRates<SPL>(a.decay + place, m_rate);
    const std::uint32_t begin = segment * segments.tiles;
    const std::uint32_t end = min(begin + segments.tiles, a.tiles(Tile::kTokens));
    Raw next;
    load((end - 1) * Tile::kTokens, next);
    for (std::uint32_t tile = end; tile-- > begin;) {
      Turn& turn = shared().turns[tile % 2];
      prepare(tile * Tile::kTokens, next, turn);
      __syncthreads();
      if (tile > begin) load((tile - 1) * Tile::kTokens, next);
      scanTile(turn);
    }
    const std::size_t at = segments.of(blockIdx.y, segment) * a.channels;
    storeState<SPL>(m_ds, segments.ends + at * Tile::kStates + place);
    if (m_lane == 0) segments.deltas[at + m_channel] = m_deltas;
  }

 private:
  using Tile = ScanTile<SPL>;
  static constexpr int kGroup = 32 / SPL;
  using Share = RowShare<kChannels>;

  struct Raw {
    Octet<Value> delta;
    Octet<Value> gate;
    Octet<Value> dGated;
    SelectedShare<Value, SPL> selected;
  };

  struct Turn {
    alignas(16) float2 steps[Tile::kTokens][kChannels + 4];  // Δ and the derivative by y
    alignas(16) float selected[Tile::kTokens][Tile::kRow];
  };
  struct Shared {
    Turn turns[2];
  };
  __device__ static Shared& shared() {
    __shared__ Shared memory;
    return memory;
  }

  __device__ void load(std::uint32_t first, Raw& raw) const {
    raw = {};
    raw.selected.load(a, first);
    if (Share::row() >= Tile::kTokens || first + Share::row() >= a.tokens) return;
    const std::size_t at = a.firstRow() + first + Share::row();
    const std::uint32_t channel = blockIdx.x * kChannels + Share::column();
    raw.delta = octetAt(a.delta + at * a.channels + channel);
    raw.gate = octetAt(a.expanded + (2 * at + 1) * a.channels + channel);
    raw.dGated = octetAt(m_dGated + at * a.channels + channel);
  }

  __device__ void prepare(std::uint32_t first, const Raw& raw, Turn& tile) const {
    raw.selected.store(tile.selected);
    if (Share::row() >= Tile::kTokens) return;
    const float real = first + Share::row() < a.tokens ? 1.0f : 0.0f;
    float deltas[8], dy[8];
    takeDeltas(raw.delta, a.dtBias + blockIdx.x * kChannels + Share::column(), real, deltas);
#pragma unroll
    for (int k = 0; k < 8; ++k) dy[k] = raw.dGated[k] * silu(raw.gate[k]);
    storePairs(deltas, dy, tile.steps[Share::row()] + Share::column());
  }

  __device__ void scanTile(const Turn& tile) {
    const int own = static_cast<int>(threadIdx.x) / kScanLanes;
#pragma unroll 2
    for (int t = Tile::kTokens - kGroup; t >= 0; t -= kGroup) {
      float2 step[kGroup];
      float c[kGroup][SPL];
#pragma unroll
      for (int g = 0; g < kGroup; ++g) {
        step[g] = tile.steps[t + g][own];
        loadShared<SPL>(tile.selected[t + g] + Tile::kStates + m_lane * SPL, c[g]);
      }
#pragma unroll
      for (int g = kGroup - 1; g >= 0; --g) {
        m_deltas += step[g].x;
#pragma unroll
        for (int i = 0; i < SPL; ++i)
          m_ds[i] = power2(step[g].x * m_rate[i]) * fmaf(step[g].y, c[g][i], m_ds[i]);
      }
    }
  }

  const ScanArguments<Value>& a;
  const Value* m_dGated;
  std::uint32_t m_channel;
  int m_lane;
  float m_rate[SPL];
  float m_ds[SPL] = {};
  float m_deltas = 0;
};

/// Of all segments but the first. Grid: channels, streams, segments - 1.
template <class Value, int SPL>
__global__ void __launch_bounds__(kScanThreads, SPL > 4 ? 2 : 5)
    scanAheadKernel(const __grid_constant__ ScanArguments<Value> a, const Value* dGated,
                    SegmentArguments segments) {
  ScanAhead<Value, SPL>(a, dGated).run(segments, blockIdx.z + 1);
}

}  // namespace mb::cuda::training
