// Values from block to block without a barrier: each half of a packet carries a value and the
// sequence number of the exchange it belongs to, in one access of 8 bytes, so a reader that sees
// the number has the value.
#pragma once

#include <cstdint>

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/token_tree.h"
#include "kernels/cuda/work_plan.h"

namespace mb::cuda {

/// Of a tile of 16 activations: for 4 lanes the two registers of the B operand of mma.m16n8k16.
inline constexpr int kPacketsOfTile = 4;

/// A tile has a line of the level 2 cache for itself, of so many packets: with two in a line all
/// wait a tenth longer.
inline constexpr int kLinePackets = 8;

/// What every block reads is written several times, for every few blocks: a slice of the level 2
/// cache that all of them ask at once would keep everything waiting, the weights too.
inline constexpr int kInputCopies = 4;
inline constexpr int kSelectedCopies = 8;

/// Whether there is a thread for every token of the vocabulary. Then those who draw get all logits,
/// otherwise the largest of each block; those who draw from a tree get all as well.
__host__ __device__ inline bool everyThreadHasALogit(const Dimensions& d) {
  return d.vocabulary <= 32u * kComputeWarps;
}

/// Where the packets of a model's exchanges begin, in packets.
struct PacketLayout {
  /// [tiles of d]: four of x ⊙ w, and half a packet, the sum of squares over the tile's rows.
  std::uint32_t input = 0;
  std::uint32_t inputSize = 0;  ///< of one copy
  std::uint32_t partials = 0;   ///< of [δ, B, C]: [pairs of rows][blocks]
  std::uint32_t selected = 0;   ///< δ, [tiles], then B and C, [pairs]
  std::uint32_t selectedSize = 0;
  std::uint32_t output = 0;  ///< y, gated: [tiles of e]
  /// For those who draw the next token: logits, two each, or a block's largest and its token.
  std::uint32_t logits = 0;
  std::uint32_t logitsSize = 0;  ///< of one copy
  std::uint32_t size = 0;

  __host__ __device__ PacketLayout(const Dimensions& d, std::uint32_t blocks) {
    const std::uint32_t pairs = projectedRows(d) / 2;
    inputSize = tilesFor(d.model) * kLinePackets;
    partials = input + kInputCopies * inputSize;
    selected = (partials + pairs * blocks + kLinePackets - 1) / kLinePackets * kLinePackets;
    selectedSize = tilesFor(d.dtRank) * kLinePackets + tilesFor(d.states) * kTileRows;
    output = selected + kSelectedCopies * selectedSize;
    logits = output + tilesFor(d.inner) * kLinePackets;
    const std::uint32_t every = (d.vocabulary + 1) / 2;
    if (everyThreadHasALogit(d))
      logitsSize = every;
    else
      logitsSize = d.vocabulary <= kMostTreeTokens && every > blocks ? every : blocks;
    size = logits + kInputCopies * logitsSize;
  }
};

/// Half a packet.
__device__ inline void send(uint2* to, std::uint32_t value, std::uint32_t sequence) {
  asm volatile(
      "{\n"
      ".reg .b64 both;\n"
      "mov.b64 both, {%1, %2};\n"
      "st.relaxed.gpu.global.b64 [%0], both;\n"
      "}\n" ::"l"(to),
      "r"(value), "r"(sequence)
      : "memory");
}

/// A whole packet.
__device__ inline void send(uint4* to, std::uint32_t first, std::uint32_t second,
                            std::uint32_t sequence) {
  asm volatile(
      "{\n"
      ".reg .b64 low, high;\n"
      "mov.b64 low, {%1, %3};\n"
      "mov.b64 high, {%2, %3};\n"
      "st.relaxed.gpu.global.v2.b64 [%0], {low, high};\n"
      "}\n" ::"l"(to),
      "r"(first), "r"(second), "r"(sequence)
      : "memory");
}

__device__ inline uint2 look(const uint2* at) {
  uint2 seen;
  asm volatile(
      "{\n"
      ".reg .b64 both;\n"
      "ld.relaxed.gpu.global.b64 both, [%2];\n"
      "mov.b64 {%0, %1}, both;\n"
      "}\n"
      : "=r"(seen.x), "=r"(seen.y)
      : "l"(at)
      : "memory");
  return seen;
}

__device__ inline uint4 look(const uint4* at) {
  uint4 seen;
  asm volatile(
      "{\n"
      ".reg .b64 low, high;\n"
      "ld.relaxed.gpu.global.v2.b64 {low, high}, [%4];\n"
      "mov.b64 {%0, %1}, low;\n"
      "mov.b64 {%2, %3}, high;\n"
      "}\n"
      : "=r"(seen.x), "=r"(seen.y), "=r"(seen.z), "=r"(seen.w)
      : "l"(at)
      : "memory");
  return seen;
}

__device__ inline bool isOf(const uint2& half, std::uint32_t sequence) {
  return half.y == sequence;
}

__device__ inline bool isOf(const uint4& packet, std::uint32_t sequence) {
  return packet.y == sequence && packet.w == sequence;
}

/// Waits, as a whole warp, until what `look` fetches is all there. `look` returns whether it is.
template <class Look>
__device__ void await(const Look& lookAtAll) {
  while (!__all_sync(~0u, lookAtAll())) {
  }
}

/// Waits for the packets at the places that `placeOf` says.
template <int COUNT, class Place>
__device__ inline void awaitPackets(uint4 (&seen)[COUNT], std::uint32_t sequence,
                                    const Place& placeOf) {
  await([&] {
    bool there = true;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) seen[i] = look(placeOf(i));
#pragma unroll
    for (int i = 0; i < COUNT; ++i) there &= isOf(seen[i], sequence);
    return there;
  });
}

/// Adds, as a whole warp, what `count` blocks send: a packet each, side by side.
__device__ inline float2 sumOfParts(const uint4* parts, int count, std::uint32_t sequence) {
  constexpr int kLooks = 5;
  const int lane = static_cast<int>(threadIdx.x % 32);
  float first = 0;
  float second = 0;
#pragma unroll 1
  for (int begin = 0; begin < count; begin += 32 * kLooks) {
    uint4 seen[kLooks];
    awaitPackets(seen, sequence,
                 [&](int i) { return parts + min(begin + i * 32 + lane, count - 1); });
#pragma unroll
    for (int i = 0; i < kLooks; ++i) {
      if (begin + i * 32 + lane >= count) break;
      first += __uint_as_float(seen[i].x);
      second += __uint_as_float(seen[i].z);
    }
  }
  return {sumOfWarp(first), sumOfWarp(second)};
}

}  // namespace mb::cuda
