// One block's work on a single token of a common shape: the same sums as Chunk's, in the same
// order, arranged for latency. Blocks do not meet; each value is waited for by those who need it
// (see packets.cuh), and warps repeat small work rather than share it.
#pragma once

#include <cstdint>

#include "kernels/cuda/chunk_arguments.cuh"
#include "kernels/cuda/draw.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/packets.cuh"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/scan_sums.cuh"
#include "kernels/cuda/tiles.cuh"

namespace mb::cuda {

inline constexpr int kStepStates = 16;                        ///< n
inline constexpr int kStepTaps = 4;                           ///< k
inline constexpr int kStepSlots = (128 << 10) / kStageBytes;  ///< least stages of the ring
inline constexpr int kStepRankTiles = 12;
inline constexpr int kStepMostPairs = 2;  ///< of groups of channels, of one block

/// Whether a model is of the shape that Step takes.
inline bool isForStep(const DeviceWeights& weights) {
  const Dimensions& d = weights.plan.dimensions();
  return d.planes == 1 && d.states == kStepStates && d.taps == kStepTaps && d.model % 16 == 0 &&
         d.inner % 16 == 0 && tilesFor(d.dtRank) <= kStepRankTiles && !weights.layerNorm &&
         !weights.outBias && weights.plan.mostChannels() <= kStepMostPairs * 16 &&
         weights.plan.mostOutRows() <= kPanelTiles * kTileRows;
}

/// PAIRS: most pairs of groups of channels of one block, 16 channels each.
template <int PAIRS>
class Step {
 public:
  __device__ Step(const ChunkArguments& arguments, char* shared);
  __device__ void run();

 private:
  static constexpr int kStates = kStepStates;
  static constexpr int kTaps = kStepTaps;
  static constexpr int kFields = kConvWeights + kTaps + kStates;
  static constexpr int kPanelRows = kPanel * 16;
  static constexpr int kSumStride = kPanelRows + 4;  // the squares lie behind the rows
  static constexpr int kSquares = 8;                 // tiles whose squares a warp adds at a time
  using Sums = float[kPanel][4];

  __device__ void product(const uint4* packets, int columnTiles, int tileRows, bool withSquares);
  template <int HEIGHT>
  __device__ void multiplyGathered(const uint4* packets, int columnTiles, bool withSquares,
                                   Sums& sums);
  __device__ float total(int row) const;
  __device__ uint2 operandOf(const uint4& packet, int tile) const;

  __device__ void read(std::int32_t token);
  __device__ int draw();
  __device__ int drawFromAll(const uint4* logits);
  __device__ int takeBest(const uint4* bests);
  __device__ void fetch(int layer);
  __device__ void convolve(int layer);
  __device__ void project();
  __device__ void addPartials();
  __device__ void scan(int layer);
  __device__ void contract();
  __device__ void publish();
  __device__ void writeLogits();
  __device__ void sendBest(const Best& best);

  __device__ bool drawsNext() const { return m_pass + 1 < static_cast<int>(a.passes); }
  __device__ const uint4* inputPackets() const {
    return a.packets + m_packets.input + blockIdx.x % kInputCopies * m_packets.inputSize;
  }

  /// Row of the channels' record, see RecordField.
  __device__ const float* record(int field) const { return m_record + field * m_channels; }

  const ChunkArguments& a;
  const BlockPlan m_block;
  const PacketLayout m_packets;
  int m_warp;
  int m_lane;
  int m_channelBegin;
  int m_own;       // channels of this block
  int m_channels;  // padded to 16
  int m_modelTiles;
  int m_cursor = 0;  // next tile of the stretch
  std::uint32_t m_sequence;

  float* m_bothSums;     // of the warps: [2 in turn][warps][rows of a panel]
  float* m_bothRecords;  // [2 in turn]
  float* m_sums;
  float* m_record;
  int m_turn = 0;
  int m_recordTurn = 0;
  DrawMemory* m_drawMemory;
  int m_pass = 0;  // token of this launch
  const float* m_stateIn;
  float* m_stateOut = nullptr;
  TileReader m_reader;

