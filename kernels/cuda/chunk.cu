#include <algorithm>
#include <bit>
#include <utility>

#include "kernels/cuda/chunk.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/tiles.cuh"

namespace mb::cuda {

namespace {

constexpr int kThreads = kComputeThreads + 32;  // the last warp fills the ring
constexpr int kPanel = static_cast<int>(kPanelTiles);
constexpr int kScanLanes = 8;  // threads that share a channel's states
constexpr int kScanChannels = kComputeThreads / kScanLanes;
constexpr int kTapKinds = 3;

/// Everything a launch needs, passed by value.
struct ChunkArguments {
  Dimensions size;
  ParameterLayout layout;
  bool layerNorm;
  float epsilon;
  const uint4* tiles;
  const BlockPlan* blocks;
  const float* parameters;
  const std::uint16_t* embedding;

  std::int32_t input[kMostTokens];
  unsigned long long* residual;
  unsigned long long* projected;
  float* logits;
  float* traceInput;
  float* traceConvolved;
  float* traceDelta;
  float* traceB;
  float* taps;
  std::uint32_t* arrivals;
  std::uint32_t arrived;
  std::uint32_t turn;  // which of the three sums layer 0 takes
  std::uint32_t capacity;

  std::uint32_t tokens;
  const float* stateIn;
  float* stateOut;
  bool head;

  int slots;               // stages of the ring
  std::uint32_t slotBits;  // its logarithm
  int operandBytes;        // shared memory for activations
  int channels;            // most channels of a block
  bool outBias;
  const float* headBias;  // or null
};

/// Waits for the compute warps only: the filling warp goes its own way.
__device__ inline void meet() {
  asm volatile("bar.sync 1, %0;" ::"n"(kComputeThreads) : "memory");
}

__device__ inline float sumOfWarp(float value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

/// All blocks of the grid meet: arrive(), then wait().
class GridBarrier {
 public:
  __device__ GridBarrier(std::uint32_t* arrivals, std::uint32_t arrived)
      : m_arrivals(arrivals), m_target(arrived) {}

  __device__ void arrive() {
    meet();
    m_target += gridDim.x;
    if (threadIdx.x == 0)
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(m_arrivals) : "memory");
  }

  __device__ void wait() {
    if (threadIdx.x == 0) {
      std::uint32_t arrived = 0;
      do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                     : "=r"(arrived)
                     : "l"(m_arrivals)
                     : "memory");
      } while (static_cast<std::int32_t>(arrived - m_target) < 0);
    }
    meet();
  }

 private:
  std::uint32_t* m_arrivals;
  std::uint32_t m_target;
};

/// What all blocks add to, δ, B, C and the residual, are integers of 2^-44: their sums do not
/// depend on the order in which the blocks come. They hold magnitudes up to 2^19.
constexpr float kFixedPoint = 17592186044416.0f;

__device__ inline unsigned long long toFixed(float value) {
  return static_cast<unsigned long long>(__float2ll_rn(value * kFixedPoint));
}

__device__ inline float fromFixed(unsigned long long value) {
  return __ll2float_rn(static_cast<long long>(value)) * (1.0f / kFixedPoint);
}

/// One block's work. NT blocks of 4 tokens; a scanning thread holds SPL states. ONE: a single token
/// and a single plane, which is what decoding is made of.
template <int NT, int SPL, bool ONE>
class Chunk {
 public:
  __device__ Chunk(const ChunkArguments& arguments, char* shared);
  __device__ void run();

 private:
  using Sums = float[kPanel][NT][4];

  __device__ int tokens() const { return ONE ? 1 : static_cast<int>(a.tokens); }
  __device__ int planes() const { return ONE ? 1 : static_cast<int>(a.size.planes); }

  /// Norm weights that a thread needs, loaded before it waits for the values they scale.
  static constexpr int kHeldQuads = 3;
  static constexpr int kQuadColumns = 4 * kComputeThreads;

  /// The products over all of a token's values. One loop serves them all: instructions have to
  /// fit the instruction cache, or every layer waits for them.
  enum class Part { Expand, Head };

  __device__ void product(Part part, int layer, int tileRows, int columns);
  __device__ void stage(int layer, int firstTile, int columnTiles);
  __device__ void output(Part part, int row, int token, float sum);
  __device__ void reduce(Part part, int firstRow, int tileRows, const Sums& sums);
  /// For small matrices over operands in place: a warp takes every eighth tile row.
  template <class Output>
  __device__ void productByRows(int tileRows, int columns, Output output);
  __device__ int multiplyFewRows(int tileRows, int columnTiles, Sums& sums);
  template <int HEIGHT>
  __device__ void multiplyStaged(int first, int count, Sums& sums);
  __device__ void multiplyPlanes(int first, int count, int height, Sums& sums);
  __device__ void multiplyRow(Sums& sums, int m, const uint4& weights, const uint2 (&b)[NT]) const;

  // Norms.
  __device__ void holdNorm(const float* weight);
  __device__ void stageSingle(int layer, int columnTiles);
  __device__ void measure(int layer);
  __device__ void keepMoment(int token, float sum);
  __device__ float scaleOf(int token) const;

  __device__ void mix(int layer);
  __device__ void fetch(int layer);
  __device__ void keepHistory(int layer);
  __device__ void convolve(int layer);
  __device__ void project(int layer);
  __device__ void computeDelta(int layer);
  __device__ void scan(int layer);
  __device__ void contract();

