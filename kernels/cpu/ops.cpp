// Compiles the vector operations for every instruction set and lists those this processor has.
#include "kernels/cpu/ops.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/ops.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include "kernels/cpu/matmul-inl.h"
#include "kernels/cpu/ssm-inl.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mb::cpu::HWY_NAMESPACE {

/// Sum of term(i, vector) over 16-wide groups; the last group of a ragged array is copied and
/// padded with `pad`.
template <class Term>
HWY_INLINE float sumOver(const float* x, std::size_t size, float pad, const Term& term) {
  const FloatTag d;
  Sixteen sum;
  for (Floats& part : sum.part) part = hn::Zero(d);
  HWY_ALIGN float last[16];
  for (std::size_t i = 0; i < size; i += 16) {
    const float* group = x + i;
    if (size - i < 16) {
      for (std::size_t lane = 0; lane < 16; ++lane)
        last[lane] = lane < size - i ? group[lane] : pad;
      group = last;
    }
    for (std::size_t v = 0; v < Sixteen::kVectors; ++v)
      sum.part[v] = hn::Add(sum.part[v], term(hn::LoadU(d, group + v * kLanes)));
  }
  return sumOfSixteen(sum);
}

void norm(const NormArgs& args) {
  const FloatTag d;
  const float size = static_cast<float>(args.size);
  float mean = 0;
  if (args.bias)
    mean = sumOver(args.input, args.size, 0.0f, [](Floats x) HWY_ATTR { return x; }) / size;
  const Floats center = hn::Set(d, mean);
  const float squares = sumOver(args.input, args.size, mean, [&](Floats x) HWY_ATTR {
    const Floats centered = hn::Sub(x, center);
    return hn::Mul(centered, centered);
  });
  const float scale = 1.0f / std::sqrt(squares / size + args.epsilon);
  for (std::size_t i = 0; i < args.size; ++i) {
    const float value = (args.input[i] - mean) * scale * args.weight[i];
    args.output[i] = args.bias ? value + args.bias[i] : value;
  }
}

void softplusInPlace(float* x, std::size_t count) {
  const FloatTag d;
  for (std::size_t i = 0; i < count; i += kLanes) hn::Store(softplus(hn::Load(d, x + i)), d, x + i);
}

/// Zeroes the lanes of a group from `count` on.
HWY_INLINE float sumOfGroup(const float* x, std::size_t count) {
  return sumOver(x, count, 0.0f, [](Floats v) HWY_ATTR { return v; });
}

void reduceTaps(const TapArgs& args) {
  for (std::size_t t = 0; t < args.count; ++t) {
    const std::size_t row = t * args.stride;
    for (std::size_t channel = args.channelBegin; channel < args.channelEnd;
         channel += kBlockRows) {
      const std::size_t present =
          channel < args.channels ? std::min(kBlockRows, args.channels - channel) : 0;
      float* sums = args.output + 3 * (t * args.groups + channel / kBlockRows);
      sums[0] = sumOfGroup(args.delta + row + channel, present);
      sums[1] = sumOver(args.stateSquared + row + channel, present, 0.0f,
                        [](Floats v) HWY_ATTR { return hn::Sqrt(v); });
      sums[2] = sumOfGroup(args.meanDecay + row + channel, present);
    }
  }
}

