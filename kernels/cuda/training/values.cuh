// Eight values at a time, and sums over threads in a fixed order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/values.cuh"

namespace mb::cuda::training {

/// Eight neighbours in memory.
template <class Value>
struct alignas(16) Octet {
  Value values[8];

  __device__ static Octet of(const float (&from)[8]) {
    Octet octet;
#pragma unroll
    for (int i = 0; i < 8; ++i) octet.values[i] = from[i];
    return octet;
  }
  __device__ float operator[](int i) const {
    return values[i];
  }
};

/// In words as they are loaded: of single values the compiler takes words apart as soon as a load
/// is started, and so waits for it there.
template <>
struct alignas(16) Octet<bf16> {
  std::uint32_t words[4];

  __device__ static Octet of(const float (&from)[8]) {
    Octet octet;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(from[2 * i], from[2 * i + 1]);
      memcpy(&octet.words[i], &pair, sizeof pair);
    }
    return octet;
  }
  __device__ float operator[](int i) const {
    return __uint_as_float(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xffff0000u);
  }
};

/// As float32 to or from shared memory, aligned to 16 bytes.
__device__ inline void storeEight(float* to, const float* from) {
  reinterpret_cast<float4*>(to)[0] = {from[0], from[1], from[2], from[3]};
  reinterpret_cast<float4*>(to)[1] = {from[4], from[5], from[6], from[7]};
}
__device__ inline void loadEight(const float* from, float* to) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float4 four = reinterpret_cast<const float4*>(from)[half];
    to[4 * half] = four.x;
    to[4 * half + 1] = four.y;
    to[4 * half + 2] = four.z;
    to[4 * half + 3] = four.w;
  }
}

template <class Value>
__device__ inline Octet<Value> octetAt(const Value* p) {
  return *reinterpret_cast<const Octet<Value>*>(p);
}
template <class Value>
__device__ inline void setOctet(Value* p, const Octet<Value>& octet) {
  *reinterpret_cast<Octet<Value>*>(p) = octet;
}

__device__ inline float sigmoid(float x) {
  return reciprocal(1.0f + power2(-kLog2E * x));
}

/// d silu(x) / dx, where s = sigmoid(x).
__device__ inline float siluSlope(float x, float s) {
  return s * fmaf(x, 1.0f - s, 1.0f);
}

/// d softplus(x) / dx = 1 - exp(-softplus(x)); for small ones by its series.
__device__ inline float softplusSlope(float softplus) {
  const float series = softplus * fmaf(softplus, fmaf(softplus, 1.0f / 6, -0.5f), 1.0f);
  return softplus < 0.03f ? series : 1.0f - power2(-kLog2E * softplus);
}

/// Over the threads of a block, in every thread.
template <int THREADS>
__device__ inline float sumOfThreads(float value) {
  value = sumOfWarp(value);
  if constexpr (THREADS > 32) {
    __shared__ float sums[THREADS / 32];
    __syncthreads();
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
    __syncthreads();
    value = 0;
#pragma unroll
    for (int i = 0; i < THREADS / 32; ++i) value += sums[i];
  }
  return value;
}

/// Gives away one half of the values and adds what the lane `distance` away gives to the other:
/// the upper lane keeps the upper half. values[0, COUNT / 2) are left.
template <int COUNT>
__device__ inline void halve(float* values, int distance, bool upper) {
#pragma unroll
  for (int i = 0; i < COUNT / 2; ++i) {
    const float given = upper ? values[i] : values[i + COUNT / 2];
    const float kept = upper ? values[i + COUNT / 2] : values[i];
    values[i] = kept + __shfl_xor_sync(~0u, given, distance);
  }
}

}  // namespace mb::cuda::training
