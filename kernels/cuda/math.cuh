// Functions of single values, alike in every kernel.
#pragma once

#include <cuda_runtime_api.h>

namespace mb::cuda {

/// 2^x to 2 units in the last place; 0 where it would be denormal.
__device__ inline float power2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

__device__ inline float logarithm2(float x) {
  float result;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

__device__ inline float reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// Over the lanes of a warp, in every lane.
__device__ inline float sumOfWarp(float value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

/// A step of adding over lanes where each lane keeps one of two sums: of `first` where `OFFSET` is
/// not in its number, of `second` otherwise.
template <int OFFSET>
__device__ inline float keptHalf(float first, float second) {
  const bool isUpper = threadIdx.x & OFFSET;
  const float sent = __shfl_xor_sync(~0u, isUpper ? first : second, OFFSET);
  return (isUpper ? second : first) + sent;
}

inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kLn2 = 0.693147181f;

__device__ inline float silu(float x) {
  return x * reciprocal(1.0f + power2(-kLog2E * x));
}

/// log(1 + exp(x)); for small exp(x) by its series, as 1 + exp(x) would round it away. Without
/// branches, so that several overlap.
__device__ inline float softplus(float x) {
  const float e = power2(kLog2E * x);
  const float series = e * fmaf(e, fmaf(e, fmaf(e, -0.25f, 1.0f / 3), -0.5f), 1.0f);
  const float whole = kLn2 * logarithm2(1.0f + e);
  return x > 20.0f ? x : e < 0.05f ? series : whole;
}

}  // namespace mb::cuda
