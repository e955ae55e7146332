// The selective scan over a stretch of text, token after token: no summaries of stretches, so every
// exponential is taken once. Some threads of a block carry the states of its channels, others make
// Δ ready for them a tile of tokens ahead, others gate what they leave a tile behind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cuda_pipeline_primitives.h>

#include "kernels/cuda/chunk.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/prefill_scan.h"
#include "kernels/cuda/taps.h"
#include "kernels/cuda/values.cuh"

namespace mb::cuda {

/// How a block divides its work: the states of COLUMNS channels among LANES carriers a channel that
/// have OWN each, and the text into tiles of TILE tokens.
template <int LANES, int OWN, int COLUMNS, int TILE>
struct ScanShape {
  static constexpr int kLanes = LANES;
  static constexpr int kOwn = OWN;
  static constexpr int kColumns = COLUMNS;
  static constexpr int kTile = TILE;
  static constexpr int kStates = LANES * OWN;
  static constexpr int kCarriers = LANES * COLUMNS;
  static constexpr int kKeepers = COLUMNS * TILE / 4;  ///< before the scan, and as many behind it
  static constexpr int kThreads = kCarriers + 2 * kKeepers;
  static constexpr int kSelectedRow = 2 * kStates;
  static constexpr int kRing = 4;  ///< tiles in shared memory at a time
  /// One row more than a tile, so that the carriers of a warp write to different banks.
  static constexpr int kOutputs = (TILE + 1) * COLUMNS;
  static constexpr bool kTaps = false;
  using HalfTile = ScanShape<LANES, OWN, COLUMNS, TILE / 2>;
  static_assert(kCarriers % 32 == 0 && kKeepers % 32 == 0);
};

/// The same for a scan that leaves taps.
template <class Shape>
struct Tapped : Shape {
  static constexpr bool kTaps = true;
  static_assert(kSummedChannels == 2 * 4 && Shape::kColumns % kSummedChannels == 0,
                "two neighbouring keepers have the channels of a sum");
};

/// What lanes add to ‖s‖² and to the sum of Ā, by tile; only for taps.
template <class Shape, bool = Shape::kTaps>
struct TapTiles {};
template <class Shape>
struct TapTiles<Shape, true> {
  alignas(16) float squares[2][Shape::kLanes][Shape::kOutputs];
  alignas(16) float decays[2][Shape::kLanes][Shape::kOutputs];
};

/// What the threads of a block tell each other, by tile.
template <class Value, class Shape>
struct ScanTiles : TapTiles<Shape> {
  using Raw = Packed<Value>[Shape::kKeepers];

  Raw raw[4][Shape::kRing];  ///< the keepers' own quads, see TileKeeper
  alignas(16) float2 steps[Shape::kRing][Shape::kTile][Shape::kColumns];        ///< Δ and Δ u'
  alignas(16) float selected[Shape::kRing][Shape::kTile][Shape::kSelectedRow];  ///< B, C
  alignas(16) float outputs[2][Shape::kLanes][Shape::kOutputs];  ///< what lanes add to s C

  /// Waits for all threads of the block, which do this in different places.
  __device__ static void meet() { asm volatile("bar.sync 0;" ::: "memory"); }
};

/// A thread that carries some states of one channel from token to token.
template <class Value, class Shape>
class StateCarrier {
 public:
  using Tiles = ScanTiles<Value, Shape>;

  __device__ StateCarrier(const ScanArguments<Value>& a, Tiles& tiles)
      : a(a),
        m_tiles(tiles),
        m_lane(threadIdx.x / Shape::kColumns),
        m_column(threadIdx.x % Shape::kColumns),
        m_channel(blockIdx.x * Shape::kColumns + m_column) {}

