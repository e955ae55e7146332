// Kernels that take rows of tokens: embedding and RMSNorm, forward and backward. The norms' weights
// are folded into the matrices behind them, see weights.cuh.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/training/values.cuh"

namespace mb::cuda::training {

inline constexpr std::uint32_t kRowWarps = 8;  ///< rows of a block, a warp each

/// x = the embedding of each token. A block takes a row.
inline __global__ void embedKernel(const std::int32_t* tokens, const float* embedding,
                                   std::uint32_t width, float* x) {
  const std::size_t token = static_cast<std::size_t>(tokens[blockIdx.x]);
  for (std::uint32_t k = 4 * threadIdx.x; k < width; k += 4 * blockDim.x)
    setQuad(x + std::size_t{blockIdx.x} * width + k, quadAt(embedding + token * width + k));
}

struct NormShape {
  std::uint32_t rows;
  std::uint32_t model;  ///< values of a row that count
  std::uint32_t width;  ///< with padding
  float epsilon;
};

/// normed = x / rms(x); `scales` keeps 1 / rms(x). A lane's first values stay in registers, all on
/// their way at once; those of wider rows are read twice.
template <class Value>
__global__ void normKernel(NormShape shape, const float* __restrict__ x, Value* __restrict__ normed,
                           float* __restrict__ scales) {
  constexpr std::uint32_t kHeld = 4;
  const std::uint32_t row = blockIdx.x * kRowWarps + threadIdx.x / 32;
  if (row >= shape.rows) return;
  const std::uint32_t lane = threadIdx.x % 32;
  const std::size_t at = std::size_t{row} * shape.width;
  float4 held[kHeld];
  float squares = 0;
  const auto add = [&](const float4& v) {
    squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares))));
  };
#pragma unroll
  for (std::uint32_t i = 0; i < kHeld; ++i) {
    const std::uint32_t k = 4 * lane + 128 * i;
    held[i] = k < shape.width ? quadAt(x + at + k) : float4{0, 0, 0, 0};
  }
#pragma unroll
  for (std::uint32_t i = 0; i < kHeld; ++i) add(held[i]);
  for (std::uint32_t k = 4 * lane + 128 * kHeld; k < shape.width; k += 128) add(quadAt(x + at + k));
  const float scale = rsqrtf(sumOfWarp(squares) / static_cast<float>(shape.model) + shape.epsilon);
  if (lane == 0) scales[row] = scale;
  const auto put = [&](std::uint32_t k, const float4& v) {
    setQuad(normed + at + k, float4{v.x * scale, v.y * scale, v.z * scale, v.w * scale});
  };
#pragma unroll
  for (std::uint32_t i = 0; i < kHeld; ++i)
    if (4 * lane + 128 * i < shape.width) put(4 * lane + 128 * i, held[i]);
  for (std::uint32_t k = 4 * lane + 128 * kHeld; k < shape.width; k += 128)
    put(k, quadAt(x + at + k));
}

/// Adds to dx, or sets it to, scale · (dNormed - normed · mean(dNormed ⊙ normed)); `rounded` gets
/// what the next product takes.
template <class Value, bool ADD>
__global__ void normBackKernel(NormShape shape, const Value* __restrict__ dNormed,
                               const Value* __restrict__ normed, const float* __restrict__ scales,
                               float* __restrict__ dx, Value* __restrict__ rounded) {
  const std::uint32_t row = blockIdx.x * kRowWarps + threadIdx.x / 32;
  if (row >= shape.rows) return;
  const std::uint32_t lane = threadIdx.x % 32;
  const std::size_t at = std::size_t{row} * shape.width;
  float along = 0;
  for (std::uint32_t k = 4 * lane; k < shape.width; k += 128) {
    const float4 product = quadAt(dNormed + at + k) * quadAt(normed + at + k);
    along += (product.x + product.y) + (product.z + product.w);
  }
  along = sumOfWarp(along) / static_cast<float>(shape.model);
  const float scale = scales[row];
  for (std::uint32_t k = 4 * lane; k < shape.width; k += 128) {
    const float4 gradient = quadAt(dNormed + at + k);
    const float4 before = ADD ? quadAt(dx + at + k) : float4{0, 0, 0, 0};
    const auto change = [&](float g, float n) { return scale * fmaf(-along, n, g); };
    const float4 sum = before + each(change, gradient, quadAt(normed + at + k));
    setQuad(dx + at + k, sum);
    setQuad(rounded + at + k, sum);
  }
}

/// Occurrences [first, first + count) of one token in a list of rows.
struct Occurrences {
  std::int32_t token;
  std::uint32_t first;
  std::uint32_t count;
};

/// sums[piece] = Σ dx[row] over the rows of a piece. A block takes a piece.
inline __global__ void sumOccurrencesKernel(const Occurrences* pieces, const std::uint32_t* rows,
                                            const float* __restrict__ dx, std::uint32_t width,
                                            float* sums) {
  const Occurrences piece = pieces[blockIdx.x];
  for (std::uint32_t k = 4 * threadIdx.x; k < width; k += 4 * blockDim.x) {
    float4 sum{0, 0, 0, 0};
#pragma unroll 4
    for (std::uint32_t i = 0; i < piece.count; ++i)
      sum = sum + quadAt(dx + std::size_t{rows[piece.first + i]} * width + k);
    setQuad(sums + std::size_t{blockIdx.x} * width + k, sum);
  }
}

/// gradient[token] += Σ sums over the token's pieces. A block takes a token.
inline __global__ void addOccurrencesKernel(const Occurrences* tokens, const float* sums,
                                            std::uint32_t width, float* gradient) {
  const Occurrences token = tokens[blockIdx.x];
  float* to = gradient + static_cast<std::size_t>(token.token) * width;
  for (std::uint32_t k = 4 * threadIdx.x; k < width; k += 4 * blockDim.x) {
    float4 sum = quadAt(to + k);
    for (std::uint32_t i = 0; i < token.count; ++i)
      sum = sum + quadAt(sums + std::size_t{token.first + i} * width + k);
    setQuad(to + k, sum);
  }
}

}  // namespace mb::cuda::training