float largest(const float* x, std::size_t count) {
  const FloatTag d;
  Floats best = hn::Set(d, -std::numeric_limits<float>::infinity());
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) best = hn::Max(best, hn::LoadU(d, x + i));
  float result = hn::GetLane(hn::MaxOfLanes(d, best));
  for (; i < count; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

float exponentials(const float* x, std::size_t count, float shift, float scale, float* weights) {
  const FloatTag d;
  const auto weigh = [&](const float* from, float* to) HWY_ATTR {
    const Floats power = hn::Mul(hn::Sub(hn::LoadU(d, from), hn::Set(d, shift)), hn::Set(d, scale));
    const Floats weight = expClamped(power);
    hn::StoreU(weight, d, to);
    return weight;
  };
  Sixteen sum;
  for (Floats& part : sum.part) part = hn::Zero(d);
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (std::size_t v = 0; v < Sixteen::kVectors; ++v)
      sum.part[v] = hn::Add(sum.part[v], weigh(x + i + v * kLanes, weights + i + v * kLanes));
  float total = sumOfSixteen(sum);
  HWY_ALIGN float last[kLanes] = {};
  for (; i < count; ++i) {
    last[0] = x[i];
    HWY_ALIGN float weight[kLanes];
    weigh(last, weight);
    weights[i] = weight[0];
    total += weight[0];
  }
  return total;
}

/// 31 random bits of each number from `first` on: MurmurHash3's finaliser, the key in two places.
HWY_INLINE hn::Vec<WordTag> randomBits(std::uint64_t key, std::uint32_t first) {
  const WordTag du;
  const auto times = [&](auto h, std::uint32_t factor)
                         HWY_ATTR { return hn::Mul(h, hn::Set(du, factor)); };
  auto h = hn::Add(times(hn::Iota(du, first), 0x9e3779b9u),
                   hn::Set(du, static_cast<std::uint32_t>(key)));
  h = times(hn::Xor(h, hn::ShiftRight<16>(h)), 0x85ebca6bu);
  h = hn::Xor(h, hn::Set(du, static_cast<std::uint32_t>(key >> 32)));
  h = times(hn::Xor(h, hn::ShiftRight<13>(h)), 0xc2b2ae35u);
  return hn::ShiftRight<1>(hn::Xor(h, hn::ShiftRight<16>(h)));
}

void arrivals(std::uint64_t key, std::size_t count, float* times) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  HWY_ALIGN float group[kLanes];
  for (std::size_t i = 0; i < count; i += kLanes) {
    const auto bits = hn::BitCast(di, randomBits(key, static_cast<std::uint32_t>(i)));
    // In (0, 1): finest near 0, where the improbable wins its races.
    const Floats uniform =
        hn::Min(hn::Mul(hn::Add(hn::ConvertTo(d, bits), hn::Set(d, 0.5f)), hn::Set(d, 0x1p-31f)),
                hn::Set(d, 1 - 0x1p-24f));
    hn::Store(hn::Neg(hn::Log1p(d, hn::Neg(uniform))), d, group);
    std::copy_n(group, std::min(kLanes, count - i), times + i);
  }
}

std::size_t argmax(const float* x, std::size_t count) {
  const float top = largest(x, count);
  std::size_t i = 0;
  while (i + 1 < count && !(x[i] == top)) ++i;
  return i;
}

const Ops& ops() {
  static const Ops table = {matmul,          norm,         convolve, scan,   reduceTaps,
                            softplusInPlace, exponentials, arrivals, argmax, kTileInputs};
  return table;
}

}  // namespace mb::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mb::cpu {

namespace {

using OpsFunction = const Ops& (*)();

struct CompiledLevel {
  std::string_view name;
  std::int64_t target;
  OpsFunction ops;
};

/// The operations for AVX-512, but for products of bfloat16 weights.
const Ops& opsWithTiles(const Ops& avx512) {
  static const Ops& kAvx512 = avx512;
  static const Ops kTable = [] {
    Ops table = kAvx512;
    table.matmul = [](const MatmulArgs& args) {
      args.weights->type() == WeightType::BFloat16 ? matmulAmx(args) : kAvx512.matmul(args);
    };
    table.cheapInputs = kAmxCheapInputs;
    return table;
  }();
  return kTable;
}

}  // namespace

std::vector<SimdLevel> availableSimdLevels() {
  const CompiledLevel compiled[] = {
      {"avx512", HWY_AVX3, HWY_CHOOSE_AVX3(ops)},
      {"avx2", HWY_AVX2, HWY_CHOOSE_AVX2(ops)},
      {"sse4", HWY_SSE4, HWY_CHOOSE_SSE4(ops)},
      {"neon", HWY_NEON, HWY_CHOOSE_NEON(ops)},
  };
  const std::int64_t supported = hwy::SupportedTargets();
  std::vector<SimdLevel> levels;
  for (const CompiledLevel& level : compiled)
    if (level.ops && (supported & level.target)) levels.push_back({level.name, &level.ops()});
  if (!levels.empty() && levels.front().name == "avx512" && hasAmx())
    levels.insert(levels.begin(), {"amx", &opsWithTiles(*levels.front().ops)});
  const bool hasPlainTarget = HWY_TARGETS & (HWY_SCALAR | HWY_EMU128);
  if (hasPlainTarget || levels.empty())
    levels.push_back({"baseline", &(*HWY_CHOOSE_FALLBACK(ops))()});
  return levels;
}

const Ops& fastestOps() {
  static const Ops& kOps = *availableSimdLevels().front().ops;
  return kOps;
}

}  // namespace mb::cpu
#endif
