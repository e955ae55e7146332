// The selective scan of several streams, forward. A block takes some channels of a stream from its
// first token to its last, in tiles; at the beginning of each tile it leaves the state behind for
// the backward pass.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/training/values.cuh"

namespace mb::cuda::training {

inline constexpr int kScanLanes = 4;  ///< threads that share a channel's states
inline constexpr int kScanThreads = 128;

/// What follows from SPL, the states of a thread.
template <int SPL>
struct ScanTile {
  static constexpr int kStates = kScanLanes * SPL;   ///< n, padded
  static constexpr int kTokens = SPL > 4 ? 16 : 32;  ///< of a tile
  static constexpr int kRow = 2 * kStates;           ///< B and C of a token
};

template <class Value>
struct ScanArguments {
  const Value* convolved;   ///< u' [rows][e]
  Value* delta;             ///< W_dt δ [rows][e]
  const Value* expanded;    ///< u, z [rows][2e]
  const Value* selected;    ///< δ, B, C [rows][selectedStride]
  Value* tileStates;        ///< [streams][tiles][e][n], or null
  const float* dtBias;      ///< [e]
  const float* decay;       ///< A_log [e][n]
  const float* skip;        ///< D [e]
  const float* stateIn;     ///< s of the first stream [e][n]
  float* stateOut;          ///< likewise
  std::size_t stateStride;  ///< from one stream to the next
  std::uint32_t selectedStride;
  std::uint32_t rank;      ///< where B begins in a row of `selected`
  std::uint32_t channels;  ///< e
  std::uint32_t tokens;    ///< of a stream

  __device__ std::uint32_t tiles(std::uint32_t size) const { return (tokens + size - 1) / size; }
  /// The first row of this block's stream.
  __device__ std::size_t firstRow() const { return std::size_t{blockIdx.y} * tokens; }
};

/// How the threads of a block share the rows of a tile: eight channels each.
template <int CHANNELS>
struct RowShare {
  static constexpr int kThreads = CHANNELS / 8;          ///< of a row
  static constexpr int kRows = kScanThreads / kThreads;  ///< at a time

  __device__ static int row(int thread) { return thread / kThreads; }
  __device__ static int row() { return row(static_cast<int>(threadIdx.x)); }
  __device__ static int column(int thread) { return thread % kThreads * 8; }
  __device__ static int column() { return column(static_cast<int>(threadIdx.x)); }
};

/// Δ of eight channels times `real`, which is 0 behind the last token: Δ = 0 changes nothing.
template <class Value>
__device__ inline void takeDeltas(const Octet<Value>& raw, const float* bias, float real,
                                  float (&deltas)[8]) {
  float biases[8];
  loadEight(bias, biases);
#pragma unroll
  for (int k = 0; k < 8; ++k) deltas[k] = real * softplus(raw[k] + biases[k]);
}

/// Eight channels' pairs, side by side.
__device__ inline void storePairs(const float (&first)[8], const float (&second)[8], float2* to) {
#pragma unroll
  for (int k = 0; k < 8; k += 2)
    *reinterpret_cast<float4*>(to + k) = {first[k], second[k], first[k + 1], second[k + 1]};
}

/// A of SPL states, for powers of 2.
template <int SPL>
__device__ inline void loadRates(const float* decay, float* rates) {
#pragma unroll
  for (int i = 0; i < SPL; ++i) rates[i] = -kLog2E * expf(decay[i]);
}

/// SPL neighbours in shared memory.
template <int SPL>
__device__ inline void loadShared(const float* from, float* to) {
#pragma unroll
  for (int i = 0; i < SPL; i += 4)
    *reinterpret_cast<float4*>(to + i) = *reinterpret_cast<const float4*>(from + i);
}

/// SPL neighbours of a state in memory, rounded or not.
template <int SPL, class Value>
__device__ inline void loadState(const Value* from, float* to) {
#pragma unroll
  for (int i = 0; i < SPL; i += 4) *reinterpret_cast<float4*>(to + i) = quadAt(from + i);
}
template <int SPL, class Value>
__device__ inline void storeState(const float* from, Value* to) {
#pragma unroll
  for (int i = 0; i < SPL; i += 4) setQuad(to + i, *reinterpret_cast<const float4*>(from + i));
}

/// A thread's share of the B and C of a tile's tokens; zeros behind the last.
template <class Value, int SPL>
class SelectedShare {
  using Tile = ScanTile<SPL>;
  static constexpr int kOctets = Tile::kTokens * Tile::kRow / 8 / kScanThreads;  ///< of a thread

