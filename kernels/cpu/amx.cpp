#include "kernels/cpu/amx.h"

#if defined(__x86_64__) && defined(__linux__)

#include <algorithm>
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MB_AMX __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512bf16")))

namespace mb::cpu {

namespace {

constexpr std::size_t kColumns = 32;                 ///< of a tile
constexpr std::size_t kTileWords = 16 * kBlockRows;  ///< of a tile of weights
constexpr std::size_t kMostGroups = 4;               ///< of inputs, multiplied side by side

/// What LDTILECFG reads.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t startRow = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t rowBytes[16] = {};
  std::uint8_t rows[16] = {};

  void set(int tile, std::size_t tileRows, std::size_t bytes) {
    rows[tile] = static_cast<std::uint8_t>(tileRows);
    rowBytes[tile] = static_cast<std::uint16_t>(bytes);
  }
};

// Tiles 0 to 3 hold sums. The intrinsics take numbers as they are written, so what is done for each
// group of inputs is written by macros.
#define MB_INPUTS 4
#define MB_WEIGHTS 5
#define MB_LAST_INPUTS 6
#define MB_LAST_WEIGHTS 7
#define MB_EACH_GROUP(DO) DO(0) DO(1) DO(2) DO(3)

/// Inputs as the product takes them: [count][columns padded to 32], rounded.
class RoundedInputs {
 public:
  MB_AMX void round(const MatmulArgs& args) {
    const std::size_t columns = args.weights->paddedColumns();
    m_stride = roundUp(columns, kColumns);
    if (m_values.size() < args.count * m_stride)
      m_values = AlignedArray<std::uint16_t>(args.count * m_stride);
    for (std::size_t i = 0; i < args.count; ++i) {
      const float* from = args.input + i * args.inputStride;
      std::uint16_t* to = m_values.data() + i * m_stride;
      for (std::size_t c = 0; c < columns; c += kColumns) {
        const std::size_t left = columns - c;
        const __m512 low = _mm512_maskz_loadu_ps(maskOf(left), from + c);
        const __m512 high = left > 16 ? _mm512_maskz_loadu_ps(maskOf(left - 16), from + c + 16)
                                      : _mm512_setzero_ps();
        const __m512bh both = _mm512_cvtne2ps_pbh(high, low);
        __builtin_memcpy(to + c, &both, sizeof both);
      }
    }
  }
  const std::uint16_t* row(std::size_t i) const { return m_values.data() + i * m_stride; }
  std::size_t strideBytes() const { return m_stride * sizeof(std::uint16_t); }

 private:
  static __mmask16 maskOf(std::size_t count) {
    return static_cast<__mmask16>(count >= 16 ? 0xffff : (1u << count) - 1);
  }

  AlignedArray<std::uint16_t> m_values;
  std::size_t m_stride = 0;
};

/// Writes an input's sums of a block of rows.
MB_AMX inline void finish(const MatmulArgs& a, std::size_t input, std::size_t block,
                          const float* sums) {
  const std::size_t row = block * kBlockRows;
  float* out = a.output + input * a.outputStride + row;
  __m512 value = _mm512_load_ps(sums);
  if (a.bias) value = _mm512_add_ps(value, _mm512_loadu_ps(a.bias + row));
  if (a.accumulate) value = _mm512_add_ps(_mm512_loadu_ps(out), value);
  _mm512_storeu_ps(out, value);
}

/// How inputs are shared among tiles: in groups of one size, so that tiles are configured once.
/// Where they do not divide evenly the last group takes some of the one before again.
struct Groups {
  explicit Groups(std::size_t inputs)
      : count((inputs + kAmxInputs - 1) / kAmxInputs),
        size((inputs + count - 1) / count),
        last(inputs - size) {}

  std::size_t first(std::size_t group) const { return std::min(group * size, last); }
  /// Inputs of a group that the one before has.
  std::size_t again(std::size_t group) const { return group * size - first(group); }

  std::size_t count;
  std::size_t size;
  std::size_t last;  ///< where the last group begins
};

/// COUNT groups of inputs from `begin` on, times a block of rows: one stream of weights, which
/// processors fetch ahead better than several.
template <std::size_t COUNT>
MB_AMX void multiplyGroups(const MatmulArgs& a, const RoundedInputs& inputs, const Groups& groups,
                           std::size_t begin, std::size_t block) {
  const std::uint16_t* from[COUNT];
  for (std::size_t g = 0; g < COUNT; ++g) from[g] = inputs.row(groups.first(begin + g));
  const std::size_t stride = inputs.strideBytes();
  const std::uint32_t* weights = a.weights->block(block);
  const std::size_t columns = a.weights->paddedColumns();
#define MB_CLEAR(G) \
  if constexpr (G < COUNT) _tile_zero(G);
  MB_EACH_GROUP(MB_CLEAR)
  std::size_t c = 0;
  for (; c + kColumns <= columns; c += kColumns, weights += kTileWords) {
    _tile_loadd(MB_WEIGHTS, weights, 64);
#define MB_ADD_PRODUCT(G, INPUTS, WEIGHTS)    \
  if constexpr (G < COUNT) {                  \
    _tile_loadd(INPUTS, from[G] + c, stride); \
    _tile_dpbf16ps(G, INPUTS, WEIGHTS);       \
  }
#define MB_ADD(G) MB_ADD_PRODUCT(G, MB_INPUTS, MB_WEIGHTS)
    MB_EACH_GROUP(MB_ADD)
  }
  if (c < columns) {
    _tile_loadd(MB_LAST_WEIGHTS, weights, 64);
#define MB_ADD_LAST(G) MB_ADD_PRODUCT(G, MB_LAST_INPUTS, MB_LAST_WEIGHTS)
    MB_EACH_GROUP(MB_ADD_LAST)
  }
  alignas(64) float sums[kAmxInputs][kBlockRows];
  const auto write = [&](std::size_t group) {
    for (std::size_t i = groups.again(group); i < groups.size; ++i)
      finish(a, groups.first(group) + i, block, sums[i]);
  };
#define MB_WRITE(G)            \
  if constexpr (G < COUNT) {   \
    _tile_stored(G, sums, 64); \
    write(begin + G);          \
  }
  MB_EACH_GROUP(MB_WRITE)
}

/// While it lives denormals count as zero, as they do for the tiles.
class WithoutDenormals {
 public:
  WithoutDenormals() : m_before(_mm_getcsr()) {
    _mm_setcsr(m_before | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON);
  }
  ~WithoutDenormals() { _mm_setcsr(m_before); }
  WithoutDenormals(const WithoutDenormals&) = delete;
  WithoutDenormals& operator=(const WithoutDenormals&) = delete;

