// Matrix product of packed weights with a handful of vectors. See MatmulArgs.
//
// A tile holds kRowVectors × kInputs accumulators in registers and walks the columns once. Lanes
// are rows, so a column's weights meet one broadcast input; nothing is summed across lanes.
#if defined(MB_KERNELS_CPU_MATMUL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MB_KERNELS_CPU_MATMUL_INL_H_
#undef MB_KERNELS_CPU_MATMUL_INL_H_
#else
#define MB_KERNELS_CPU_MATMUL_INL_H_
#endif

#include <algorithm>
#include <hwy/highway.h>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mb::cpu::HWY_NAMESPACE {

/// Widens the even (kHalf 0) or odd (kHalf 1) columns of a pair of bfloat16 columns.
template <int kHalf>
HWY_INLINE Floats widen(const std::uint32_t* words) {
  const WordTag du;
  const auto pair = hn::Load(du, words);
  if constexpr (kHalf == 0) return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(pair));
  return hn::BitCast(FloatTag(), hn::And(pair, hn::Set(du, 0xffff0000u)));
}

/// The weights of one column (half of a pair) for one vector of rows.
template <WeightType kType, int kHalf>
HWY_INLINE Floats loadWeights(const std::uint32_t* pairWords) {
  if constexpr (kType == WeightType::BFloat16) {
    return widen<kHalf>(pairWords);
  } else {
    return hn::BitCast(FloatTag(), hn::Load(WordTag(), pairWords + kHalf * kBlockRows));
  }
}

template <WeightType kType, int kRowVectors, int kInputs>
struct Tile {
  static constexpr std::size_t kPairWords =
      kBlockRows * (kType == WeightType::BFloat16 ? 1 : 2);  // words of one block's column pair

  const std::uint32_t* weights[kRowVectors];
  const float* input[kInputs];
  Floats sum[kRowVectors][kInputs];

  template <int kHalf>
  HWY_INLINE void addColumn(std::size_t pair) {
    if constexpr (kRowVectors <= kInputs) {
      Floats w[kRowVectors];
      for (int v = 0; v < kRowVectors; ++v)
        w[v] = loadWeights<kType, kHalf>(weights[v] + pair * kPairWords);
      for (int i = 0; i < kInputs; ++i) {
        const Floats x = hn::Set(FloatTag(), input[i][2 * pair + kHalf]);
        for (int v = 0; v < kRowVectors; ++v) sum[v][i] = hn::MulAdd(w[v], x, sum[v][i]);
      }
    } else {
      Floats x[kInputs];
      for (int i = 0; i < kInputs; ++i) x[i] = hn::Set(FloatTag(), input[i][2 * pair + kHalf]);
      for (int v = 0; v < kRowVectors; ++v) {
        const Floats w = loadWeights<kType, kHalf>(weights[v] + pair * kPairWords);
        for (int i = 0; i < kInputs; ++i) sum[v][i] = hn::MulAdd(w, x[i], sum[v][i]);
      }
    }
  }

  /// Rows [row, row + kRowVectors · kLanes) of inputs [first, first + kInputs).
  HWY_INLINE void run(const MatmulArgs& args, std::size_t row, std::size_t first) {
    const FloatTag d;
    for (int v = 0; v < kRowVectors; ++v) {
      const std::size_t r = row + v * kLanes;
      weights[v] = args.weights->block(r / kBlockRows) + r % kBlockRows;
    }
    for (int i = 0; i < kInputs; ++i) input[i] = args.input + (first + i) * args.inputStride;
    for (int v = 0; v < kRowVectors; ++v)
      for (int i = 0; i < kInputs; ++i) sum[v][i] = hn::Zero(d);

    const std::size_t pairs = args.weights->paddedColumns() / 2;
    for (std::size_t pair = 0; pair < pairs; ++pair) {
      addColumn<0>(pair);
      addColumn<1>(pair);
    }

    for (int v = 0; v < kRowVectors; ++v) {
      const std::size_t r = row + v * kLanes;
      for (int i = 0; i < kInputs; ++i) {
        float* out = args.output + (first + i) * args.outputStride + r;
        Floats value = sum[v][i];
        if (args.bias) value = hn::Add(value, hn::Load(d, args.bias + r));
        if (args.accumulate) value = hn::Add(hn::Load(d, out), value);
        hn::Store(value, d, out);
      }
    }
  }
};

template <WeightType kType, int kRowVectors, int kInputs>
HWY_NOINLINE void runTile(const MatmulArgs& args, std::size_t row, std::size_t first) {
  Tile<kType, kRowVectors, kInputs> tile;
  tile.run(args, row, first);
}

using TileFunction = void (*)(const MatmulArgs&, std::size_t row, std::size_t first);

/// Tiles of one height for 1 to kTileInputs inputs.
template <WeightType kType, int kRowVectors>
struct Tiles {
  static constexpr TileFunction kFor[kTileInputs] = {
      runTile<kType, kRowVectors, 1>, runTile<kType, kRowVectors, 2>,
      runTile<kType, kRowVectors, 3>, runTile<kType, kRowVectors, 4>,
      runTile<kType, kRowVectors, 5>, runTile<kType, kRowVectors, 6>};
};

/// The tallest tile whose accumulators fit the registers: 32 of them with AVX-512, else 16.
inline constexpr int kTallRows = kLanes == 16 ? 4 : 2;

template <WeightType kType>
HWY_INLINE void multiplyInputs(const MatmulArgs& args, std::size_t row, std::size_t vectors,
                               std::size_t first, std::size_t inputs) {
  for (; vectors >= kTallRows; vectors -= kTallRows, row += kTallRows * kLanes)
    Tiles<kType, kTallRows>::kFor[inputs - 1](args, row, first);
  for (; vectors > 0; --vectors, row += kLanes) Tiles<kType, 1>::kFor[inputs - 1](args, row, first);
}

/// A panel of rows stays in the cache while all inputs pass over it, so weights come from memory
/// once. Inputs are taken in groups of nearly equal size.
template <WeightType kType>
void matmulTyped(const MatmulArgs& args) {
  const std::size_t rowEnd = args.blockEnd * kBlockRows;
  std::size_t row = args.blockBegin * kBlockRows;
  if (args.count <= 2) {  // few inputs: more rows at once keep enough sums in flight
    constexpr int kRows = 8;
    const auto tile = args.count == 1 ? runTile<kType, kRows, 1> : runTile<kType, kRows, 2>;
    for (; row + kRows * kLanes <= rowEnd; row += kRows * kLanes) tile(args, row, 0);
  }
  constexpr std::size_t kPanelRows = std::max<std::size_t>(kTallRows * kLanes, kBlockRows);
  const std::size_t groups = (args.count + kTileInputs - 1) / kTileInputs;
  for (; row < rowEnd; row += kPanelRows) {
    const std::size_t vectors = std::min(kPanelRows, rowEnd - row) / kLanes;
    std::size_t first = 0;
    for (std::size_t g = 0; g < groups; ++g) {
      const std::size_t inputs = (args.count - first + groups - g - 1) / (groups - g);
      multiplyInputs<kType>(args, row, vectors, first, inputs);
      first += inputs;
    }
  }
}

inline void matmul(const MatmulArgs& args) {
  if (args.count == 0 || args.blockBegin >= args.blockEnd) return;
  if (args.weights->type() == WeightType::BFloat16)
    matmulTyped<WeightType::BFloat16>(args);
  else
    matmulTyped<WeightType::Float32>(args);
}

}  // namespace mb::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