  float m_squares = 0;                // of what this warp has gathered
  float m_scale = 0;                  // of the norm
  float m_residual = 0;               // in warp t, lane r: row r of the block's tile t of x
  float m_normWeight = 0;             // of the next norm, likewise
  float m_history[PAIRS][kTaps - 1];  // of the lane's channels, see convolve()
  float m_mixed[PAIRS];               // u', or SiLU(z)
  float m_state[2];
};

/// Shared memory besides the ring and its barriers.
__host__ __device__ inline int stepScratchBytes(const Dimensions& size, int channels) {
  return static_cast<int>(sizeof(DrawMemory)) +
         static_cast<int>(sizeof(float)) *
             (2 * kComputeWarps * (kPanel * 16 + 4) + 2 * recordFields(size) * channels);
}

template <int PAIRS>
__device__ Step<PAIRS>::Step(const ChunkArguments& arguments, char* memory)
    : a(arguments),
      m_block(arguments.blocks[blockIdx.x]),
      m_packets(arguments.size, gridDim.x),
      m_warp(threadIdx.x / 32),
      m_lane(threadIdx.x % 32),
      m_channelBegin(m_block.groups.begin * kGroupChannels),
      m_own(m_block.groups.count * kGroupChannels),
      m_channels(static_cast<int>(tilesFor(m_own) * kTileRows)),
      m_modelTiles(static_cast<int>(a.size.model / 16)),
      m_sequence(a.sequence),
      m_bothSums(reinterpret_cast<float*>(memory + a.slots * (kStageBytes + sizeof(StageSync)) +
                                          sizeof(DrawMemory))),
      m_bothRecords(m_bothSums + 2 * kComputeWarps * kSumStride),
      m_sums(m_bothSums),
      m_record(m_bothRecords),
      m_drawMemory(
          reinterpret_cast<DrawMemory*>(memory + a.slots * (kStageBytes + sizeof(StageSync)))),
      m_stateIn(a.stateIn),
      m_reader(reinterpret_cast<uint4*>(memory),
               reinterpret_cast<StageSync*>(memory + a.slots * kStageBytes), a.slots) {}

template <int PAIRS>
__device__ void Step<PAIRS>::run() {
  std::int32_t token = a.input[0];
#pragma unroll 1
  for (m_pass = 0; m_pass < static_cast<int>(a.passes); ++m_pass) {
    m_stateOut = a.statesOut[m_pass];
    read(token);
    if (drawsNext() && m_block.outTiles.count > 0) token = draw();
    m_stateIn = m_stateOut;
    ++m_sequence;
  }
}

/// Takes the state past a token, and leaves the logits behind it.
template <int PAIRS>
__device__ void Step<PAIRS>::read(std::int32_t token) {
  const int layers = static_cast<int>(a.size.layers);
  const int outTiles = static_cast<int>(m_block.outTiles.count);
  const auto outRow = [&] { return (m_block.outTiles.begin + m_warp) * 16 + m_lane % 16; };
  if (m_warp < outTiles) {
    m_residual = embedded(a, token, static_cast<int>(outRow()));
    m_normWeight = __ldg(a.parameters + a.layout.norm + outRow());
    publish();
  }
#pragma unroll 1
  for (int layer = 0; layer < layers; ++layer) {
    if (m_warp < outTiles) {
      const float* next = a.parameters + static_cast<std::size_t>(layer + 1) * a.layout.layerSize;
      m_normWeight = __ldg(next + a.layout.norm + outRow());
    }
    if (m_own > 0) {
      fetch(layer);
      product(inputPackets(), m_modelTiles, m_block.groups.count, true);
      convolve(layer);
      project();
    }
    addPartials();
    if (m_own > 0) scan(layer);
    if (outTiles > 0) contract();
    ++m_sequence;
    if (m_warp < outTiles && (a.head || layer + 1 < layers)) publish();
  }
  if (a.head) writeLogits();
}

/// The next token. Every block that needs it draws it, from the same logits.
template <int PAIRS>
__device__ int Step<PAIRS>::draw() {
  const uint4* from =
      a.packets + m_packets.logits + blockIdx.x % kInputCopies * m_packets.logitsSize;
  const int token = everyThreadHasALogit(a.size) ? drawFromAll(from) : takeBest(from);
  if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) a.drawn[m_pass] = token;
  return token;
}

