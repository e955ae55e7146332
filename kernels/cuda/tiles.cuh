// Products of weight tiles with activations on the tensor cores.
//
// An activation x is split into bfloat16 parts, x ≈ high + low, which together keep 16 bits of its
// mantissa; each part is a column of the B operand and both are multiplied with the same weights.
// Where weights are float32, a third part makes the sum exact.
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

/// Two neighbouring activations as pairs of their parts, high to low.
struct SplitPair {
  std::uint32_t high;
  std::uint32_t low;
  std::uint32_t least;
};

__device__ inline std::uint32_t bitsOf(const __nv_bfloat162& pair) {
  std::uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

__device__ inline SplitPair split(float first, float second) {
  const __nv_bfloat162 high = __floats2bfloat162_rn(first, second);
  const float2 highBack = __bfloat1622float2(high);
  first -= highBack.x;
  second -= highBack.y;
  const __nv_bfloat162 low = __floats2bfloat162_rn(first, second);
  const float2 lowBack = __bfloat1622float2(low);
  const __nv_bfloat162 least = __floats2bfloat162_rn(first - lowBack.x, second - lowBack.y);
  return {bitsOf(high), bitsOf(low), bitsOf(least)};
}

enum class OperandPlace { Block, Grid };  ///< shared memory, or global, where other blocks write

/// Activations ready as B operands: per column tile of 16 values NT blocks of 4 tokens, each 32
/// lanes × 8 bytes. Column tiles lie `STRIDE` bytes apart.
template <int NT, int STRIDE, OperandPlace PLACE>
class Operands {
 public:
  static constexpr int kTileStride = STRIDE;

  /// With third parts, these lie `leastOffset` bytes behind the others; 0 for none.
  __device__ Operands(void* memory, int leastOffset)
      : m_memory(static_cast<char*>(memory)), m_leastOffset(leastOffset) {}

  /// Stores values k, k + 1 (k even, counted from the first staged column) of a token.
  __device__ void store(int token, int k, float first, float second) {
    const SplitPair pair = split(first, second);
    const int lane = (token % 4) * 8 + k % 8 / 2;
    char* at = m_memory + k / 16 * kTileStride + token / 4 * 256 + lane * 8 + k % 16 / 8 * 4;
    put(at, pair.high);
    put(at + 32, pair.low);
    if (m_leastOffset == 0) return;
    put(at + m_leastOffset, pair.least);
    put(at + m_leastOffset + 32, 0);
  }

  __device__ uint2 load(int columnTile, int block) const {
    const auto* at = reinterpret_cast<const uint2*>(m_memory + columnTile * kTileStride +
                                                    block * 256 + threadIdx.x % 32 * 8);
    return PLACE == OperandPlace::Grid ? __ldcg(at) : *at;
  }
  __device__ uint2 loadLeast(int columnTile, int block) const {
    return Operands(m_memory + m_leastOffset, 0).load(columnTile, block);
  }

 private:
  __device__ static void put(char* at, std::uint32_t value) {
    *reinterpret_cast<std::uint32_t*>(at) = value;
  }

  char* m_memory;
  int m_leastOffset;
};

/// Made by the block itself: neighbouring tiles are to fall on other banks.
template <int NT>
using BlockOperands = Operands<NT, NT * 256 + 32, OperandPlace::Block>;

template <int NT>
using GridOperands = Operands<NT, NT * 256, OperandPlace::Grid>;

/// What came from there.
template <int NT>
using SuppliedOperands = Operands<NT, NT * 256, OperandPlace::Block>;

}  // namespace mb::cuda
