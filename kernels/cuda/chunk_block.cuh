// One block's work on a chunk: what it holds, and the order of a layer's stages.
#pragma once

#include <cstdint>

#include "kernels/cuda/chunk.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/tiles.cuh"

namespace mb::cuda {

inline constexpr int kThreads = kComputeThreads + 32;  // the last warp fills the ring
inline constexpr int kPanel = static_cast<int>(kPanelTiles);
inline constexpr int kScanLanes = 8;  // threads that share a channel's states
inline constexpr int kScanChannels = kComputeThreads / kScanLanes;
inline constexpr int kTapKinds = 3;

/// Everything a launch needs, passed by value.
struct ChunkArguments {
  Dimensions size;
  ParameterLayout layout;
  bool layerNorm;
  float epsilon;
  const uint4* tiles;
  const BlockPlan* blocks;
  const float* parameters;
  const std::uint16_t* embedding;

  std::int32_t input[kMostTokens];
  unsigned long long* residual;
  unsigned long long* projected;
  float* logits;
  float* traceInput;
  float* traceConvolved;
  float* traceDelta;
  float* traceB;
  float* taps;
  std::uint32_t* arrivals;
  std::uint32_t arrived;
  std::uint32_t turn;  // which of the three sums layer 0 takes
  std::uint32_t capacity;

  std::uint32_t tokens;
  const float* stateIn;
  float* stateOut;
  bool head;

  int slots;               // stages of the ring
  std::uint32_t slotBits;  // its logarithm
  int operandBytes;        // shared memory for activations
  int channels;            // most channels of a block
  bool outBias;
  const float* headBias;  // or null
};

/// Waits for the compute warps only: the filling warp goes its own way.
__device__ inline void meet() {
  asm volatile("bar.sync 1, %0;" ::"n"(kComputeThreads) : "memory");
}

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

/// What all blocks add to, δ, B, C and the residual, are integers of 2^-44: their sums do not
/// depend on the order in which the blocks come. They hold magnitudes up to 2^19.
inline constexpr float kFixedPoint = 17592186044416.0f;

__device__ inline unsigned long long toFixed(float value) {
  return static_cast<unsigned long long>(__float2ll_rn(value * kFixedPoint));
}

__device__ inline float fromFixed(unsigned long long value) {
  return __ll2float_rn(static_cast<long long>(value)) * (1.0f / kFixedPoint);
}

/// One block's work. NT blocks of 4 tokens; a scanning thread holds SPL states. ONE: a single token
/// and a single plane, which is what decoding is made of.
template <int NT, int SPL, bool ONE>
class Chunk {
 public:
  __device__ Chunk(const ChunkArguments& arguments, char* shared);
  __device__ void run();

 private:
  using Sums = float[kPanel][NT][4];

  __device__ int tokens() const { return ONE ? 1 : static_cast<int>(a.tokens); }
  __device__ int planes() const { return ONE ? 1 : static_cast<int>(a.size.planes); }

  /// Norm weights that a thread needs, loaded before it waits for the values they scale.
  static constexpr int kHeldQuads = 3;
  static constexpr int kQuadColumns = 4 * kComputeThreads;

  /// The products over all of a token's values. One loop serves them all: instructions have to
  /// fit the instruction cache, or every layer waits for them.
  enum class Part { Expand, Head };

  __device__ void product(Part part, int layer, int tileRows, int columns);
  __device__ void stage(int layer, int firstTile, int columnTiles);
  __device__ void output(Part part, int row, int token, float sum);
  __device__ void reduce(Part part, int firstRow, int tileRows, const Sums& sums);
  /// For small matrices over operands in place: a warp takes every eighth tile row.
  template <class Output>
  __device__ void productByRows(int tileRows, int columns, Output output);
  __device__ int multiplyFewRows(int tileRows, int columnTiles, Sums& sums);
  template <int HEIGHT>
  __device__ void multiplyStaged(int first, int count, Sums& sums);
  __device__ void multiplyPlanes(int first, int count, int height, Sums& sums);
  __device__ void multiplyRow(Sums& sums, int m, const uint4& weights, const uint2 (&b)[NT]) const;

  // Norms.
  __device__ void holdNorm(const float* weight);
  __device__ void stageSingle(int layer, int columnTiles);
  __device__ void measure(int layer);
  __device__ void keepMoment(int token, float sum);
  __device__ float scaleOf(int token) const;

  __device__ void mix(int layer);
  __device__ void fetch(int layer);
  __device__ void keepHistory(int layer);
  __device__ void convolve(int layer);
  __device__ void project(int layer);
  __device__ void computeDelta(int layer);
  __device__ void scan(int layer);
  __device__ void contract();

  __device__ void startResidual();
  __device__ float4 embedded(int token, int k) const;
  __device__ float4 residualAt(int layer, int token, int k) const;
  __device__ std::size_t stateOffset(int layer) const {
    return static_cast<std::size_t>(layer) * (a.size.states + a.size.taps - 1) *
           a.layout.paddedInner;
  }
  __device__ unsigned long long* projected(int layer) const {
    return a.projected + static_cast<std::size_t>((a.turn + layer) % 3) * a.capacity * m_projected;
  }
  /// Row of the channels' record, see RecordField.
  __device__ const float* record(int field) const { return m_record + field * m_channels; }
  __device__ float* shared(float* base, int token, int channel) const {
    return base + token * a.channels + channel;
  }
  /// Whether one look at a token's values does: RMSNorm of a single token.
  __device__ bool isSingle() const {
    return NT == 1 && tokens() == 1 && !a.layerNorm && a.size.model <= kHeldQuads * kQuadColumns &&
           tilesFor(a.size.model) * Operands<NT>::kTileStride <= m_operandBytes;
  }