template <int PAIRS>
__device__ int Step<PAIRS>::drawFromAll(const uint4* logits) {
  const int vocabulary = static_cast<int>(a.size.vocabulary);
  const uint2* at =
      reinterpret_cast<const uint2*>(logits) + min(static_cast<int>(threadIdx.x), vocabulary - 1);
  uint2 logit;
  await([&] {
    logit = look(at);
    return isOf(logit, m_sequence);
  });
  return drawToken(a.drawing, vocabulary, __uint_as_float(logit.x),
                   static_cast<float>(a.drawing.points[m_pass]), *m_drawMemory);
}

/// The most probable token, of those that the blocks found among theirs.
template <int PAIRS>
__device__ int Step<PAIRS>::takeBest(const uint4* bests) {
  const bool has = threadIdx.x < gridDim.x && a.blocks[threadIdx.x].headTiles.count > 0;
  uint4 best = {};
  await([&] {
    if (has) best = look(bests + threadIdx.x);
    return !has || isOf(best, m_sequence);
  });
  const Best mine = has ? Best{__uint_as_float(best.x), static_cast<int>(best.z)} : Best{};
  return bestOfBlock(mine, *m_drawMemory).token;
}

// ---- products

/// Register pair of the B operand for tile `tile` (0 to 3) of the four that a warp's lanes hold.
/// Columns beyond the first two are the same again, and nobody asks for their sums.
template <int PAIRS>
__device__ uint2 Step<PAIRS>::operandOf(const uint4& packet, int tile) const {
  const int lane = tile * kPacketsOfTile + m_lane % kPacketsOfTile;
  return {__shfl_sync(~0u, packet.x, lane), __shfl_sync(~0u, packet.z, lane)};
}

/// One panel: at most kPanel tile rows times what the packets bring. Leaves the warps' sums for
/// total(); with squares, m_scale as well.
template <int PAIRS>
__device__ void Step<PAIRS>::product(const uint4* packets, int columnTiles, int tileRows,
                                     bool withSquares) {
  Sums sums = {};
  if (tileRows == 1)
    multiplyGathered<1>(packets, columnTiles, withSquares, sums);
  else if (tileRows == 2)
    multiplyGathered<2>(packets, columnTiles, withSquares, sums);
  else if (tileRows == 3)
    multiplyGathered<3>(packets, columnTiles, withSquares, sums);
  else
    multiplyGathered<4>(packets, columnTiles, withSquares, sums);
  m_cursor += columnTiles * tileRows;
  m_reader.hold(m_cursor - 1, m_cursor - 1);
  m_sums = m_bothSums + (m_turn & 1) * kComputeWarps * kSumStride;
  ++m_turn;
#pragma unroll
  for (int m = 0; m < kPanel; ++m) {
    if (m >= tileRows) break;
    if (m_lane % 4 != 0) continue;
    float* at = m_sums + m_warp * kSumStride + m * 16 + m_lane / 4;
    at[0] = sums[m][0] + sums[m][1];
    at[8] = sums[m][2] + sums[m][3];
  }
  if (withSquares && m_lane == 0) m_sums[m_warp * kSumStride + kPanelRows] = m_squares;
  meet();
  if (withSquares) m_scale = normScale(a, total(kPanelRows), 0);
}

