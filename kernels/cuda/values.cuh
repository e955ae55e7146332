// bfloat16 and float32 values in memory, two and four at a time, as float32 in registers.
#pragma once

#include <cstring>
#include <cuda_bf16.h>
#include <type_traits>

namespace mb::cuda {

using bf16 = __nv_bfloat16;

__device__ inline float2 pairAt(const bf16* p) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(p));
}
__device__ inline float2 pairAt(const float* p) {
  return *reinterpret_cast<const float2*>(p);
}
__device__ inline void setPair(bf16* p, float2 v) {
  *reinterpret_cast<__nv_bfloat162*>(p) = __floats2bfloat162_rn(v.x, v.y);
}
__device__ inline void setPair(float* p, float2 v) {
  *reinterpret_cast<float2*>(p) = v;
}

/// Four values as they lie in memory.
template <class Value>
using Packed = std::conditional_t<sizeof(Value) == sizeof(bf16), uint2, float4>;

template <class Value>
__device__ inline Packed<Value> packedAt(const Value* p) {
  return *reinterpret_cast<const Packed<Value>*>(p);
}
__device__ inline float4 widened(const uint2& packed) {
  return {__uint_as_float(packed.x << 16), __uint_as_float(packed.x & 0xffff0000u),
          __uint_as_float(packed.y << 16), __uint_as_float(packed.y & 0xffff0000u)};
}
__device__ inline float4 widened(const float4& packed) {
  return packed;
}
template <class Value>
__device__ inline float4 quadAt(const Value* p) {
  return widened(packedAt(p));
}
__device__ inline void setQuad(bf16* p, const float4& v) {
  const __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(v.x, v.y),
                                   __floats2bfloat162_rn(v.z, v.w)};
  uint2 packed;
  memcpy(&packed, pairs, sizeof packed);
  *reinterpret_cast<uint2*>(p) = packed;
}
__device__ inline void setQuad(float* p, const float4& v) {
  *reinterpret_cast<float4*>(p) = v;
}

/// Applies an operation to each of four.
template <class Operation>
__device__ inline float4 each(Operation operation, const float4& a) {
  return {operation(a.x), operation(a.y), operation(a.z), operation(a.w)};
}
template <class Operation>
__device__ inline float4 each(Operation operation, const float4& a, const float4& b) {
  return {operation(a.x, b.x), operation(a.y, b.y), operation(a.z, b.z), operation(a.w, b.w)};
}
__device__ inline float sumOf(const float4& a) {
  return (a.x + a.y) + (a.z + a.w);
}
__device__ inline float4 operator+(const float4& a, const float4& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}
__device__ inline float4 operator*(const float4& a, const float4& b) {
  return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w};
}

}  // namespace mb::cuda