  __device__ void run(std::uint32_t tileCount) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const bool real = isReal(i);
      m_rate[i] =
          real ? a.channels[(kConvWeights + a.taps + stateOf(i)) * a.inner + m_channel] : 0.0f;
      m_state[i] = real ? a.stateIn[placeOf(i)] : 0.0f;
    }
    m_tiles.meet();
#pragma unroll
    for (int t = 0; t < kGroup; ++t) {
      m_step[t] = m_tiles.steps[0][t][m_column];
      prepare(t, m_tiles.selected[0][t]);
      m_step[t] = m_tiles.steps[0][kGroup + t][m_column];
    }
    for (std::uint32_t tile = 0; tile < tileCount; ++tile) {
      scan(tile);
      m_tiles.meet();
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i)
      if (isReal(i)) a.stateOut[placeOf(i)] = m_state[i];
  }

 private:
  static constexpr int kOwn = Shape::kOwn;
  static constexpr int kGroup = kOwn > 2 ? 4 : 8;  // tokens in the making
  static constexpr int kHalf = kGroup / 2;
  static_assert(Shape::kTile % kGroup == 0 && Shape::kTile >= 2 * kGroup);

  __device__ std::uint32_t stateOf(int i) const {
    return m_lane * kOwn + i;
  }
  __device__ bool isReal(int i) const {
    return m_channel < a.inner && stateOf(i) < a.states;
  }
  __device__ std::size_t placeOf(int i) const {
    return std::size_t{m_channel / 16} * 16 * a.states + stateOf(i) * 16 + m_channel % 16;
  }

  /// Scans a tile, half a group at a time. While one half is scanned the other is made ready, and
  /// its Δ is fetched a group earlier still: nobody waits for exponentials or for shared memory.
  __device__ void scan(std::uint32_t tile) {
    const std::uint32_t now = tile % Shape::kRing;
    const std::uint32_t next = (tile + 1) % Shape::kRing;
    float* outputs = m_tiles.outputs[tile % 2][m_lane] + m_column;
#pragma unroll
    for (int first = 0; first < Shape::kTile; first += kHalf) {
      const int slot = first % kGroup;
#pragma unroll
      for (int t = 0; t < kHalf; ++t) {
        outputs[(first + t) * Shape::kColumns] = advance(slot + t);
        if constexpr (Shape::kTaps) leaveTaps(tile, first + t, slot + t);
      }
#pragma unroll
      for (int t = 0; t < kHalf; ++t) {
        const int ready = first + t + kGroup;
        const int fetched = ready + kGroup;
        prepare(slot + t,
                m_tiles.selected[ready < Shape::kTile ? now : next][ready % Shape::kTile]);
        m_step[slot + t] =
            m_tiles.steps[fetched < Shape::kTile ? now : next][fetched % Shape::kTile][m_column];
      }
    }
  }

  /// Takes the states over a token, and returns what they add to s C.
  __device__ float advance(int t) {
    float y = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      m_state[i] = fmaf(m_kept[t][i], m_state[i], m_gained[t] * m_b[t][i]);
      y = i == 0 ? m_state[i] * m_c[t][i] : fmaf(m_state[i], m_c[t][i], y);
    }
    return y;
  }

  /// What the states behind a token add to its taps. States that are padding add Ā = 1.
  __device__ void leaveTaps(std::uint32_t tile, int row, int t) {
    float squares = m_state[0] * m_state[0];
    float decays = m_kept[t][0];
#pragma unroll
    for (int i = 1; i < kOwn; ++i) {
      squares = fmaf(m_state[i], m_state[i], squares);
      decays += m_kept[t][i];
    }
    const std::uint32_t place = row * Shape::kColumns + m_column;
    m_tiles.squares[tile % 2][m_lane][place] = squares;
    m_tiles.decays[tile % 2][m_lane][place] = decays;
  }

  /// Makes a token ready of which the step is here.
  __device__ void prepare(int t, const float* selected) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) m_kept[t][i] = power2(m_step[t].x * m_rate[i]);
    m_gained[t] = m_step[t].y;
    load(selected + m_lane * kOwn, m_b[t]);
    load(selected + Shape::kStates + m_lane * kOwn, m_c[t]);
  }

  __device__ static void load(const float* from, float (&to)[kOwn]) {
    if constexpr (kOwn == 1)
      to[0] = *from;
    else if constexpr (kOwn == 2)
      *reinterpret_cast<float2*>(to) = *reinterpret_cast<const float2*>(from);
    else
      *reinterpret_cast<float4*>(to) = *reinterpret_cast<const float4*>(from);
  }

  const ScanArguments<Value>& a;
  Tiles& m_tiles;
  std::uint32_t m_lane;
  std::uint32_t m_column;
  std::uint32_t m_channel;
  float m_rate[kOwn];  // A · log2(e)
  float m_state[kOwn];
  float2 m_step[kGroup];
  float m_kept[kGroup][kOwn];
  float m_gained[kGroup];
  float m_b[kGroup][kOwn];
  float m_c[kGroup][kOwn];
};