/// A warp takes every eighth column tile, and of those a lane the packets of every fourth.
template <int PAIRS>
template <int HEIGHT>
__device__ void Step<PAIRS>::multiplyGathered(const uint4* packets, int columnTiles,
                                              bool withSquares, Sums& sums) {
  constexpr int kLooks = HEIGHT <= 2 ? 2 : 1;
  constexpr int kGather = 4 * kLooks;  // column tiles at a time
  const auto* squares = reinterpret_cast<const uint2*>(packets + columnTiles * kPacketsOfTile);
  m_squares = 0;
#pragma unroll 1
  for (int first = m_warp; first < columnTiles; first += kGather * kComputeWarps) {
    const auto columnAt = [&](int i) { return min(first + i * kComputeWarps, columnTiles - 1); };
    const int tile = m_cursor + first * HEIGHT;
    m_reader.hold(tile, m_cursor + columnAt(kGather - 1) * HEIGHT + HEIGHT - 1);
    uint4 weights[kGather][HEIGHT];
#pragma unroll
    for (int i = 0; i < kGather; ++i)
#pragma unroll
      for (int m = 0; m < HEIGHT; ++m)
        weights[i][m] = m_reader.tile(m_cursor + columnAt(i) * HEIGHT + m);

    uint4 seen[kLooks];
    const int batch = first / kComputeWarps;
    const bool measures = withSquares && batch % kSquares == 0;
    const int squareTile = first + m_lane % kSquares * kComputeWarps;
    await([&] {
      bool there = true;
#pragma unroll
      for (int i = 0; i < kLooks; ++i)
        seen[i] = look(packets + columnAt(4 * i + m_lane / kPacketsOfTile) * kPacketsOfTile +
                       m_lane % kPacketsOfTile);
#pragma unroll
      for (int i = 0; i < kLooks; ++i) there &= isOf(seen[i], m_sequence);
      return there;
    });
    const uint2* squareAt = squares + min(squareTile, columnTiles - 1);
    uint2 square = {};
    if (measures) square = look(squareAt);  // comes while the products are made
#pragma unroll
    for (int i = 0; i < kGather; ++i) {
      if (first + i * kComputeWarps >= columnTiles) break;
      const uint2 b = operandOf(seen[i / 4], i % 4);
#pragma unroll
      for (int m = 0; m < HEIGHT; ++m) multiply(sums[m], weights[i][m], b);
    }
    if (!measures) continue;
    while (!__all_sync(~0u, isOf(square, m_sequence))) square = look(squareAt);
    float sum = squareTile < columnTiles ? __uint_as_float(square.x) : 0.0f;
    for (int offset = 1; offset < kSquares; offset *= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    m_squares += sum;
  }
}

/// A row of the last product.
template <int PAIRS>
__device__ float Step<PAIRS>::total(int row) const {
  float sum = m_sums[row];
#pragma unroll
  for (int w = 1; w < kComputeWarps; ++w) sum += m_sums[w * kSumStride + row];
  return sum;
}

// ---- a layer
//
// Row o of in_proj's panel is channel o / 16 · 8 + o % 8 of the block, u where o % 16 < 8 and z
// behind. In every warp lane o % 32 keeps row o, so a lane pair of groups fills a warp.

/// Starts what can be loaded before the layer's input is known, and takes the channels' record.
template <int PAIRS>
__device__ void Step<PAIRS>::fetch(int layer) {
  const float* state = m_stateIn + stateOffset(a, layer);
  const int inner = static_cast<int>(a.layout.paddedInner);
#pragma unroll
  for (int pair = 0; pair < PAIRS; ++pair) {
    const int channel = pair * 16 + m_lane / 16 * 8 + m_lane % 8;
#pragma unroll
    for (int i = 0; i < kTaps - 1; ++i)
      m_history[pair][i] =
          channel < m_own ? __ldcg(state + (kStates + i) * inner + m_channelBegin + channel) : 0.0f;
  }
  const int channel = m_warp * 4 + m_lane / kScanLanes;
  if (channel < m_own) {
    const int global = m_channelBegin + channel;
    const float* from = state + global / 16 * 16 * kStates + global % 16;
#pragma unroll
    for (int i = 0; i < 2; ++i) m_state[i] = __ldcg(from + (m_lane % kScanLanes * 2 + i) * 16);
  }

  m_record = m_bothRecords + (m_recordTurn ^= 1) * kFields * a.channels;
  const int tiles = static_cast<int>(m_block.recordTiles);
  const int size = kFields * m_channels;
  m_reader.hold(m_cursor, m_cursor + tiles - 1);
  for (int t = m_warp; t < tiles; t += kComputeWarps) {
    const int at = t * 128 + m_lane * 4;
    if (at < size) *reinterpret_cast<uint4*>(m_record + at) = m_reader.tile(m_cursor + t);
  }
  m_cursor += tiles;
}

/// u' = SiLU(conv(u)) and SiLU(z), in every warp alike; the first moves the convolution's memory.
template <int PAIRS>
__device__ void Step<PAIRS>::convolve(int layer) {
  const int inner = static_cast<int>(a.layout.paddedInner);
  float* memory = m_stateOut + stateOffset(a, layer) + kStates * inner + m_channelBegin;
  const bool isGate = m_lane % 16 >= 8;
#pragma unroll
  for (int pair = 0; pair < PAIRS; ++pair) {
    const int channel = pair * 16 + m_lane / 16 * 8 + m_lane % 8;
    m_mixed[pair] = 0;
    if (channel >= m_own) continue;
    const float value =
        fmaf(total(pair * 32 + m_lane), m_scale, record(isGate ? kInBiasZ : kInBiasU)[channel]);
    float sum = record(kConvBias)[channel];
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap)
      sum = fmaf(record(kConvWeights + tap)[channel],
                 tap < kTaps - 1 ? m_history[pair][tap] : value, sum);
    m_mixed[pair] = silu(isGate ? value : sum);
    if (m_warp != 0 || isGate) continue;
#pragma unroll
    for (int i = 0; i < kTaps - 1; ++i)
      memory[i * inner + channel] = i < kTaps - 2 ? m_history[pair][i + 1] : value;
  }
}