  __device__ void startResidual();
  __device__ float4 embedded(int token, int k) const;
  __device__ float4 residualAt(int layer, int token, int k) const;
  __device__ std::size_t stateOffset(int layer) const {
    return static_cast<std::size_t>(layer) * (a.size.states + a.size.taps - 1) *
           a.layout.paddedInner;
  }
  __device__ unsigned long long* projected(int layer) const {
    return a.projected + static_cast<std::size_t>((a.turn + layer) % 3) * a.capacity * m_projected;
  }
  /// Row of the channels' record, see RecordField.
  __device__ const float* record(int field) const { return m_record + field * m_channels; }
  __device__ float* shared(float* base, int token, int channel) const {
    return base + token * a.channels + channel;
  }
  /// Whether one look at a token's values does: RMSNorm of a single token.
  __device__ bool isSingle() const {
    return NT == 1 && tokens() == 1 && !a.layerNorm && a.size.model <= kHeldQuads * kQuadColumns &&
           tilesFor(a.size.model) * Operands<NT>::kTileStride <= m_operandBytes;
  }

  const ChunkArguments& a;
  const BlockPlan m_block;
  const float* m_parameters;  // of the current layer, or the final norm
  int m_warp;
  int m_lane;
  int m_channelBegin;
  int m_own;         // channels of this block
  int m_channels;    // padded to 16
  int m_projected;   // rows of x_proj
  int m_cursor = 0;  // next tile of the stretch

  char* m_operandMemory;
  int m_operandBytes;  // of one set of parts
  Operands<NT> m_operands;
  float* m_sums;  // of the warps, for reduce(); with many tokens where the operands were
  float* m_record;
  float* m_history;  // [k - 1][channels]
  float* m_u;
  float* m_z;
  float* m_convolved;
  float* m_delta;
  float* m_bc;       // [tokens][2 · states]
  float* m_moments;  // [tokens][warps]: sums over a token's values
  float* m_means;    // [tokens]
  TileReader m_reader;
  GridBarrier m_barrier;

  // Fetched at the start of a layer, for when they are needed.
  float4 m_norm[kHeldQuads];
  int m_historyPosition;  // of the value this thread fetches
  float m_fetchedHistory = 0;
  float m_fetchedState[SPL];
};

__host__ __device__ inline int paddedStates(const Dimensions& d) {
  return static_cast<int>(tilesFor(d.states) * kTileRows);
}

/// Whether the warps' sums get memory of their own, which saves a meeting.
__host__ __device__ constexpr bool hasOwnSums(int tokenBlocks) {
  return tokenBlocks <= 2;
}

__host__ __device__ constexpr int sumBytes(int tokenBlocks) {
  return kComputeWarps * kPanel * tokenBlocks * 64 * static_cast<int>(sizeof(float));
}

/// Shared memory besides the ring and its barriers.
__host__ __device__ inline int scratchBytes(const Dimensions& size, int operandBytes, int channels,
                                            int tokens) {
  const int fields = kConvWeights + size.taps + size.states + size.taps - 1;
  const int perToken = 4 * channels + 2 * paddedStates(size) + kComputeWarps + 1;
  return operandBytes + (hasOwnSums(tokens / 4) ? sumBytes(tokens / 4) : 0) +
         static_cast<int>(sizeof(float)) * (fields * channels + tokens * perToken);
}

template <int NT, int SPL, bool ONE>
__device__ Chunk<NT, SPL, ONE>::Chunk(const ChunkArguments& arguments, char* memory)
    : a(arguments),
      m_block(arguments.blocks[blockIdx.x]),
      m_parameters(arguments.parameters),
      m_warp(threadIdx.x / 32),
      m_lane(threadIdx.x % 32),
      m_channelBegin(m_block.groups.begin * kGroupChannels),
      m_own(m_block.groups.count * kGroupChannels),
      m_channels(static_cast<int>(tilesFor(m_own) * kTileRows)),
      m_projected(static_cast<int>(projectedRows(arguments.size))),
      m_operandMemory(memory + a.slots * (kStageBytes + sizeof(StageSync))),
      m_operandBytes(planes() > 1 ? a.operandBytes / 2 : a.operandBytes),
      m_operands(m_operandMemory, planes() > 1 ? m_operandBytes : 0),
      m_reader(reinterpret_cast<uint4*>(memory),
               reinterpret_cast<StageSync*>(memory + a.slots * kStageBytes), a.slotBits),
      m_barrier(a.arrivals, a.arrived) {
  m_historyPosition = m_channels > 0 ? threadIdx.x / m_channels : 0;
  auto* at = reinterpret_cast<float*>(m_operandMemory + a.operandBytes);
  const auto take = [&](int count) {
    float* taken = at;
    at += count;
    return taken;
  };
  constexpr int kTokens = 4 * NT;
  m_sums = hasOwnSums(NT) ? take(sumBytes(NT) / 4) : reinterpret_cast<float*>(m_operandMemory);
  m_record = take((kConvWeights + a.size.taps + a.size.states) * a.channels);
  m_history = take((a.size.taps - 1) * a.channels);
  m_u = take(kTokens * a.channels);
  m_z = take(kTokens * a.channels);
  m_convolved = take(kTokens * a.channels);
  m_delta = take(kTokens * a.channels);
  m_bc = take(kTokens * 2 * paddedStates(a.size));
  m_moments = take(kTokens * kComputeWarps);
  m_means = take(kTokens);
}

template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::run() {
  const int layers = static_cast<int>(a.size.layers);
  const int steps = layers + (a.head ? 1 : 0);
  startResidual();
#pragma unroll 1
  for (int layer = 0; layer < steps; ++layer) {
    const Part part = layer == layers ? Part::Head : Part::Expand;
    m_parameters = a.parameters + static_cast<std::size_t>(layer) * a.layout.layerSize;
    holdNorm(m_parameters);
    if (part == Part::Expand) fetch(layer);
    if (layer > 0) m_barrier.wait();
    const int tileRows = part == Part::Expand ? m_block.groups.count : m_block.headTiles.count;
    if (tileRows > 0 && !isSingle()) measure(layer);
    product(part, layer, tileRows, a.size.model);
    if (part == Part::Expand) mix(layer);
    if (layer + 1 < steps) m_barrier.arrive();
  }
}