  const ChunkArguments& a;
  const BlockPlan m_block;
  const float* m_parameters;  // of the current layer, or the final norm
  int m_warp;
  int m_lane;
  int m_channelBegin;
  int m_own;         // channels of this block
  int m_channels;    // padded to 16
  int m_projected;   // rows of x_proj
  int m_cursor = 0;  // next tile of the stretch

  char* m_operandMemory;
  int m_operandBytes;  // of one set of parts
  Operands<NT> m_operands;
  float* m_sums;  // of the warps, for reduce(); with many tokens where the operands were
  float* m_record;
  float* m_history;  // [k - 1][channels]
  float* m_u;
  float* m_z;
  float* m_convolved;
  float* m_delta;
  float* m_bc;       // [tokens][2 · states]
  float* m_moments;  // [tokens][warps]: sums over a token's values
  float* m_means;    // [tokens]
  TileReader m_reader;
  GridBarrier m_barrier;

  // Fetched at the start of a layer, for when they are needed.
  float4 m_norm[kHeldQuads];
  int m_historyPosition;  // of the value this thread fetches
  float m_fetchedHistory = 0;
  float m_fetchedState[SPL];
};

__host__ __device__ inline int paddedStates(const Dimensions& d) {
  return static_cast<int>(tilesFor(d.states) * kTileRows);
}

/// Whether the warps' sums get memory of their own, which saves a meeting.
__host__ __device__ constexpr bool hasOwnSums(int tokenBlocks) {
  return tokenBlocks <= 2;
}

__host__ __device__ constexpr int sumBytes(int tokenBlocks) {
  return kComputeWarps * kPanel * tokenBlocks * 64 * static_cast<int>(sizeof(float));
}

/// Shared memory besides the ring and its barriers.
__host__ __device__ inline int scratchBytes(const Dimensions& size, int operandBytes, int channels,
                                            int tokens) {
  const int fields = kConvWeights + size.taps + size.states + size.taps - 1;
  const int perToken = 4 * channels + 2 * paddedStates(size) + kComputeWarps + 1;
  return operandBytes + (hasOwnSums(tokens / 4) ? sumBytes(tokens / 4) : 0) +
         static_cast<int>(sizeof(float)) * (fields * channels + tokens * perToken);
}

template <int NT, int SPL, bool ONE>
__device__ Chunk<NT, SPL, ONE>::Chunk(const ChunkArguments& arguments, char* memory)
    : a(arguments),
      m_block(arguments.blocks[blockIdx.x]),
      m_parameters(arguments.parameters),
      m_warp(threadIdx.x / 32),
      m_lane(threadIdx.x % 32),
      m_channelBegin(m_block.groups.begin * kGroupChannels),
      m_own(m_block.groups.count * kGroupChannels),
      m_channels(static_cast<int>(tilesFor(m_own) * kTileRows)),
      m_projected(static_cast<int>(projectedRows(arguments.size))),
      m_operandMemory(memory + a.slots * (kStageBytes + sizeof(StageSync))),
      m_operandBytes(planes() > 1 ? a.operandBytes / 2 : a.operandBytes),
      m_operands(m_operandMemory, planes() > 1 ? m_operandBytes : 0),
      m_reader(reinterpret_cast<uint4*>(memory),
               reinterpret_cast<StageSync*>(memory + a.slots * kStageBytes), a.slotBits),
      m_barrier(a.arrivals, a.arrived) {
  m_historyPosition = m_channels > 0 ? threadIdx.x / m_channels : 0;
  auto* at = reinterpret_cast<float*>(m_operandMemory + a.operandBytes);
  const auto take = [&](int count) {
    float* taken = at;
    at += count;
    return taken;
  };
  constexpr int kTokens = 4 * NT;
  m_sums = hasOwnSums(NT) ? take(sumBytes(NT) / 4) : reinterpret_cast<float*>(m_operandMemory);
  m_record = take((kConvWeights + a.size.taps + a.size.states) * a.channels);
  m_history = take((a.size.taps - 1) * a.channels);
  m_u = take(kTokens * a.channels);
  m_z = take(kTokens * a.channels);
  m_convolved = take(kTokens * a.channels);
  m_delta = take(kTokens * a.channels);
  m_bc = take(kTokens * 2 * paddedStates(a.size));
  m_moments = take(kTokens * kComputeWarps);
  m_means = take(kTokens);
}

template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::run() {
  const int layers = static_cast<int>(a.size.layers);
  const int steps = layers + (a.head ? 1 : 0);
  startResidual();
#pragma unroll 1
  for (int layer = 0; layer < steps; ++layer) {
    const Part part = layer == layers ? Part::Head : Part::Expand;
    m_parameters = a.parameters + static_cast<std::size_t>(layer) * a.layout.layerSize;
    holdNorm(m_parameters);
    if (part == Part::Expand) fetch(layer);
    if (layer > 0) m_barrier.wait();
    const int tileRows = part == Part::Expand ? m_block.groups.count : m_block.headTiles.count;
    if (tileRows > 0 && !isSingle()) measure(layer);
    product(part, layer, tileRows, a.size.model);
    if (part == Part::Expand) mix(layer);
    if (layer + 1 < steps) m_barrier.arrive();
  }
}

/// What a layer does with its block's channels.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::mix(int layer) {
  keepHistory(layer);
  convolve(layer);
  project(layer);
  m_barrier.arrive();
  m_barrier.wait();
  computeDelta(layer);
  scan(layer);
  contract();
}

}  // namespace mb::cuda