/// This block's part of [δ, B, C] = W_x u'.
template <int PAIRS>
__device__ void Step<PAIRS>::project() {
  const int tileRows = static_cast<int>(projectedRows(a.size)) / 16;
  const int columnTiles = m_channels / 16;
  m_reader.hold(m_cursor, m_cursor + columnTiles * tileRows - 1);
  uint2 b[PAIRS];
#pragma unroll
  for (int pair = 0; pair < PAIRS; ++pair) {
    const int from = m_lane % 4 * 2;
    const SplitPair near =
        split(__shfl_sync(~0u, m_mixed[pair], from), __shfl_sync(~0u, m_mixed[pair], from + 1));
    const SplitPair far = split(__shfl_sync(~0u, m_mixed[pair], from + 16),
                                __shfl_sync(~0u, m_mixed[pair], from + 17));
    const bool low = m_lane / 4 % 2 == 1;
    b[pair] = {low ? near.low : near.high, low ? far.low : far.high};
  }
#pragma unroll 1
  for (int row = m_warp; row < tileRows; row += kComputeWarps) {
    float sums[4] = {};
#pragma unroll
    for (int pair = 0; pair < PAIRS; ++pair)
      if (pair < columnTiles)
        multiply(sums, m_reader.tile(m_cursor + pair * tileRows + row), b[pair]);
    const float near = sums[0] + sums[1];
    const float far = sums[2] + sums[3];
    const float nextNear = __shfl_down_sync(~0u, near, 4);
    const float nextFar = __shfl_down_sync(~0u, far, 4);
    if (m_lane % 8 != 0) continue;
    uint4* to = a.packets + m_packets.partials + (row * 8 + m_lane / 8) * gridDim.x + blockIdx.x;
    send(to, __float_as_uint(near), __float_as_uint(nextNear), m_sequence);
    send(to + 4 * gridDim.x, __float_as_uint(far), __float_as_uint(nextFar), m_sequence);
  }
  m_cursor += columnTiles * tileRows;
}

/// Adds the blocks' parts of a few pairs of rows, a warp a pair, and tells everyone.
template <int PAIRS>
__device__ void Step<PAIRS>::addPartials() {
  const int pairs = static_cast<int>(projectedRows(a.size)) / 2;
  const int rankPairs = static_cast<int>(tilesFor(a.size.dtRank)) * 8;
  constexpr int kLooks = 5;
  int warp = kComputeWarps - 1;  // the last ones have least to do
#pragma unroll 1
  for (int pair = blockIdx.x; pair < pairs; pair += gridDim.x) {
    const bool mine = m_warp == warp;
    warp = warp == 0 ? kComputeWarps - 1 : warp - 1;
    if (!mine) continue;
    const uint4* parts = a.packets + m_packets.partials + pair * gridDim.x;
    float first = 0;
    float second = 0;
#pragma unroll 1
    for (int begin = 0; begin < a.mixingBlocks; begin += 32 * kLooks) {
      uint4 seen[kLooks];
      await([&] {
        bool there = true;
#pragma unroll
        for (int i = 0; i < kLooks; ++i)
          seen[i] = look(parts + min(begin + i * 32 + m_lane, a.mixingBlocks - 1));
#pragma unroll
        for (int i = 0; i < kLooks; ++i) there &= isOf(seen[i], m_sequence);
        return there;
      });
#pragma unroll
      for (int i = 0; i < kLooks; ++i) {
        if (begin + i * 32 + m_lane >= a.mixingBlocks) break;
        first += __uint_as_float(seen[i].x);
        second += __uint_as_float(seen[i].z);
      }
    }
    first = sumOfWarp(first);
    second = sumOfWarp(second);
    uint4* copy =
        a.packets + m_packets.selected + m_lane % kSelectedCopies * m_packets.selectedSize;
    if (pair >= rankPairs) {
      if (m_lane < kSelectedCopies)
        send(copy + pair, __float_as_uint(first), __float_as_uint(second), m_sequence);
    } else if (m_lane < 2 * kSelectedCopies) {
      const SplitPair parted = split(first, second);
      const bool low = m_lane >= kSelectedCopies;
      auto* to = reinterpret_cast<uint2*>(copy + pair / 8 * kPacketsOfTile + pair % 4 + low * 4);
      send(to + pair % 8 / 4, low ? parted.low : parted.high, m_sequence);
    }
  }
}