/// What a layer does with its block's channels.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::mix(int layer) {
  keepHistory(layer);
  convolve(layer);
  project(layer);
  m_barrier.arrive();
  m_barrier.wait();
  computeDelta(layer);
  scan(layer);
  contract();
}

// ---- products

/// Rows of `tileRows` tile rows, in panels. A warp takes every eighth column tile; the warps' sums
/// are added in their order. Operands must be free when it begins.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::product(Part part, int layer, int tileRows, int columns) {
  const int columnTiles = (columns + 15) / 16;
  const int staged = m_operandBytes / Operands<NT>::kTileStride / kComputeWarps * kComputeWarps;
#pragma unroll 1
  for (int panel = 0; panel < tileRows; panel += kPanel) {
    const int height = min(kPanel, tileRows - panel);
    Sums sums = {};
#pragma unroll 1
    for (int first = 0; first < columnTiles; first += staged) {
      const int count = min(staged, columnTiles - first);
      if (panel > 0 || first > 0) meet();
      stage(layer, first, count);
      meet();
      if (planes() > 1)
        multiplyPlanes(first, count, height, sums);
      else if (height == 1)
        multiplyStaged<1>(first, count, sums);
      else if (height == 2)
        multiplyStaged<2>(first, count, sums);
      else if (height == 3)
        multiplyStaged<3>(first, count, sums);
      else
        multiplyStaged<4>(first, count, sums);
    }
    m_cursor += columnTiles * planes() * height;
    m_reader.hold(m_cursor - 1, m_cursor - 1);
    if (!hasOwnSums(NT) || panel > 0) meet();
    reduce(part, panel * 16, height, sums);
  }
}

/// This warp's part of the staged columns, in panels of HEIGHT tile rows. Tiles are taken in
/// batches, all loads before all products: one warp has to hide its own latencies.
template <int NT, int SPL, bool ONE>
template <int HEIGHT>
__device__ void Chunk<NT, SPL, ONE>::multiplyStaged(int first, int count, Sums& sums) {
  constexpr int kBatch = NT <= 2 ? 4 : 2;  // spans up to kBatch + 1 stages
  constexpr int kStep = kComputeWarps * HEIGHT;
  const int batch = a.slots > kBatch ? kBatch : 1;
  int c = m_warp;
#pragma unroll 1
  for (; batch > 1 && c + (kBatch - 1) * kComputeWarps < count; c += kBatch * kComputeWarps) {
    const int tile = m_cursor + (first + c) * HEIGHT;
    m_reader.hold(tile, tile + (kBatch - 1) * kStep + HEIGHT - 1);
    uint2 b[kBatch][NT];
    uint4 weights[kBatch][HEIGHT];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
#pragma unroll
      for (int j = 0; j < NT; ++j) b[i][j] = m_operands.load(c + i * kComputeWarps, j);
#pragma unroll
      for (int m = 0; m < HEIGHT; ++m) weights[i][m] = m_reader.tile(tile + i * kStep + m);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
#pragma unroll
      for (int m = 0; m < HEIGHT; ++m) multiplyRow(sums, m, weights[i][m], b[i]);
  }
#pragma unroll 1
  for (; c < count; c += kComputeWarps) {
    const int tile = m_cursor + (first + c) * HEIGHT;
    m_reader.hold(tile, tile + HEIGHT - 1);
    uint2 b[NT];
#pragma unroll
    for (int j = 0; j < NT; ++j) b[j] = m_operands.load(c, j);
#pragma unroll
    for (int m = 0; m < HEIGHT; ++m) multiplyRow(sums, m, m_reader.tile(tile + m), b);
  }
}

/// Likewise for weights in several planes, with third parts of the operands.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::multiplyPlanes(int first, int count, int height, Sums& sums) {
#pragma unroll 1
  for (int c = m_warp; c < count; c += kComputeWarps) {
    const int tile = m_cursor + (first + c) * planes() * height;
    m_reader.hold(tile, tile + planes() * height - 1);
#pragma unroll 1
    for (int term = 0; term <= planes(); ++term) {
      const bool least = term == planes();  // third parts take the high parts of the weights
      uint2 b[NT];
#pragma unroll
      for (int j = 0; j < NT; ++j)
        b[j] = least ? m_operands.loadLeast(c, j) : m_operands.load(c, j);
#pragma unroll
      for (int m = 0; m < kPanel; ++m)
        if (m < height)
          multiplyRow(sums, m, m_reader.tile(tile + (least ? 0 : term * height) + m), b);
    }
  }
}

template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::multiplyRow(Sums& sums, int m, const uint4& weights,
                                                 const uint2 (&b)[NT]) const {
#pragma unroll
  for (int j = 0; j < NT; ++j) multiply(sums[m][j], weights, b[j]);
}

/// Adds the warps' sums.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::reduce(Part part, int firstRow, int tileRows,
                                            const Sums& sums) {
  const int perWarp = tileRows * NT * 64;
#pragma unroll
  for (int m = 0; m < kPanel; ++m) {
    if (m >= tileRows) break;
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      float* at = m_sums + m_warp * perWarp + (m * NT + j) * 64 + m_lane;
      at[0] = sums[m][j][0] + sums[m][j][1];
      at[32] = sums[m][j][2] + sums[m][j][3];
    }
  }
  meet();
#pragma unroll 1
  for (int i = threadIdx.x; i < perWarp; i += kComputeThreads) {
    const int token = i / 64 % NT * 4 + i % 4;
    if (token >= tokens()) continue;
    float sum = m_sums[i];
#pragma unroll
    for (int w = 1; w < kComputeWarps; ++w) sum += m_sums[w * perWarp + i];
    const int row = firstRow + i / (64 * NT) * 16 + i % 64 / 32 * 8 + i % 32 / 4;
    output(part, row, token, sum);
  }
}