/// A thread that keeps four channels of one token of every tile.
template <class Value, class Shape>
class TileKeeper {
 public:
  using Tiles = ScanTiles<Value, Shape>;

 protected:
  __device__ TileKeeper(const ScanArguments<Value>& a, Tiles& tiles, std::uint32_t index)
      : a(a),
        m_tiles(tiles),
        m_index(index),
        m_row(index / (Shape::kColumns / 4)),
        m_column(index % (Shape::kColumns / 4) * 4),
        m_channel(blockIdx.x * Shape::kColumns + m_column) {}

  __device__ static float4 none() { return {0, 0, 0, 0}; }
  __device__ float4 field(std::uint32_t f) const {
    return m_channel < a.inner ? quadAt(a.channels + f * a.inner + m_channel) : none();
  }
  __device__ std::uint32_t tokenOf(std::uint32_t tile) const { return tile * Shape::kTile + m_row; }
  __device__ bool isReal(std::uint32_t tile) const {
    return tokenOf(tile) < a.tokens && m_channel < a.inner;
  }

  /// Starts to copy the thread's quad of rows of `stride` values.
  __device__ void fetch(int kind, std::uint32_t tile, const Value* rows, std::uint32_t stride) {
    if (isReal(tile))
      copy(rows + std::size_t{tokenOf(tile)} * stride + m_channel,
           &m_tiles.raw[kind][tile % Shape::kRing][m_index]);
  }
  __device__ float4 fetched(int kind, std::uint32_t tile) const {
    return widened(m_tiles.raw[kind][tile % Shape::kRing][m_index]);
  }
  template <class From, class To>
  __device__ static void copy(const From* from, To* to) {
    __pipeline_memcpy_async(to, from, sizeof(Packed<From>));
  }

  const ScanArguments<Value>& a;
  Tiles& m_tiles;
  std::uint32_t m_index;
  std::uint32_t m_row;
  std::uint32_t m_column;
  std::uint32_t m_channel;
};

/// Makes Δ and Δ u' for the carriers, and sees to it that B and C are there.
template <class Value, class Shape>
class TileMaker : TileKeeper<Value, Shape> {
  using Keeper = TileKeeper<Value, Shape>;
  using Keeper::a;
  using Keeper::m_tiles;

 public:
  __device__ TileMaker(const ScanArguments<Value>& a, typename Keeper::Tiles& tiles)
      : Keeper(a, tiles, threadIdx.x - Shape::kCarriers),
        m_bias(this->field(kDtBias)),
        m_selectedRow(this->m_index / kQuads),
        m_selectedColumn(this->m_index % kQuads * 4) {}

  __device__ void run(std::uint32_t tileCount) {
    clearStates();
    for (std::uint32_t tile = 0; tile < 3; ++tile) fetchTile(tile);
    __pipeline_wait_prior(1);
    prepare(0);
    prepare(1);
    m_tiles.meet();
    for (std::uint32_t tile = 0; tile < tileCount; ++tile) {
      fetchTile(tile + 3);
      __pipeline_wait_prior(1);
      prepare(tile + 2);
      m_tiles.meet();
    }
  }