/// Δ = softplus(W_dt δ + b_dt), s = Ā ⊙ s + (Δ ⊙ u') ⊗ B, y = s C + D ⊙ u', gated with SiLU(z). A
/// warp takes four channels, and eight lanes a channel's states.
template <int PAIRS>
__device__ void Step<PAIRS>::scan(int layer) {
  const int rankTiles = static_cast<int>(tilesFor(a.size.dtRank));
  const int tileRows = m_channels / 16;
  const int matrix = m_cursor;
  m_cursor += rankTiles * tileRows;
  m_reader.hold(matrix, m_cursor - 1);
  if (m_warp * 4 >= m_own) return;

  constexpr int kLooks = kStepRankTiles / 4;
  const int q = m_lane % kScanLanes;
  const uint4* delta =
      a.packets + m_packets.selected + blockIdx.x % kSelectedCopies * m_packets.selectedSize;
  const uint4* selected = delta + rankTiles * kPacketsOfTile;
  uint4 seen[kLooks];
  uint4 b;
  uint4 c;
  await([&] {
#pragma unroll
    for (int i = 0; i < kLooks; ++i)
      if (i * 4 < rankTiles)
        seen[i] =
            look(delta + min(i * 4 + m_lane / kPacketsOfTile, rankTiles - 1) * kPacketsOfTile +
                 m_lane % kPacketsOfTile);
    b = look(selected + q);
    c = look(selected + kStates / 2 + q);
    bool there = isOf(b, m_sequence) && isOf(c, m_sequence);
#pragma unroll
    for (int i = 0; i < kLooks; ++i)
      if (i * 4 < rankTiles) there &= isOf(seen[i], m_sequence);
    return there;
  });
  float sums[4] = {};
#pragma unroll
  for (int i = 0; i < kStepRankTiles; ++i) {
    if (i >= rankTiles) break;
    multiply(sums, m_reader.tile(matrix + i * tileRows + m_warp / 4),
             operandOf(seen[i / 4], i % 4));
  }

  const int channel = m_warp * 4 + m_lane / kScanLanes;
  const bool isFar = channel % 16 >= 8;
  const float rank =
      __shfl_sync(~0u, isFar ? sums[2] + sums[3] : sums[0] + sums[1], channel % 8 * 4);
  // Not by m_warp / 4 == pair, from which the compiler makes an index, and memory of registers.
  float mixed = m_mixed[PAIRS - 1];
#pragma unroll
  for (int pair = PAIRS - 2; pair >= 0; --pair)
    if (m_warp < (pair + 1) * 4) mixed = m_mixed[pair];
  const int from = channel % 16 / 8 * 16 + channel % 8;
  const float u = __shfl_sync(~0u, mixed, from);
  const float gate = __shfl_sync(~0u, mixed, from + 8);

  const float step = softplus(rank + record(kDtBias)[channel]);
  const float gained = step * u;
  const float rows[2] = {__uint_as_float(b.x), __uint_as_float(b.z)};
  const float columns[2] = {__uint_as_float(c.x), __uint_as_float(c.z)};
  ScanSums scanned;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float kept = power2(step * record(kConvWeights + kTaps + 2 * q + i)[channel]);
    scanned.advance(m_state[i], kept, gained, rows[i], columns[i]);
  }
  scanned.addLanes(a.taps != nullptr);
  const float gated = fmaf(record(kSkip)[channel], u, scanned.y) * gate;
  const float next = __shfl_down_sync(~0u, gated, kScanLanes);
  const int global = m_channelBegin + channel;
  if (channel % 2 == 0 && q < 2) {
    const SplitPair parted = split(gated, next);
    auto* to = reinterpret_cast<uint2*>(a.packets + m_packets.output +
                                        global / 16 * kPacketsOfTile + global % 8 / 2 + q * 4);
    send(to + global % 16 / 8, q == 0 ? parted.high : parted.low, m_sequence);
  }
  float* to = m_stateOut + stateOffset(a, layer) + global / 16 * 16 * kStates + global % 16;