/// At most one tile row a warp: column tiles in batches, all loads before all products. Returns how
/// many it took.
template <int NT, int SPL, bool ONE>
__device__ int Chunk<NT, SPL, ONE>::multiplyFewRows(int tileRows, int columnTiles, Sums& sums) {
  constexpr int kBatch = NT <= 2 ? 4 : 1;
  int c = 0;
#pragma unroll 1
  for (; c + kBatch <= columnTiles; c += kBatch) {
    const int tile = m_cursor + c * tileRows;
    m_reader.hold(tile, tile + kBatch * tileRows - 1);
    if (m_warp >= tileRows) continue;
    uint2 b[kBatch][NT];
    uint4 weights[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      weights[i] = m_reader.tile(tile + i * tileRows + m_warp);
#pragma unroll
      for (int j = 0; j < NT; ++j) b[i][j] = m_operands.load(c + i, j);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) multiplyRow(sums, 0, weights[i], b[i]);
  }
  return c;
}

template <int NT, int SPL, bool ONE>
template <class Output>
__device__ void Chunk<NT, SPL, ONE>::productByRows(int tileRows, int columns, Output output) {
  if (tileRows == 0) return;
  const int columnTiles = (columns + 15) / 16;
  Sums sums = {};
  int c = 0;
  if (planes() == 1 && tileRows <= kComputeWarps) c = multiplyFewRows(tileRows, columnTiles, sums);
#pragma unroll 1
  for (; c < columnTiles; ++c) {
#pragma unroll 1
    for (int term = 0; term < (planes() == 1 ? 1 : planes() + 1); ++term) {
      const bool least = term == planes();  // third parts take the high parts of the weights
      const int tile = m_cursor + (c * planes() + (least ? 0 : term)) * tileRows;
      if (!least) m_reader.hold(m_cursor + c * planes() * tileRows, tile + tileRows - 1);
      uint2 b[NT];
#pragma unroll
      for (int j = 0; j < NT; ++j)
        b[j] = least ? m_operands.loadLeast(c, j) : m_operands.load(c, j);
#pragma unroll
      for (int m = 0; m < kPanel; ++m) {
        const int row = m * kComputeWarps + m_warp;
        if (row < tileRows) multiplyRow(sums, m, m_reader.tile(tile + row), b);
      }
    }
  }
  m_cursor += columnTiles * planes() * tileRows;
  m_reader.hold(m_cursor - 1, m_cursor - 1);
#pragma unroll
  for (int m = 0; m < kPanel; ++m) {
    const int row = (m * kComputeWarps + m_warp) * 16 + m_lane / 4;
    if (row >= tileRows * 16) break;
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      const int token = 4 * j + m_lane % 4;
      if (token >= tokens()) continue;
      output(row, token, sums[m][j][0] + sums[m][j][1]);
      output(row + 8, token, sums[m][j][2] + sums[m][j][3]);
    }
  }
}

/// Puts column tiles of all tokens in place: (x - mean) ⊙ w.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::stage(int layer, int firstTile, int columnTiles) {
  if (isSingle()) return stageSingle(layer, columnTiles);
  const int columns = columnTiles * 16;
#pragma unroll 4
  for (int i = threadIdx.x; i < columns / 4 * tokens(); i += kComputeThreads) {
    const int token = tokens() == 1 ? 0 : i / (columns / 4);
    const int k = (i - token * (columns / 4)) * 4;
    const float4 x = residualAt(layer, token, firstTile * 16 + k);
    const float4 w = __ldg(reinterpret_cast<const float4*>(m_parameters + firstTile * 16 + k));
    const float mean = a.layerNorm ? m_means[token] : 0.0f;
    m_operands.store(token, k, (x.x - mean) * w.x, (x.y - mean) * w.y);
    m_operands.store(token, k + 2, (x.z - mean) * w.z, (x.w - mean) * w.w);
  }
}

template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::output(Part part, int row, int token, float sum) {
  if (part == Part::Expand) {
    const int own = row / 16 * 8 + row % 8;
    const bool isGate = row % 16 >= 8;
    *shared(isGate ? m_z : m_u, token, own) =
        fmaf(sum, scaleOf(token), record(isGate ? kInBiasZ : kInBiasU)[own]);
  } else {
    const std::uint32_t id = m_block.headTiles.begin * 16 + row;
    if (id < a.size.vocabulary)
      a.logits[static_cast<std::size_t>(token) * a.size.vocabulary + id] =
          fmaf(sum, scaleOf(token), a.headBias ? __ldg(a.headBias + id) : 0.0f);
  }
}

// ---- norms
//
// norm(x) = (x - mean) ⊙ w · scale + b, where RMSNorm has neither mean nor b. The scale is one
// factor for all of a token's values and is left until after the product; W b is added to what the
// product's output has for a bias when the weights are loaded.

/// Loads the norm's weights for a single token.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::holdNorm(const float* weight) {
  if (!isSingle()) return;
#pragma unroll
  for (int i = 0; i < kHeldQuads; ++i) {
    const int k = threadIdx.x * 4 + i * kQuadColumns;
    if (k < static_cast<int>(a.layout.paddedModel))
      m_norm[i] = __ldg(reinterpret_cast<const float4*>(weight + k));
  }
}

/// Keeps this warp's part of a sum over a token's values.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::keepMoment(int token, float sum) {
  sum = sumOfWarp(sum);
  if (m_lane == 0) m_moments[token * kComputeWarps + m_warp] = sum;
}

/// Sums over every token's values, by all blocks alike: of squares, and for LayerNorm of what is
/// left when the mean is taken away. A thread adds the same values of a token in every chunk.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::measure(int layer) {
  const int model = a.size.model;
