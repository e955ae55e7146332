// The training scan's tiles on Highway vectors. Lanes are channels. See training_scan.h.
#if defined(MB_KERNELS_CPU_TRAINING_SCAN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MB_KERNELS_CPU_TRAINING_SCAN_INL_H_
#undef MB_KERNELS_CPU_TRAINING_SCAN_INL_H_
#else
#define MB_KERNELS_CPU_TRAINING_SCAN_INL_H_
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include "kernels/cpu/training_scan.h"

HWY_BEFORE_NAMESPACE();
namespace mb::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class Real>
using TileTag = hn::CappedTag<Real, kTileChannels>;

/// One vector of a tile's channels, from `lane` on, at one token.
template <class Real>
struct TileToken {
  using Tag = TileTag<Real>;
  using Vector = hn::Vec<Tag>;

  HWY_INLINE TileToken(const ScanTile<Real>& tile, std::size_t t, std::size_t lane)
      : delta(hn::LoadU(Tag(), tile.delta + t * kTileChannels + lane)),
        input(hn::LoadU(Tag(), tile.input + t * kTileChannels + lane)),
        b(tile.b + t * tile.bcStride),
        c(tile.c + t * tile.bcStride),
        rates(tile.rates + lane) {}

  HWY_INLINE Vector rate(std::size_t n) const {
    return hn::LoadU(Tag(), rates + n * kTileChannels);
  }
  HWY_INLINE Vector decay(std::size_t n) const { return hn::Exp(Tag(), hn::Mul(delta, rate(n))); }
  HWY_INLINE Vector bOf(std::size_t n) const { return hn::Set(Tag(), b[n]); }
  HWY_INLINE Vector cOf(std::size_t n) const { return hn::Set(Tag(), c[n]); }

  Vector delta;
  Vector input;
  const Real* b;
  const Real* c;
  const Real* rates;
};

template <class Real>
void forwardTile(const ScanTile<Real>& tile, Real* state, Real* y) {
  const TileTag<Real> d;
  for (std::size_t lane = 0; lane < kTileChannels; lane += hn::Lanes(d)) {
    for (std::size_t t = 0; t < tile.tokens; ++t) {
      const TileToken<Real> token(tile, t, lane);
      const auto gained = hn::Mul(token.delta, token.input);
      auto sum = hn::Zero(d);
      for (std::size_t n = 0; n < tile.states; ++n) {
        Real* s = state + n * kTileChannels + lane;
        const auto next =
            hn::MulAdd(token.decay(n), hn::LoadU(d, s), hn::Mul(gained, token.bOf(n)));
        hn::StoreU(next, d, s);
        sum = hn::MulAdd(next, token.cOf(n), sum);
      }
      hn::StoreU(sum, d, y + t * kTileChannels + lane);
    }
  }
}

template <class Real>
void againTile(const ScanTile<Real>& tile, Real* states, Real* decays) {
  const TileTag<Real> d;
  const std::size_t step = tile.states * kTileChannels;
  for (std::size_t lane = 0; lane < kTileChannels; lane += hn::Lanes(d)) {
    for (std::size_t t = 0; t < tile.tokens; ++t) {
      const TileToken<Real> token(tile, t, lane);
      const auto gained = hn::Mul(token.delta, token.input);
      for (std::size_t n = 0; n < tile.states; ++n) {
        const std::size_t at = t * step + n * kTileChannels + lane;
        const auto decay = token.decay(n);
        hn::StoreU(decay, d, decays + at);
        hn::StoreU(hn::MulAdd(decay, hn::LoadU(d, states + at), hn::Mul(gained, token.bOf(n))), d,
                   states + at + step);
      }
    }
  }
}

/// Adds to what is in memory.
template <class Tag, class Vector>
HWY_INLINE void add(Tag d, Vector value, hn::TFromD<Tag>* to) {
  hn::StoreU(hn::Add(hn::LoadU(d, to), value), d, to);
}

template <class Real>
void backwardTile(const ScanTile<Real>& tile, const Real* states, const Real* decays,
                  const Real* dy, const ScanTileGradient<Real>& gradient) {
  const TileTag<Real> d;
  const std::size_t step = tile.states * kTileChannels;
  for (std::size_t lane = 0; lane < kTileChannels; lane += hn::Lanes(d)) {
    for (std::size_t t = tile.tokens; t-- > 0;) {
      const TileToken<Real> token(tile, t, lane);
      const auto gained = hn::Mul(token.delta, token.input);
      const auto dOutput = hn::LoadU(d, dy + t * kTileChannels + lane);
      auto along = hn::Zero(d);   // by Δ u'
      auto dDecay = hn::Zero(d);  // by Δ, through the decays
      for (std::size_t n = 0; n < tile.states; ++n) {
        const std::size_t of = n * kTileChannels + lane;
        const std::size_t at = t * step + of;
        const auto ds = hn::MulAdd(dOutput, token.cOf(n), hn::LoadU(d, gradient.state + of));
        add(d, hn::Mul(dOutput, hn::LoadU(d, states + at + step)), gradient.c + at);
        add(d, hn::Mul(ds, gained), gradient.b + at);
        along = hn::MulAdd(ds, token.bOf(n), along);
        const auto before = hn::Mul(ds, hn::LoadU(d, decays + at));
        const auto byDelta = hn::Mul(hn::Mul(before, hn::LoadU(d, states + at)), token.rate(n));
        dDecay = hn::Add(dDecay, byDelta);
        add(d, hn::Mul(byDelta, token.delta), gradient.rates + of);
        hn::StoreU(before, d, gradient.state + of);
      }
      const std::size_t at = t * kTileChannels + lane;
      hn::StoreU(hn::MulAdd(along, token.input, dDecay), d, gradient.delta + at);
      hn::StoreU(hn::Mul(along, token.delta), d, gradient.input + at);
    }
  }
}

/// y = function(x), also of the values at the end that do not fill a vector.
template <class Real, class Function>
HWY_INLINE void map(const Real* x, std::size_t count, Real* y, const Function& function) {
  const TileTag<Real> d;
  std::size_t i = 0;
  for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d))
    hn::StoreU(function(d, hn::LoadU(d, x + i)), d, y + i);
  if (i == count) return;
  HWY_ALIGN Real last[kTileChannels] = {};
  for (std::size_t lane = 0; i + lane < count; ++lane) last[lane] = x[i + lane];
  hn::Store(function(d, hn::Load(d, last)), d, last);
  for (std::size_t lane = 0; i + lane < count; ++lane) y[i + lane] = last[lane];
}

struct Sigmoid {
  template <class D, class V>
  HWY_INLINE V operator()(D d, V x) const {
    const V one = hn::Set(d, 1);
    return hn::Div(one, hn::Add(one, hn::Exp(d, hn::Min(hn::Neg(x), hn::Set(d, 80)))));
  }
};

/// max(x, 0) + ln(1 + exp(-|x|))
struct Softplus {
  template <class D, class V>
  HWY_INLINE V operator()(D d, V x) const {
    return hn::Add(hn::Max(x, hn::Zero(d)), hn::Log1p(d, hn::Exp(d, hn::Neg(hn::Abs(x)))));
  }
};

struct OneMinusExp {
  template <class D, class V>
  HWY_INLINE V operator()(D d, V x) const {
    return hn::Neg(hn::Expm1(d, hn::Neg(x)));
  }
};

}  // namespace mb::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