 public:
  __device__ void load(const ScanArguments<Value>& a, std::uint32_t first) {
#pragma unroll
    for (int i = 0; i < kOctets; ++i) {
      m_octets[i] = {};
      if (first + token(i) < a.tokens)
        m_octets[i] = octetAt(a.selected + (a.firstRow() + first + token(i)) * a.selectedStride +
                              a.rank + column(i));
    }
  }
  __device__ void store(float (*to)[Tile::kRow]) const {
#pragma unroll
    for (int i = 0; i < kOctets; ++i) {
      float values[8];
#pragma unroll
      for (int k = 0; k < 8; ++k) values[k] = m_octets[i][k];
      storeEight(to[token(i)] + column(i), values);
    }
  }

 private:
  __device__ static int place(int i) {
    return static_cast<int>(threadIdx.x) + i * kScanThreads;
  }
  __device__ static int token(int i) {
    return place(i) / (Tile::kRow / 8);
  }
  __device__ static int column(int i) {
    return place(i) % (Tile::kRow / 8) * 8;
  }

  Octet<Value> m_octets[kOctets];
};

template <class Value, int SPL>
class Scan {
 public:
  static constexpr int kChannels = kScanThreads / kScanLanes;  ///< of a block

  __device__ Scan(const ScanArguments<Value>& arguments, Value* gated)
      : a(arguments),
        m_gated(gated),
        m_channel(blockIdx.x * kChannels + threadIdx.x / kScanLanes),
        m_lane(static_cast<int>(threadIdx.x % kScanLanes)) {}

  __device__ void run() {
    const std::size_t place = std::size_t{m_channel} * Tile::kStates + m_lane * SPL;
    loadRates<SPL>(a.decay + place, m_rate);
    loadState<SPL>(a.stateIn + blockIdx.y * a.stateStride + place, m_state);
    Value* kept = a.tileStates;
    if (kept) {
      const std::uint32_t tiles = a.tiles(Tile::kTokens);
      kept += std::size_t{blockIdx.y} * tiles * a.channels * Tile::kStates + place;
    }
    Raw next;
    load(0, next);
    Raw now;
    int turn = 0;
    for (std::uint32_t first = 0; first < a.tokens; first += Tile::kTokens) {
      if (kept) {
        storeState<SPL>(m_state, kept);
        kept += std::size_t{a.channels} * Tile::kStates;
      }
      turn = 1 - turn;
      prepare(first, next, shared().turns[turn]);
      __syncthreads();
      if (first > 0) write(first - Tile::kTokens, now, shared().turns[1 - turn]);
      now = next;
      load(first + Tile::kTokens, next);
      scanTile(shared().turns[turn]);
    }
    __syncthreads();
    write((a.tokens - 1) / Tile::kTokens * Tile::kTokens, now, shared().turns[turn]);
    storeState<SPL>(m_state, a.stateOut + blockIdx.y * a.stateStride + place);
  }

 private:
  using Tile = ScanTile<SPL>;
  static constexpr int kGroup = 32 / SPL;  ///< tokens whose sums wait for one another
  using Share = RowShare<kChannels>;
  static_assert(Share::kRows == 32);

  /// What a thread holds of a tile: eight channels of one token, and its share of B and C.
  struct Raw {
    Octet<Value> input;
    Octet<Value> delta;
    Octet<Value> gate;
    SelectedShare<Value, SPL> selected;
  };

  struct Turn {
    alignas(16) float2 steps[Tile::kTokens][kChannels + 4];  // Δ and Δ u'
    alignas(16) float selected[Tile::kTokens][Tile::kRow];
    alignas(16) float outputs[Tile::kTokens][kChannels + 4];
  };
  /// Two tiles take turns: while one is scanned the one before is written.
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
    raw.input = octetAt(a.convolved + at * a.channels + channel);
    raw.delta = octetAt(a.delta + at * a.channels + channel);
    raw.gate = octetAt(a.expanded + (2 * at + 1) * a.channels + channel);
  }