#pragma unroll 1
  for (int pass = a.layerNorm ? 0 : 1; pass < 2; ++pass) {
#pragma unroll 1
    for (int token = 0; token < tokens(); ++token) {
      const float mean = a.layerNorm && pass == 1 ? m_means[token] : 0.0f;
      float sum = 0;
#pragma unroll 1
      for (int k = threadIdx.x * 4; k < model; k += kQuadColumns) {
        const float4 v = residualAt(layer, token, k);
        const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float centred = k + i < model ? values[i] - mean : 0.0f;
          sum = pass == 0 ? sum + centred : fmaf(centred, centred, sum);
        }
      }
      keepMoment(token, sum);
    }
    meet();
    if (pass == 1) return;
    for (int token = threadIdx.x; token < tokens(); token += kComputeThreads) {
      float sum = 0;
      for (int w = 0; w < kComputeWarps; ++w) sum += m_moments[token * kComputeWarps + w];
      m_means[token] = sum / static_cast<float>(model);
    }
    meet();
  }
}

/// 1 / sqrt(variance + ε).
template <int NT, int SPL, bool ONE>
__device__ float Chunk<NT, SPL, ONE>::scaleOf(int token) const {
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kComputeWarps; ++w) sum += m_moments[token * kComputeWarps + w];
  return rsqrtf(sum / static_cast<float>(a.size.model) + a.epsilon);
}

/// A single token's values, and the sum of their squares, in one go.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::stageSingle(int layer, int columnTiles) {
  const int columns = columnTiles * 16;
  float4 x[kHeldQuads];
#pragma unroll
  for (int i = 0; i < kHeldQuads; ++i) {
    const int k = threadIdx.x * 4 + i * kQuadColumns;
    if (k < columns) x[i] = residualAt(layer, 0, k);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kHeldQuads; ++i) {
    const int k = threadIdx.x * 4 + i * kQuadColumns;
    if (k >= columns) break;
    m_operands.store(0, k, x[i].x * m_norm[i].x, x[i].y * m_norm[i].y);
    m_operands.store(0, k + 2, x[i].z * m_norm[i].z, x[i].w * m_norm[i].w);
    sum = fmaf(x[i].x, x[i].x, sum);  // values behind the last are zero and add nothing
    sum = fmaf(x[i].y, x[i].y, sum);
    sum = fmaf(x[i].z, x[i].z, sum);
    sum = fmaf(x[i].w, x[i].w, sum);
  }
  keepMoment(0, sum);
}

// ---- stages of a layer

/// Starts what can be loaded before the layer's input is known, and takes the channels' record.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::fetch(int layer) {
  const int inner = a.layout.paddedInner;
  const int states = a.size.states;
  holdNorm(m_parameters);

  const float* state = a.stateIn + stateOffset(layer);
  const int channel = threadIdx.x / kScanLanes;
  const int global = m_channelBegin + channel;
  const float* from = state + global / 16 * 16 * states + global % 16;
#pragma unroll
  for (int i = 0; i < SPL; ++i) {
    const int n = threadIdx.x % kScanLanes * SPL + i;
    m_fetchedState[i] = channel < m_own && n < states ? __ldcg(from + n * 16) : 0.0f;
  }
  if (threadIdx.x < (a.size.taps - 1) * m_channels) {
    const int position = m_historyPosition;
    const int own = threadIdx.x - position * m_channels;
    m_fetchedHistory =
        own < m_own ? __ldcg(state + (states + position) * inner + m_channelBegin + own) : 0.0f;
  }

  const int tiles = m_block.recordTiles;
  if (tiles > 0) {
    const int size = (kConvWeights + a.size.taps + states) * m_channels;
    m_reader.hold(m_cursor, m_cursor + tiles - 1);
    for (int t = m_warp; t < tiles; t += kComputeWarps) {
      const int at = t * 128 + m_lane * 4;
      if (at < size) *reinterpret_cast<uint4*>(m_record + at) = m_reader.tile(m_cursor + t);
    }
    m_cursor += tiles;
  }
  if (layer == 0) meet();  // later layers meet at the barrier
}

template <int NT, int SPL, bool ONE>
__device__ float4 Chunk<NT, SPL, ONE>::embedded(int token, int k) const {
  const std::size_t row = static_cast<std::size_t>(a.input[token]);
  float4 sum = {};
#pragma unroll 1
  for (std::uint32_t plane = 0; plane < static_cast<std::uint32_t>(planes()); ++plane) {
    const std::uint16_t* values =
        a.embedding + (plane * a.size.vocabulary + row) * a.layout.paddedModel;
    const uint2 v = __ldg(reinterpret_cast<const uint2*>(values + k));
    sum.x += __uint_as_float(v.x << 16);
    sum.y += __uint_as_float(v.x & 0xffff0000u);
    sum.z += __uint_as_float(v.y << 16);
    sum.w += __uint_as_float(v.y & 0xffff0000u);
  }
  return sum;
}

/// x before the layer. The embedding is at every block's hands; later values come from the others.
template <int NT, int SPL, bool ONE>
__device__ float4 Chunk<NT, SPL, ONE>::residualAt(int layer, int token, int k) const {
  if (layer == 0) return embedded(token, k);
  const auto* at =
      reinterpret_cast<const ulonglong2*>(a.residual + token * a.layout.paddedModel + k);
  const ulonglong2 first = __ldcg(at);
  const ulonglong2 second = __ldcg(at + 1);
  return {fromFixed(first.x), fromFixed(first.y), fromFixed(second.x), fromFixed(second.y)};
}

/// The embeddings, where layers are going to add to them. Every layer meets before it adds.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::startResidual() {
  const int quads = a.layout.paddedModel / 4;
  for (int i = blockIdx.x * kComputeThreads + threadIdx.x; i < quads * tokens();
       i += gridDim.x * kComputeThreads) {
    const int token = i / quads;
    const int k = (i - token * quads) * 4;
    const float4 x = embedded(token, k);
    auto* at = reinterpret_cast<ulonglong2*>(a.residual + token * a.layout.paddedModel + k);
    __stcg(at, make_ulonglong2(toFixed(x.x), toFixed(x.y)));
    __stcg(at + 1, make_ulonglong2(toFixed(x.z), toFixed(x.w)));
  }
}

