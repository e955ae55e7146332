// What the kernels for chunks and for single tokens are given, and how their blocks meet.
#pragma once

#include <cstdint>

#include "kernels/cuda/chunk.h"
#include "kernels/cuda/packets.cuh"
#include "kernels/cuda/ring.cuh"

namespace mb::cuda {

inline constexpr int kThreads = kComputeThreads + 32;  // with the warp that fills the ring
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
  std::uint32_t layerTiles;  // from one layer to the next
  bool passing;              // see cachePolicy()
  const BlockPlan* blocks;
  const float* parameters;
  const std::uint16_t* embedding;
  const float* headBias;  // or null
  const float* headMean;  // likewise
  bool outBias;
  int mixingBlocks;  // that have channels: the first

  std::int32_t input[kMostTokens];
  std::uint32_t tokens;
  const TokenList* list;   // or null: then input and tokens
  std::uint32_t listFrom;  // sizes of the list that this kernel is for
  std::uint32_t listTo;
  std::uint32_t capacity;
  const float* stateIn;
  float* stateOut;
  bool head;
  float* logits;
  float* traceInput;
  float* traceConvolved;
  float* traceDelta;
  float* traceB;
  float* taps;

  // What blocks tell each other, in chunks.
  uint2* inputOperands;   // x ⊙ w
  uint2* outputOperands;  // y, gated
  float* moments;         // [2][tokens][tiles of d]: sums of squares over a tile's rows, and sums
  uint4* partials;        // of [δ, B, C], packets: [pairs of rows][blocks][tokens]
  uint4* selected;        // their sums, packets: [kSelectedCopies][pairs of rows][tokens]
  std::uint32_t* arrivals;
  std::uint32_t arrived;

  // And for a single token.
  uint4* packets;
  PacketLayout packetLayout;
  std::uint32_t sequence;  // that no packet has yet
  std::uint32_t passes;    // tokens that are read: those given, and drawn ones
  std::uint32_t draws;
  float* statesOut[kMostTokens];  // of the passes
  std::int32_t* drawn;            // [draws]
  DrawnBytes* drawnBytes;         // of the tokens drawn from a tree
  Drawing drawing;
  Agreement agreement;  // of the first that is drawn
  TokenTree tree;
  std::uint32_t draftTokens;
  float leastConfidence;
  float confidence;  // before the first

  bool paired;  // neighbouring blocks are a cluster
  ChunkMemory memory;
  int slots;     // stages of the ring
  int channels;  // most channels of a block
  int outRows;   // most values of the residual that a block keeps
};

/// Shared memory of a block, and a place in it, see ChunkMemory.
extern __shared__ __align__(128) char chunkMemory[];
__device__ inline float* floatsAt(int place) {
  return reinterpret_cast<float*>(chunkMemory + place);
}

__host__ __device__ inline int paddedStates(const Dimensions& d) {
  return static_cast<int>(tilesFor(d.states) * kTileRows);
}

/// Rows of a channels' record, see RecordField.
__host__ __device__ inline int recordFields(const Dimensions& d) {
  return static_cast<int>(kConvWeights + d.taps + d.states);
}

/// Waits for the compute warps only: the filling warp goes its own way.
__device__ inline void meet() {
  asm volatile("bar.sync 1, %0;" ::"n"(kComputeThreads) : "memory");
}

/// The embedding of a token, in whatever parts it has.
__device__ inline float embedded(const ChunkArguments& a, std::int32_t token, int k) {
  float sum = 0;
  for (std::uint32_t plane = 0; plane < a.size.planes; ++plane) {
    const std::size_t row =
        std::size_t{plane} * a.size.vocabulary + static_cast<std::size_t>(token);
    sum += __uint_as_float(
        static_cast<std::uint32_t>(__ldg(a.embedding + row * a.layout.paddedModel + k)) << 16);
  }
  return sum;
}

/// Where a layer's states begin, and those of its convolution behind them.
__device__ inline std::size_t stateOffset(const ChunkArguments& a, int layer) {
  return static_cast<std::size_t>(layer) * (a.size.states + a.size.taps - 1) * a.layout.paddedInner;
}

/// 1 / sqrt(variance + ε), from a sum over all values.
__device__ inline float normScale(const ChunkArguments& a, float squares, float mean) {
  const float average = squares / static_cast<float>(a.size.model);
  return rsqrtf(fmaf(-mean, mean, average) + a.epsilon);
}

}  // namespace mb::cuda