 private:
  unsigned m_before;
};

using Words = std::uint32_t __attribute__((vector_size(64)));

/// One input: what TDPBF16PS does, by vectors, which bring weights faster than tiles do.
template <std::size_t BLOCKS>
MB_AMX void multiplySingle(const MatmulArgs& a, const std::uint16_t* input, std::size_t block) {
  const std::uint32_t* weights[BLOCKS];
  __m512 sums[BLOCKS];
  for (std::size_t b = 0; b < BLOCKS; ++b) {
    weights[b] = a.weights->block(block + b);
    sums[b] = _mm512_setzero_ps();
  }
  const std::size_t columns = a.weights->paddedColumns();
  for (std::size_t c = 0; c < columns; c += kColumns) {
    __m512 even[BLOCKS];
    __m512 odd[BLOCKS];
    for (std::size_t b = 0; b < BLOCKS; ++b) even[b] = odd[b] = _mm512_setzero_ps();
    const std::size_t end = std::min(c + kColumns, columns);
    for (std::size_t i = c; i < end; i += 2) {
      std::uint32_t pair;
      __builtin_memcpy(&pair, input + i, sizeof pair);
      const Words x = Words{} + pair;
      for (std::size_t b = 0; b < BLOCKS; ++b) {
        const Words w = *reinterpret_cast<const Words*>(weights[b] + i / 2 * kBlockRows);
        even[b] = _mm512_fmadd_ps(reinterpret_cast<__m512>(x << 16),
                                  reinterpret_cast<__m512>(w << 16), even[b]);
        odd[b] = _mm512_fmadd_ps(reinterpret_cast<__m512>(x & 0xffff0000u),
                                 reinterpret_cast<__m512>(w & 0xffff0000u), odd[b]);
      }
    }
    for (std::size_t b = 0; b < BLOCKS; ++b)
      sums[b] = _mm512_add_ps(sums[b], _mm512_add_ps(even[b], odd[b]));
  }
  for (std::size_t b = 0; b < BLOCKS; ++b) {
    alignas(64) float stored[kBlockRows];
    _mm512_store_ps(stored, sums[b]);
    finish(a, 0, block + b, stored);
  }
}

MB_AMX void multiplySingle(const MatmulArgs& args, const std::uint16_t* input) {
  std::size_t block = args.blockBegin;
  for (; block + 8 <= args.blockEnd; block += 8) multiplySingle<8>(args, input, block);
  for (; block < args.blockEnd; ++block) multiplySingle<1>(args, input, block);
}

/// Asks the system for the tiles' registers, which are large.
bool requestTiles() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

bool hasAmx() {
  static const bool kHas = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kBfloat16 = 1u << 22;
    constexpr unsigned kTiles = 1u << 24;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    if ((d & kBfloat16) == 0 || (d & kTiles) == 0) return false;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return false;
    constexpr unsigned kRounding = 1u << 5;  // AVX512_BF16
    return (a & kRounding) != 0 && requestTiles();
  }();
  return kHas;
}

MB_AMX void matmulAmx(const MatmulArgs& args) {
  if (args.count == 0 || args.blockBegin >= args.blockEnd) return;
  const WithoutDenormals guard;
  thread_local RoundedInputs inputs;
  inputs.round(args);
  if (args.count == 1) return multiplySingle(args, inputs.row(0));
  const Groups groups(args.count);
  const std::size_t lastPairs = args.weights->paddedColumns() % kColumns / 2;
  TileConfig config;
  for (int tile = 0; tile < 4; ++tile) config.set(tile, groups.size, 64);
  config.set(MB_INPUTS, groups.size, 64);
  config.set(MB_WEIGHTS, 16, 64);
  if (lastPairs > 0) {
    config.set(MB_LAST_INPUTS, groups.size, lastPairs * 4);
    config.set(MB_LAST_WEIGHTS, lastPairs, 64);
  }
  _tile_loadconfig(&config);
  for (std::size_t block = args.blockBegin; block < args.blockEnd; ++block) {
    for (std::size_t g = 0; g < groups.count; g += kMostGroups) {
      switch (std::min(kMostGroups, groups.count - g)) {
        case 1: multiplyGroups<1>(args, inputs, groups, g, block); break;
        case 2: multiplyGroups<2>(args, inputs, groups, g, block); break;
        case 3: multiplyGroups<3>(args, inputs, groups, g, block); break;
        default: multiplyGroups<4>(args, inputs, groups, g, block); break;
      }
    }
  }
  _tile_release();
}

}  // namespace mb::cpu

#else

namespace mb::cpu {

bool hasAmx() {
  return false;
}
void matmulAmx(const MatmulArgs&) {}

}  // namespace mb::cpu

#endif