/// The convolution's memory, into shared memory.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::keepHistory(int layer) {
  const int remembered = (a.size.taps - 1) * m_channels;
  if (threadIdx.x < remembered) m_history[threadIdx.x] = m_fetchedHistory;
  const float* state = a.stateIn + stateOffset(layer) + a.size.states * a.layout.paddedInner;
  for (int i = threadIdx.x + kComputeThreads; i < remembered; i += kComputeThreads) {
    const int own = i % m_channels;
    m_history[i] =
        own < m_own ? __ldcg(state + i / m_channels * a.layout.paddedInner + m_channelBegin + own)
                    : 0.0f;
  }
  meet();
}

/// u' = SiLU(conv(u)), as the operands of x_proj; moves the convolution's memory.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::convolve(int layer) {
  const int taps = a.size.taps;
  const int memory = taps - 1;
  const auto inputAt = [&](int channel, int position) {  // counted from the oldest remembered
    return position < memory ? m_history[position * m_channels + channel]
                             : *shared(m_u, position - memory, channel);
  };
  const auto convolved = [&](int token, int channel) {
    if (channel >= m_own) return 0.0f;
    float sum = record(kConvBias)[channel];
#pragma unroll 4
    for (int tap = 0; tap < taps; ++tap)
      sum = fmaf(record(kConvWeights + tap)[channel], inputAt(channel, token + tap), sum);
    return silu(sum);
  };
#pragma unroll 1
  for (int token = m_warp; token < tokens(); token += kComputeWarps) {
#pragma unroll 1
    for (int channel = 2 * m_lane; channel < m_channels; channel += 64) {
      const float first = convolved(token, channel);
      const float second = convolved(token, channel + 1);
      *shared(m_convolved, token, channel) = first;
      *shared(m_convolved, token, channel + 1) = second;
      m_operands.store(token, channel, first, second);
    }
  }
  float* to = a.stateOut + stateOffset(layer) + a.size.states * a.layout.paddedInner;
#pragma unroll 1
  for (int position = m_warp; position < memory; position += kComputeWarps)
    for (int channel = m_lane; channel < m_own; channel += 32)
      to[position * a.layout.paddedInner + m_channelBegin + channel] =
          inputAt(channel, tokens() + position);
  meet();
}

/// This block's part of [δ, B, C] = W_x u', added to those of the others.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::project(int layer) {
  if (m_own == 0) return;
  unsigned long long* sums = projected(layer);
  const int first = static_cast<int>(m_block.firstProjected) * 16;
  productByRows(m_projected / 16, m_channels, [&](int row, int token, float sum) {
    row += first;
    if (row >= m_projected) row -= m_projected;
    atomicAdd(sums + token * m_projected + row, toFixed(sum));
  });
}

/// Δ = softplus(W_dt δ + b_dt).
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::computeDelta(int layer) {
  const int rankRows = static_cast<int>(tilesFor(a.size.dtRank) * kTileRows);
  const int others = m_projected - rankRows;
  const unsigned long long* sums = projected(layer);
#pragma unroll 1
  for (int i = threadIdx.x; i < tokens() * m_projected / 2; i += kComputeThreads) {
    const int token = tokens() == 1 ? 0 : 2 * i / m_projected;
    const int row = 2 * i - token * m_projected;
    const ulonglong2 pair =
        __ldcg(reinterpret_cast<const ulonglong2*>(sums + token * m_projected + row));
    if (row < rankRows) {
      m_operands.store(token, row, fromFixed(pair.x), fromFixed(pair.y));
    } else {
      m_bc[token * others + row - rankRows] = fromFixed(pair.x);
      m_bc[token * others + row - rankRows + 1] = fromFixed(pair.y);
    }
  }
  meet();
  productByRows(m_channels / 16, rankRows, [&](int row, int token, float sum) {
    *shared(m_delta, token, row) = softplus(sum + record(kDtBias)[row]);
  });
  // All blocks are done with the sums of two layers ago, which the next layer's are to replace.
  unsigned long long* next = projected(layer + 1);
  const int size = a.capacity * m_projected;
#pragma unroll 1
  for (int i = blockIdx.x * kComputeThreads + threadIdx.x; i < size;
       i += gridDim.x * kComputeThreads)
    __stcg(next + i, 0ull);
  meet();
}

/// s = Ā ⊙ s + (Δ ⊙ u') ⊗ B, y = s C + D ⊙ u', gated with SiLU(z), as the operands of out_proj.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::scan(int layer) {
  const int inner = a.layout.paddedInner;
  const int states = a.size.states;
  const int stateStride = 2 * paddedStates(a.size);
  const int q = threadIdx.x % kScanLanes;