 private:
  enum Kind : int { kDelta, kInput };
  static constexpr std::uint32_t kQuads = Shape::kSelectedRow / 4;

  /// States that `selected` has: whole tiles of them, with zeros behind the real ones.
  __device__ bool isSelected() const {
    return m_selectedColumn % Shape::kStates < (a.states + 15) / 16 * 16;
  }
  static constexpr std::uint32_t kRowStep = Shape::kKeepers / kQuads;

  /// B and C of states that are never fetched.
  __device__ void clearStates() const {
    if (isSelected()) return;
    for (auto& tile : m_tiles.selected)
      for (std::uint32_t row = m_selectedRow; row < Shape::kTile; row += kRowStep)
        setQuad(&tile[row][m_selectedColumn], this->none());
  }

  __device__ void fetchTile(std::uint32_t tile) {
    this->fetch(kDelta, tile, a.expanded, 2 * a.inner);
    this->fetch(kInput, tile, a.convolved, a.inner);
    if (isSelected()) fetchSelected(tile);
    __pipeline_commit();
  }

  /// B and C; behind the last token those of the last, with which Δ = 0 does nothing.
  __device__ void fetchSelected(std::uint32_t tile) const {
    const std::uint32_t n = m_selectedColumn % Shape::kStates;
    const float* from = a.selected + (n == m_selectedColumn ? a.bOffset : a.cOffset) + n;
    auto& to = m_tiles.selected[tile % Shape::kRing];
    for (std::uint32_t row = m_selectedRow; row < Shape::kTile; row += kRowStep) {
      const std::uint32_t token = min(tile * Shape::kTile + row, a.tokens - 1);
      this->copy(from + std::size_t{token} * a.selectedStride, &to[row][m_selectedColumn]);
    }
  }

  /// Tokens behind the last have Δ = 0 and change nothing.
  __device__ void prepare(std::uint32_t tile) const {
    float4 delta = this->none();
    float4 gained = this->none();
    if (this->isReal(tile)) {
      delta = each(softplus, this->fetched(kDelta, tile) + m_bias);
      gained = delta * this->fetched(kInput, tile);
    }
    auto* steps =
        reinterpret_cast<float4*>(&m_tiles.steps[tile % Shape::kRing][this->m_row][this->m_column]);
    steps[0] = {delta.x, gained.x, delta.y, gained.y};
    steps[1] = {delta.z, gained.z, delta.w, gained.w};
  }

  float4 m_bias;
  std::uint32_t m_selectedRow;
  std::uint32_t m_selectedColumn;
};

/// Adds up and gates what the carriers leave.
template <class Value, class Shape>
class TileGate : TileKeeper<Value, Shape> {
  using Keeper = TileKeeper<Value, Shape>;
  using Keeper::a;
  using Keeper::m_tiles;

 public:
  __device__ TileGate(const ScanArguments<Value>& a, typename Keeper::Tiles& tiles)
      : Keeper(a, tiles, threadIdx.x - Shape::kCarriers - Shape::kKeepers),
        m_skip(this->field(kSkip)),
        m_bias(this->field(kInBiasZ)) {}

  __device__ void run(std::uint32_t tileCount) {
    fetchTile(0);
    m_tiles.meet();
    for (std::uint32_t tile = 0; tile < tileCount; ++tile) {
      fetchTile(tile + 1);
      __pipeline_wait_prior(2);
      if (tile > 0) finish(tile - 1);
      m_tiles.meet();
    }
    __pipeline_wait_prior(0);
    finish(tileCount - 1);
  }

 private:
  enum Kind : int { kGate = 2, kInput };

  __device__ void fetchTile(std::uint32_t tile) {
    this->fetch(kGate, tile, a.expanded + a.inner, 2 * a.inner);
    this->fetch(kInput, tile, a.convolved, a.inner);
    __pipeline_commit();
  }