  /// Lays a tile out for the scan.
  __device__ void prepare(std::uint32_t first, const Raw& raw, Turn& tile) const {
    raw.selected.store(tile.selected);
    if (Share::row() >= Tile::kTokens) return;
    const float real = first + Share::row() < a.tokens ? 1.0f : 0.0f;
    float deltas[8], gained[8];
    takeDeltas(raw.delta, a.dtBias + blockIdx.x * kChannels + Share::column(), real, deltas);
#pragma unroll
    for (int k = 0; k < 8; ++k) gained[k] = deltas[k] * raw.input[k];
    storePairs(deltas, gained, tile.steps[Share::row()] + Share::column());
  }

  /// Tokens in groups, all loads of a group before its sums: a warp has to hide its own latencies.
  __device__ void scanTile(Turn& tile) {
    const int own = static_cast<int>(threadIdx.x) / kScanLanes;
#pragma unroll 2
    for (int t = 0; t < Tile::kTokens; t += kGroup) {
      float2 step[kGroup];
      float b[kGroup][SPL];
      float c[kGroup][SPL];
      float y[kGroup];
#pragma unroll
      for (int g = 0; g < kGroup; ++g) {
        step[g] = tile.steps[t + g][own];
        loadShared<SPL>(tile.selected[t + g] + m_lane * SPL, b[g]);
        loadShared<SPL>(tile.selected[t + g] + Tile::kStates + m_lane * SPL, c[g]);
      }
#pragma unroll
      for (int g = 0; g < kGroup; ++g) {
        y[g] = 0;
#pragma unroll
        for (int i = 0; i < SPL; ++i) {
          m_state[i] = fmaf(power2(step[g].x * m_rate[i]), m_state[i], step[g].y * b[g][i]);
          y[g] = fmaf(m_state[i], c[g][i], y[g]);
        }
      }
      keepOutputs(t, own, y, tile);
    }
  }

  /// Sums over a channel's lanes.
  __device__ void keepOutputs(int first, int own, float* y, Turn& tile) const {
    halve<kGroup>(y, 2, m_lane & 2);
    int token = first + (m_lane & 2 ? kGroup / 2 : 0);
    if constexpr (kGroup >= 4) {
      halve<kGroup / 2>(y, 1, m_lane & 1);
      token += m_lane & 1 ? kGroup / 4 : 0;
    } else {
      y[0] += __shfl_xor_sync(~0u, y[0], 1);
    }
#pragma unroll
    for (int g = 0; g < (kGroup + 3) / 4; ++g) tile.outputs[token + g][own] = y[g];
  }

  __device__ void write(std::uint32_t first, const Raw& raw, const Turn& tile) const {
    if (Share::row() >= Tile::kTokens || first + Share::row() >= a.tokens) return;
    const std::uint32_t channel = blockIdx.x * kChannels + Share::column();
    float y[8], skip[8];
    loadEight(tile.outputs[Share::row()] + Share::column(), y);
    loadEight(a.skip + channel, skip);
    float gated[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) gated[k] = fmaf(skip[k], raw.input[k], y[k]) * silu(raw.gate[k]);
    setOctet(m_gated + (a.firstRow() + first + Share::row()) * 2 * a.channels + channel,
             Octet<Value>::of(gated));
  }

  const ScanArguments<Value>& a;
  Value* m_gated;
  std::uint32_t m_channel;
  int m_lane;
  float m_rate[SPL];
  float m_state[SPL];
};

/// (s C + D ⊙ u') ⊙ SiLU(z) into rows of [2e], of which the first half. Grid: channels, streams.
template <class Value, int SPL>
__global__ void __launch_bounds__(kScanThreads, SPL > 4 ? 2 : 4)
    scanKernel(const __grid_constant__ ScanArguments<Value> a, Value* gated) {
  Scan<Value, SPL>(a, gated).run();
}

}  // namespace mb::cuda::training
