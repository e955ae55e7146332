// exp, SiLU and softplus on Highway vectors. Included once per SIMD target; no include guard on
// purpose beyond Highway's toggle.
#if defined(MB_KERNELS_CPU_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MB_KERNELS_CPU_VECTOR_MATH_INL_H_
#undef MB_KERNELS_CPU_VECTOR_MATH_INL_H_
#else
#define MB_KERNELS_CPU_VECTOR_MATH_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace mb::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::CappedTag<float, 16>;
using WordTag = hn::RebindToUnsigned<FloatTag>;
using Floats = hn::Vec<FloatTag>;
inline constexpr std::size_t kLanes = hn::MaxLanes(FloatTag());

inline constexpr float kLog2e = 1.44269504088896341f;

/// 2^x for x clamped to [-126, 126]. Relative error below 2e-7: a degree 5 polynomial, minimax on
/// [-1/2, 1/2] under the condition p(0) = 1, scaled by adding to the exponent.
HWY_INLINE Floats exp2Clamped(Floats x) {
  const FloatTag d;
  const WordTag du;
  const Floats magic = hn::Set(d, 12582912.0f);  // 1.5 · 2^23: the sum's low bits hold round(x)
  x = hn::Min(hn::Max(x, hn::Set(d, -126.0f)), hn::Set(d, 126.0f));
  const Floats shifted = hn::Add(x, magic);
  const Floats f = hn::Sub(x, hn::Sub(shifted, magic));
  Floats p = hn::Set(d, 0.0013264722273740154f);
  p = hn::MulAdd(p, f, hn::Set(d, 0.009671512983327704f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.055507337596373954f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.24022242077882802f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.6931469775877339f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(du, shifted));
  return hn::BitCast(d, hn::Add(hn::BitCast(du, p), exponent));
}

HWY_INLINE Floats expClamped(Floats x) {
  return exp2Clamped(hn::Mul(x, hn::Set(FloatTag(), kLog2e)));
}

/// x / (1 + exp(-x))
HWY_INLINE Floats silu(Floats x) {
  const Floats one = hn::Set(FloatTag(), 1.0f);
  return hn::Div(x, hn::Add(one, expClamped(hn::Neg(x))));
}

/// log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))
HWY_INLINE Floats softplus(Floats x) {
  const FloatTag d;
  const Floats tail = hn::Log1p(d, expClamped(hn::Neg(hn::Abs(x))));
  return hn::Add(hn::Max(x, hn::Zero(d)), tail);
}

/// Sixteen running values in as many vectors as the target needs, so that a sum over an array is
/// split and joined the same way at every vector width.
struct Sixteen {
  static constexpr std::size_t kVectors = 16 / kLanes;
  Floats part[kVectors];
};

HWY_INLINE float sumOfSixteen(const Sixteen& s) {
  const FloatTag d;
  HWY_ALIGN float lane[16];
  for (std::size_t v = 0; v < Sixteen::kVectors; ++v) hn::Store(s.part[v], d, lane + v * kLanes);
  for (std::size_t width = 8; width > 0; width /= 2)
    for (std::size_t i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}

}  // namespace mb::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