  __device__ void finish(std::uint32_t tile) const {
    write(tile);
    if constexpr (Shape::kTaps) writeTaps(tile);
  }

  __device__ int place() const { return this->m_row * Shape::kColumns + this->m_column; }

  __device__ void write(std::uint32_t tile) const {
    if (!this->isReal(tile)) return;
    const int place = this->place();
    float4 y = quadAt(&m_tiles.outputs[tile % 2][0][place]);
#pragma unroll
    for (int lane = 1; lane < Shape::kLanes; ++lane)
      y = y + quadAt(&m_tiles.outputs[tile % 2][lane][place]);
    setQuad(a.convolved + std::size_t{this->tokenOf(tile)} * a.inner + this->m_channel,
            (y + m_skip * this->fetched(kInput, tile)) *
                each(silu, this->fetched(kGate, tile) + m_bias));
  }

  /// Leaves TapSums of a tile. Two neighbours have the channels of a sum, both real or both not.
  /// The W_dt δ that lay there were fetched by this block tiles ago, and nobody else wants them.
  __device__ void writeTaps(std::uint32_t tile) const {
    const bool real = this->isReal(tile);
    float4 taps = real ? tapsOf(tile) : this->none();
    taps = taps + each([](float x) { return __shfl_xor_sync(~0u, x, 1); }, taps);
    if (!real || this->m_index % 2 != 0) return;
    Value* at = a.expanded + std::size_t{this->tokenOf(tile)} * 2 * a.inner + this->m_channel;
    static_assert(kSummedChannels * sizeof(Value) >= sizeof taps);
    setQuad(reinterpret_cast<float*>(at), taps);
  }

  /// Δ, ‖s‖ and mean Ā of the thread's token, summed over its four channels.
  __device__ float4 tapsOf(std::uint32_t tile) const {
    float4 squares = this->none();
    float4 decays = this->none();
#pragma unroll
    for (int lane = 0; lane < Shape::kLanes; ++lane) {
      squares = squares + quadAt(&m_tiles.squares[tile % 2][lane][place()]);
      decays = decays + quadAt(&m_tiles.decays[tile % 2][lane][place()]);
    }
    const float2* steps = &m_tiles.steps[tile % Shape::kRing][this->m_row][this->m_column];
    const auto states = static_cast<float>(a.states);
    const float padding = static_cast<float>(Shape::kStates) - states;
    const auto norm = [](float square) { return sqrtf(square); };
    const auto mean = [&](float sum) { return (sum - padding) / states; };
    return {sumOfReal({steps[0].x, steps[1].x, steps[2].x, steps[3].x}),
            sumOfReal(each(norm, squares)), sumOfReal(each(mean, decays)), 0};
  }

  __device__ float sumOfReal(const float4& v) const {
    const auto real = [&](std::uint32_t i, float x) {
      return this->m_channel + i < a.tapped ? x : 0.0f;
    };
    return sumOf({real(0, v.x), real(1, v.y), real(2, v.z), real(3, v.w)});
  }

  float4 m_skip;
  float4 m_bias;
};

/// s_t = Ā s_{t-1} + Δ u' B, y = (s_t C + D u') SiLU(z): Shape::kColumns channels a block.
template <class Value, class Shape>
__global__ void __launch_bounds__(kMostScanThreads)
    scanKernel(const __grid_constant__ ScanArguments<Value> a) {
  extern __shared__ float4 memory[];
  auto& tiles = *reinterpret_cast<ScanTiles<Value, Shape>*>(memory);
  const std::uint32_t count = (a.tokens + Shape::kTile - 1) / Shape::kTile;
  if (threadIdx.x < Shape::kCarriers)
    StateCarrier<Value, Shape>(a, tiles).run(count);
  else if (threadIdx.x < Shape::kCarriers + Shape::kKeepers)
    TileMaker<Value, Shape>(a, tiles).run(count);
  else
    TileGate<Value, Shape>(a, tiles).run(count);
}

}  // namespace mb::cuda
