// Products of weight tiles with activations on the tensor cores.
//
// Activations are rounded to bfloat16, as weights are, and eight tokens are the columns of the B
// operand. Where weights are float32, in three planes, activations are split into as many parts,
// x = high + middle + low, and the products that a float32 sum has bits for are added.
// A column's sum does not depend on what the other columns hold, so a token gets the same bits
// alone and in a chunk.
#pragma once

#include <cstdint>
#include <cuda_bf16.h>

namespace mb::cuda {

/// D += A · B for a 16×16 tile of weights and 8 columns, with float32 sums.
#if __CUDA_ARCH__ >= 800
__device__ inline void multiply(float (&sum)[4], const uint4& a, const uint2& b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
}
#else
/// The same sums with shuffles: lane 4g + t holds rows g, g + 8 and columns 2t, 2t + 1. Not inlined
/// into the many places that multiply: the compiler would take minutes.
__device__ __noinline__ void multiply(float (&sum)[4], const uint4& a, const uint2& b) {
  const int lane = threadIdx.x % 32;
  const auto low = [](std::uint32_t v) { return __uint_as_float(v << 16); };
  const auto high = [](std::uint32_t v) { return __uint_as_float(v & 0xffff0000u); };
#pragma unroll 1
  for (int step = 0; step < 8; ++step) {
    const bool half = step >= 4;
    const int t = step % 4;
    const int from = (lane & ~3) + t;
    const std::uint32_t upper = __shfl_sync(~0u, half ? a.z : a.x, from);
    const std::uint32_t lower = __shfl_sync(~0u, half ? a.w : a.y, from);
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      const int source = (2 * (lane % 4) + column) * 4 + t;
      const std::uint32_t x = __shfl_sync(~0u, half ? b.y : b.x, source);
      sum[column] = fmaf(low(upper), low(x), fmaf(high(upper), high(x), sum[column]));
      sum[2 + column] = fmaf(low(lower), low(x), fmaf(high(lower), high(x), sum[2 + column]));
    }
  }
}
#endif

/// Two neighbouring activations, rounded.
__device__ inline std::uint32_t roundedPair(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  std::uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

/// What rounding left over of a pair becomes the pair.
__device__ inline void subtractRounded(std::uint32_t rounded, float& first, float& second) {
  first -= __uint_as_float(rounded << 16);
  second -= __uint_as_float(rounded & 0xffff0000u);
}

enum class OperandPlace { Block, Grid };  ///< shared memory, or global, where other blocks write

inline constexpr int kOperandTokens = 8;
inline constexpr int kOperandBytes = 256;  ///< of 16 values of so many tokens: 32 lanes × 8 bytes

/// Activations ready as B operands: per column tile of 16 values NT blocks of kOperandTokens.
/// Column tiles lie `STRIDE` bytes apart.
template <int NT, int STRIDE, OperandPlace PLACE>
class Operands {
 public:
  static constexpr int kTileStride = STRIDE;

  /// With `parts` parts, each lies `partStride` bytes behind the one before.
  __device__ Operands(void* memory, int parts, int partStride)
      : m_memory(static_cast<char*>(memory)), m_parts(parts), m_partStride(partStride) {}

  /// Stores values k, k + 1 (k even, counted from the first staged column) of a token.
  __device__ void store(int token, int k, float first, float second) {
    const int lane = token % kOperandTokens * 4 + k % 8 / 2;
    char* at = m_memory + k / 16 * kTileStride + token / kOperandTokens * kOperandBytes + lane * 8 +
               k % 16 / 8 * 4;
#pragma unroll 1
    for (int part = 0;; at += m_partStride) {
      const std::uint32_t rounded = roundedPair(first, second);
      *reinterpret_cast<std::uint32_t*>(at) = rounded;
      if (++part >= m_parts) return;
      subtractRounded(rounded, first, second);
    }
  }

  __device__ uint2 load(int columnTile, int block, int part = 0) const {
    const auto* at =
        reinterpret_cast<const uint2*>(m_memory + part * m_partStride + columnTile * kTileStride +
                                       block * kOperandBytes + threadIdx.x % 32 * 8);
    return PLACE == OperandPlace::Grid ? __ldcg(at) : *at;
  }

 private:
  char* m_memory;
  int m_parts;
  int m_partStride;
};

/// Made by the block itself: neighbouring tiles are to fall on other banks.
template <int NT>
using BlockOperands = Operands<NT, NT * kOperandBytes + 32, OperandPlace::Block>;

template <int NT>
using GridOperands = Operands<NT, NT * kOperandBytes, OperandPlace::Grid>;

/// What came from there.
template <int NT>
using SuppliedOperands = Operands<NT, NT * kOperandBytes, OperandPlace::Block>;

}  // namespace mb::cuda