#pragma unroll
  for (int i = 0; i < 2; ++i) to[(2 * q + i) * 16] = m_state[i];
  if (a.taps && q == 0) {
    const int inner = static_cast<int>(a.layout.paddedInner);
    float* tap = a.taps +
                 (static_cast<std::size_t>(layer) * a.capacity + m_pass) * kTapKinds * inner +
                 global;
    scanned.writeTaps(tap, inner, step, kStates);
  }
}

/// Adds the block's rows of W_out y to its part of the residual.
template <int PAIRS>
__device__ void Step<PAIRS>::contract() {
  product(a.packets + m_packets.output, static_cast<int>(a.size.inner) / 16, m_block.outTiles.count,
          false);
  if (m_warp < m_block.outTiles.count) m_residual += total(m_warp * 16 + m_lane % 16);
}

/// Tells the others what the next norm and product take.
template <int PAIRS>
__device__ void Step<PAIRS>::publish() {
  const float scaled = m_residual * m_normWeight;
  const float next = __shfl_down_sync(~0u, scaled, 1);
  float squares = m_residual * m_residual;
  for (int offset = 8; offset > 0; offset /= 2) squares += __shfl_xor_sync(~0u, squares, offset);
  const std::uint32_t tile = m_block.outTiles.begin + m_warp;
  const SplitPair parted = split(scaled, next);
  // Lanes of the lower half have the same values as those of the upper: they serve other copies.
  uint4* copy = a.packets + m_packets.input + m_lane / 16 * m_packets.inputSize;
#pragma unroll
  for (int i = 0; i < kInputCopies; i += 2, copy += 2 * m_packets.inputSize) {
    if (m_lane % 2 == 0) {
      auto* to =
          reinterpret_cast<uint2*>(copy + tile * kPacketsOfTile + m_lane % 8 / 2) + m_lane % 16 / 8;
      send(to, parted.high, m_sequence);
      send(to + 8, parted.low, m_sequence);  // 4 packets on
    }
    if (m_lane % 16 == 0)
      send(reinterpret_cast<uint2*>(copy + m_modelTiles * kPacketsOfTile) + tile,
           __float_as_uint(squares), m_sequence);
  }
}

template <int PAIRS>
__device__ void Step<PAIRS>::writeLogits() {
  const int tileRows = static_cast<int>(m_block.headTiles.count);
  const bool sendsAll = everyThreadHasALogit(a.size);
  Best best;
#pragma unroll 1
  for (int panel = 0; panel < tileRows; panel += kPanel) {
    const int height = min(kPanel, tileRows - panel);
    product(inputPackets(), m_modelTiles, height, true);
    const std::uint32_t id = (m_block.headTiles.begin + panel) * 16 + threadIdx.x;
    if (static_cast<int>(threadIdx.x) >= height * 16 || id >= a.size.vocabulary) continue;
    const float logit = fmaf(total(threadIdx.x), m_scale, 0.0f);
    a.logits[static_cast<std::size_t>(m_pass) * a.size.vocabulary + id] = logit;
    best.take(logit, static_cast<int>(id));
    if (!drawsNext() || !sendsAll) continue;
    for (int i = 0; i < kInputCopies; ++i)
      send(reinterpret_cast<uint2*>(a.packets + m_packets.logits + i * m_packets.logitsSize) + id,
           __float_as_uint(logit), m_sequence);
  }
  if (drawsNext() && !sendsAll && tileRows > 0) sendBest(best);
}

/// Tells those who draw which of the block's tokens is the most probable.
template <int PAIRS>
__device__ void Step<PAIRS>::sendBest(const Best& mine) {
  const Best best = bestOfBlock(mine, *m_drawMemory);
  if (threadIdx.x >= kInputCopies) return;
  send(a.packets + m_packets.logits + threadIdx.x * m_packets.logitsSize + blockIdx.x,
       __float_as_uint(best.logit), static_cast<std::uint32_t>(best.token), m_sequence);
}

}  // namespace mb::cuda