#pragma unroll 1
  for (int first = 0; first < m_channels; first += kScanChannels) {
    const int channel = first + threadIdx.x / kScanLanes;
    const int global = m_channelBegin + channel;
    const bool active = channel < m_own;
    const std::size_t place = stateOffset(layer) + global / 16 * 16 * states + global % 16;
    float s[SPL];
    float rate[SPL];
#pragma unroll
    for (int i = 0; i < SPL; ++i) {
      const int n = q * SPL + i;
      const bool real = active && n < states;
      if (first == 0)
        s[i] = m_fetchedState[i];
      else
        s[i] = real ? __ldcg(a.stateIn + place + n * 16) : 0.0f;
      rate[i] = real ? record(kConvWeights + a.size.taps + n)[channel] : 0.0f;
    }
    const float skip = active ? record(kSkip)[channel] : 0.0f;
    const int slot = active ? channel : 0;
#pragma unroll 1
    for (int token = 0; token < tokens(); ++token) {
      const float delta = *shared(m_delta, token, slot);
      const float u = *shared(m_convolved, token, slot);
      const float gained = delta * u;
      const float* b = m_bc + token * stateStride;
      const float* c = b + stateStride / 2;
      float y = 0;
      float squares = 0;
      float decays = 0;
#pragma unroll
      for (int i = 0; i < SPL; ++i) {
        const int n = q * SPL + i;
        if (n >= states) break;
        const float kept = power2(delta * rate[i]);
        s[i] = fmaf(kept, s[i], gained * b[n]);
        y = fmaf(s[i], c[n], y);
        squares = fmaf(s[i], s[i], squares);
        decays += kept;
      }
      for (int offset = 1; offset < kScanLanes; offset *= 2) {
        y += __shfl_xor_sync(~0u, y, offset);
        if (a.taps) {
          squares += __shfl_xor_sync(~0u, squares, offset);
          decays += __shfl_xor_sync(~0u, decays, offset);
        }
      }
      const float gated = active ? fmaf(skip, u, y) * silu(*shared(m_z, token, slot)) : 0.0f;
      const float next = __shfl_down_sync(~0u, gated, kScanLanes);
      if (q != 0) continue;
      if (channel % 2 == 0 && channel < m_channels) m_operands.store(token, channel, gated, next);
      if (!active) continue;
      const std::size_t row = static_cast<std::size_t>(layer) * a.capacity + token;
      if (a.traceInput) {
        a.traceInput[row * inner + global] = *shared(m_u, token, channel);
        a.traceConvolved[row * inner + global] = u;
        a.traceDelta[row * inner + global] = delta;
      }
      if (a.taps) {
        float* tap = a.taps + row * kTapKinds * inner + global;
        tap[0] = delta;
        tap[inner] = sqrtf(squares);
        tap[2 * inner] = decays / static_cast<float>(states);
      }
    }
#pragma unroll
    for (int i = 0; i < SPL; ++i) {
      const int n = q * SPL + i;
      if (active && n < states) a.stateOut[place + n * 16] = s[i];
    }
  }
  if (a.traceB && blockIdx.x == 0) {
    for (int i = threadIdx.x; i < tokens() * states; i += kComputeThreads) {
      const int token = i / states;
      a.traceB[(static_cast<std::size_t>(layer) * a.capacity + token) * states + i % states] =
          m_bc[token * stateStride + i % states];
    }
  }
}

/// Adds W_out times this block's gated channels to the residual.
template <int NT, int SPL, bool ONE>
__device__ void Chunk<NT, SPL, ONE>::contract() {
  meet();
  const auto add = [&](int row, int token, float sum) {
    if (row < static_cast<int>(a.size.model))
      atomicAdd(a.residual + token * a.layout.paddedModel + row, toFixed(sum));
  };
  constexpr int kTall = static_cast<int>(kTallPanelTiles);
  const int tileRows = m_own > 0 ? static_cast<int>(tilesFor(a.size.model)) : 0;
  const int first = static_cast<int>(m_block.firstOut) * 16;
  const int rows = static_cast<int>(a.layout.paddedModel);
#pragma unroll 1
  for (int panel = 0; panel < tileRows; panel += kTall) {
    productByRows(min(kTall, tileRows - panel), m_channels, [&](int row, int token, float sum) {
      row += first + panel * 16;
      add(row < rows ? row : row - rows, token, sum);
    });
  }
  if (!a.outBias) return;
  const int all = static_cast<int>(a.size.model) * tokens();
  for (int i = blockIdx.x * kComputeThreads + threadIdx.x; i < all;
       i += gridDim.x * kComputeThreads) {
    const int token = i / static_cast<int>(a.size.model);
    const int row = i - token * static_cast<int>(a.size.model);
    add(row, token, __ldg(m_parameters + a.layout.outBias + row));
  }
}

template <int NT, int SPL, bool ONE>
__global__ void __launch_bounds__(kThreads, 1)
    chunkKernel(const __grid_constant__ ChunkArguments arguments) {
  extern __shared__ __align__(128) char memory[];
  auto* ring = reinterpret_cast<uint4*>(memory);
  auto* sync = reinterpret_cast<StageSync*>(memory + arguments.slots * kStageBytes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < arguments.slots; ++i) initStage(sync[i]);
    publishStages();
  }
  __syncthreads();
  const BlockPlan& block = arguments.blocks[blockIdx.x];
  if (threadIdx.x >= kComputeThreads) {
    const std::uint32_t tiles =
        arguments.head ? block.tiles : arguments.size.layers * block.layerTiles;
    fillRing(ring, sync, arguments.slotBits, arguments.tiles + block.firstTile * 32,
             (tiles + kStageTiles - 1) / kStageTiles);
    return;
  }
  Chunk<NT, SPL, ONE>(arguments, memory).run();
}

// ---- launching

template <int NT, bool ONE = false>
const void* kernelFor(const Dimensions& size) {
  return size.states <= 2 * kScanLanes
             ? reinterpret_cast<const void*>(&chunkKernel<NT, 2, ONE>)
             : reinterpret_cast<const void*>(&chunkKernel<NT, kMostStates / kScanLanes, ONE>);
}

const void* kernelFor(const Dimensions& size, std::uint32_t tokens) {
  switch (tokens) {
    case 1: return size.planes > 1 ? kernelFor<1>(size) : kernelFor<1, true>(size);
    case 4: return kernelFor<1>(size);
    case 8: return kernelFor<2>(size);
    case 16: return kernelFor<4>(size);
    default: return kernelFor<8>(size);
  }
}

