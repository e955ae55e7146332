// Causal convolution and selective scan. Lanes are channels; the sum over the state index of a
// channel runs in index order within its lane. See ConvArgs and ScanArgs.
#if defined(MB_KERNELS_CPU_SSM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MB_KERNELS_CPU_SSM_INL_H_
#undef MB_KERNELS_CPU_SSM_INL_H_
#else
#define MB_KERNELS_CPU_SSM_INL_H_
#endif

#include <hwy/highway.h>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mb::cpu::HWY_NAMESPACE {

HWY_INLINE Floats convolvedAt(const ConvArgs& args, std::size_t t, std::size_t channel) {
  const FloatTag d;
  const std::size_t before = args.taps - 1;
  Floats sum = args.bias ? hn::Load(d, args.bias + channel) : hn::Zero(d);
  for (std::size_t tap = 0; tap < args.taps; ++tap) {
    const std::size_t position = t + tap;  // counted from the oldest input kept
    const float* u = position < before ? args.history + position * args.channels
                                       : args.input + (position - before) * args.inputStride;
    sum = hn::MulAdd(hn::Load(d, args.weight + tap * args.channels + channel),
                     hn::Load(d, u + channel), sum);
  }
  return silu(sum);
}

inline void convolve(const ConvArgs& args) {
  for (std::size_t t = 0; t < args.count; ++t)
    for (std::size_t channel = args.channelBegin; channel < args.channelEnd; channel += kLanes)
      hn::Store(convolvedAt(args, t, channel), FloatTag(),
                args.output + t * args.outputStride + channel);
}

/// One vector of channels through the whole chunk.
template <bool kOutput, bool kTaps>
HWY_INLINE void scanChannels(const ScanArgs& args, std::size_t channel) {
  const FloatTag d;
  const std::size_t place = blockOffset(channel, args.states);
  const float* a = args.aLog2e + place;
  const float* previous = args.stateIn + place;
  float* state = args.stateOut + place;
  for (std::size_t t = 0; t < args.count; ++t) {
    const Floats delta = hn::Load(d, args.delta + t * args.stride + channel);
    const Floats u = hn::Load(d, args.input + t * args.stride + channel);
    const Floats deltaU = hn::Mul(delta, u);
    const float* b = args.b + t * args.bcStride;
    const float* c = args.c + t * args.bcStride;
    Floats y = hn::Zero(d);
    Floats squares = hn::Zero(d);
    Floats decays = hn::Zero(d);
    for (std::size_t n = 0; n < args.states; ++n) {
      const std::size_t offset = n * kBlockRows;
      const Floats decay = exp2Clamped(hn::Mul(delta, hn::Load(d, a + offset)));
      const Floats s =
          hn::MulAdd(decay, hn::Load(d, previous + offset), hn::Mul(deltaU, hn::Set(d, b[n])));
      hn::Store(s, d, state + offset);
      if constexpr (kOutput) y = hn::MulAdd(s, hn::Set(d, c[n]), y);
      if constexpr (kTaps) {
        squares = hn::MulAdd(s, s, squares);
        decays = hn::Add(decays, decay);
      }
    }
    previous = state;
    if constexpr (kOutput) {
      y = hn::MulAdd(hn::Load(d, args.d + channel), u, y);
      const Floats z = hn::Load(d, args.gate + t * args.gateStride + channel);
      hn::Store(hn::Mul(y, silu(z)), d, args.output + t * args.stride + channel);
    }
    if constexpr (kTaps) {
      const Floats scale = hn::Set(d, 1.0f / static_cast<float>(args.states));
      hn::Store(squares, d, args.stateSquared + t * args.stride + channel);
      hn::Store(hn::Mul(decays, scale), d, args.meanDecay + t * args.stride + channel);
    }
  }
}

inline void scan(const ScanArgs& args) {
  const bool taps = args.stateSquared && args.meanDecay;
  for (std::size_t channel = args.channelBegin; channel < args.channelEnd; channel += kLanes) {
    if (!args.output)
      scanChannels<false, false>(args, channel);
    else if (taps)
      scanChannels<true, true>(args, channel);
    else
      scanChannels<true, false>(args, channel);
  }
}

}  // namespace mb::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