/// Shared memory for a kernel of up to `tokens` tokens.
LaunchShape shapeFor(const DeviceWeights& weights, std::uint32_t tokens) {
  constexpr int kMostOperandBytes = 64 << 10;
  int device = 0;
  int available = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "cudaDeviceGetAttribute");
  const Dimensions& size = weights.plan.dimensions();
  const int channels = static_cast<int>(weights.plan.mostChannels());
  const int blocks = static_cast<int>((tokens + 3) / 4);
  const int tileStride = blocks * 256 + 32;
  // What x_proj and dt_proj need in one piece, and the warps' sums where they have no other place.
  const int parts = size.planes > 1 ? 2 : 1;  // sets of operands
  const int leastBytes =
      parts *
      std::max({hasOwnSums(blocks) ? 0 : sumBytes(blocks), channels / 16 * tileStride,
                static_cast<int>(tilesFor(size.dtRank)) * tileStride, kComputeWarps * tileStride});
  LaunchShape shape;
  shape.tokens = tokens;
  shape.operandBytes =
      (std::max(leastBytes, std::min(kMostOperandBytes, available / 3)) + 127) / 128 * 128;
  const int scratch = scratchBytes(size, shape.operandBytes, channels, 4 * blocks);
  constexpr int kSlotBytes = kStageBytes + static_cast<int>(sizeof(StageSync));
  const int fitting = std::max(0, (available - scratch) / kSlotBytes);
  shape.slots = static_cast<int>(std::bit_floor(static_cast<unsigned>(fitting)));
  // The tiles of a column of a tall panel, in all planes, have to be there together.
  const std::uint32_t tallest =
      std::min(kTallPanelTiles, std::max(tilesFor(size.model), projectedRows(size) / kTileRows));
  const auto least = static_cast<int>((size.planes * tallest + kStageTiles - 2) / kStageTiles + 1);
  if (shape.slots < least) shape.slots = 0;
  shape.sharedBytes = shape.slots * kSlotBytes + scratch;
  shape.kernel = kernelFor(size, tokens);
  return shape;
}

}  // namespace

Workspace::Workspace(const DeviceWeights& weights, std::uint32_t tokenCount)
    : tokens(tokenCount),
      residual(static_cast<std::size_t>(tokens) * weights.layout.paddedModel),
      projected(std::size_t{3} * tokens * projectedRows(weights.plan.dimensions())),
      logits(static_cast<std::size_t>(tokens) * weights.plan.dimensions().vocabulary),
      arrivals(1) {
  const Dimensions& d = weights.plan.dimensions();
  const std::size_t trace =
      static_cast<std::size_t>(d.layers) * tokens * weights.layout.paddedInner;
  traceInput = DeviceArray<float>(trace);
  traceConvolved = DeviceArray<float>(trace);
  traceDelta = DeviceArray<float>(trace);
  traceB = DeviceArray<float>(static_cast<std::size_t>(d.layers) * tokens * d.states);
  for (const std::uint32_t size : {1u, 4u, 8u, 16u, 32u}) {
    if (size > tokens) break;
    shapes.push_back(shapeFor(weights, size));
    check(cudaFuncSetAttribute(shapes.back().kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               shapes.back().sharedBytes),
          "cudaFuncSetAttribute");
  }
}

std::uint32_t mostTokens(const DeviceWeights& weights) {
  const Dimensions& d = weights.plan.dimensions();
  const std::uint32_t rowTiles = std::max(projectedRows(d), weights.plan.mostChannels()) / 16;
  if (d.states > kMostStates || d.taps > kMostTaps || rowTiles > kPanelTiles * kComputeWarps)
    return 0;
  for (std::uint32_t tokens = kMostTokens; tokens >= 4; tokens /= 2)
    if (shapeFor(weights, tokens).slots > 0) return tokens;
  return 0;
}

void runChunk(const DeviceWeights& weights, Workspace& workspace, const ChunkRun& run,
              cudaStream_t stream) {
  const auto fits = [&](const LaunchShape& shape) { return shape.tokens >= run.tokens.size(); };
  const LaunchShape& shape = *std::ranges::find_if(workspace.shapes, fits);
  const auto grid = static_cast<std::uint32_t>(weights.blocks.size());
  const Dimensions& size = weights.plan.dimensions();
  ChunkArguments arguments{
      .size = size,
      .layout = weights.layout,
      .layerNorm = weights.layerNorm,
      .epsilon = weights.epsilon,
      .tiles = weights.tiles.data(),
      .blocks = weights.blocks.data(),
      .parameters = weights.parameters.data(),
      .embedding = weights.embedding.data(),
      .residual = reinterpret_cast<unsigned long long*>(workspace.residual.data()),
      .projected = reinterpret_cast<unsigned long long*>(workspace.projected.data()),
      .logits = workspace.logits.data(),
      .traceInput = run.trace ? workspace.traceInput.data() : nullptr,
      .traceConvolved = workspace.traceConvolved.data(),
      .traceDelta = workspace.traceDelta.data(),
      .traceB = run.trace ? workspace.traceB.data() : nullptr,
      .taps = run.taps ? workspace.taps.data() : nullptr,
      .arrivals = workspace.arrivals.data(),
      .arrived = workspace.awaited,
      .turn = workspace.turn,
      .capacity = workspace.tokens,
      .tokens = static_cast<std::uint32_t>(run.tokens.size()),
      .stateIn = run.stateIn,
      .stateOut = run.stateOut,
      .head = run.logits,
      .slots = shape.slots,
      .slotBits = static_cast<std::uint32_t>(std::countr_zero(static_cast<unsigned>(shape.slots))),
      .operandBytes = shape.operandBytes,
      .channels = static_cast<int>(weights.plan.mostChannels()),
      .outBias = weights.outBias};
  std::ranges::copy(run.tokens, arguments.input);
  void* parameters[] = {&arguments};
  check(cudaLaunchCooperativeKernel(shape.kernel, dim3(grid), dim3(kThreads), parameters,
                                    static_cast<std::size_t>(shape.sharedBytes), stream),
        "launching a chunk");
  constexpr std::uint32_t kBarriersPerLayer = 2;
  const std::uint32_t barriers = kBarriersPerLayer * size.layers - (run.logits ? 0 : 1);
  workspace.awaited += barriers * grid;
  workspace.turn = (workspace.turn + size.layers) % 3;
}

}  // namespace mb::cuda
