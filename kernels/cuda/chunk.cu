#include <algorithm>
#include <utility>

#include "kernels/cuda/chunk.h"
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

  const std::int32_t* input;
  float* residual;
  float* partial;
  float* projected;
  std::uint32_t* gated;
  float* logits;
  float* traceInput;
  float* traceConvolved;
  float* traceDelta;
  float* traceB;
  float* taps;
  std::uint32_t* arrivals;
  std::uint32_t arrived;
  std::uint32_t capacity;

  std::uint32_t tokens;
  const float* stateIn;
  float* stateOut;
  bool head;

  int slots;         // stages of the ring
  int operandBytes;  // shared memory for activations
  int channels;      // most channels of a block
};

/// Waits for the compute warps only: the filling warp goes its own way.
__device__ inline void meet() {
  asm volatile("bar.sync 1, %0;" ::"n"(kComputeThreads) : "memory");
}

__device__ inline float silu(float x) {
  return x / (1.0f + expf(-x));
}

__device__ inline float softplus(float x) {
  return x > 20.0f ? x : log1pf(expf(x));
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
    if (threadIdx.x != 0) return;
    __threadfence();
    atomicAdd(m_arrivals, 1u);
  }

  __device__ void wait() {
    if (threadIdx.x == 0) {
      while (static_cast<std::int32_t>(*static_cast<volatile std::uint32_t*>(m_arrivals) -
                                       m_target) < 0) {
      }
      __threadfence();
    }
    meet();
  }

 private:
  std::uint32_t* m_arrivals;
  std::uint32_t m_target;
};

/// One block's work. NT blocks of 4 tokens; a scanning thread holds SPL states.
template <int NT, int SPL>
class Chunk {
 public:
  __device__ Chunk(const ChunkArguments& arguments, char* shared);
  __device__ void run();

 private:
  using Sums = float[kPanel][NT][4];

  // Products. Each takes the next tiles of the stretch.
  template <class Value, class Output>
  __device__ void product(int tileRows, int columns, Value value, Output output);
  template <class Output>
  __device__ void productByRows(int tileRows, int columns, Output output);
  template <class Value>
  __device__ void stage(int firstColumn, int columnTiles, Value value);
  template <class Output>
  __device__ void reduce(int tileRows, const Sums& sums, Output output);

  template <class Value>
  __device__ void measure(Value value);
  template <class Value, class Output>
  __device__ void normedProduct(const float* weight, const float* bias, int tileRows, Value value,
                                Output output);

  __device__ void runLayer(int layer);
  __device__ void expand(int layer);
  __device__ void convolve(int layer);
  __device__ void project();
  __device__ void sumProjected();
  __device__ void computeDelta();
  __device__ void scan(int layer);
  __device__ void contract(int layer);
  __device__ void runHead();

  __device__ float4 embedded(int token, int k) const;
  __device__ float4 residualAt(int layer, int token, int k) const;
  __device__ float* shared(float* base, int token, int channel) const {
    return base + token * a.channels + channel;
  }

  const ChunkArguments& a;
  const BlockPlan m_block;
  const float* m_parameters;  // of the current layer
  int m_warp;
  int m_lane;
  int m_tokens;
  int m_channelBegin;
  int m_channels;    // of this block, padded to 16
  int m_projected;   // rows of x_proj
  int m_cursor = 0;  // next tile of the stretch

  char* m_operandMemory;
  Operands<NT> m_operands;
  float* m_u;
  float* m_z;
  float* m_convolved;
  float* m_delta;
  float* m_bc;       // [tokens][2 · states]
  float* m_moments;  // [tokens][8] partial sums, then [tokens][2] mean and scale behind them
  TileReader m_reader;
  GridBarrier m_barrier;
};

constexpr int kMomentFloats = static_cast<int>(kMostTokens) * (kComputeWarps + 2);

__host__ __device__ inline int paddedStates(const Dimensions& d) {
  return static_cast<int>(tilesFor(d.states) * kTileRows);
}

/// Shared memory besides the ring and its barriers.
__host__ __device__ inline int scratchBytes(const Dimensions& size, int operandBytes, int channels,
                                            int tokens) {
  return operandBytes + static_cast<int>(sizeof(float)) *
                            (tokens * (4 * channels + 2 * paddedStates(size)) + kMomentFloats);
}

template <int NT, int SPL>
__device__ Chunk<NT, SPL>::Chunk(const ChunkArguments& arguments, char* memory)
    : a(arguments),
      m_block(arguments.blocks[blockIdx.x]),
      m_parameters(arguments.parameters),
      m_warp(threadIdx.x / 32),
      m_lane(threadIdx.x % 32),
      m_tokens(arguments.tokens),
      m_channelBegin(m_block.groups.begin * kGroupChannels),
      m_channels(static_cast<int>(tilesFor(m_block.groups.count * kGroupChannels) * kTileRows)),
      m_projected(static_cast<int>(projectedRows(arguments.size))),
      m_operandMemory(memory + a.slots * (kStageBytes + sizeof(StageSync))),
      m_operands(m_operandMemory),
      m_u(reinterpret_cast<float*>(m_operandMemory + a.operandBytes)),
      m_z(m_u + 4 * NT * a.channels),
      m_convolved(m_z + 4 * NT * a.channels),
      m_delta(m_convolved + 4 * NT * a.channels),
      m_bc(m_delta + 4 * NT * a.channels),
      m_moments(m_bc + 4 * NT * 2 * paddedStates(a.size)),
      m_reader(reinterpret_cast<uint4*>(memory),
               reinterpret_cast<StageSync*>(memory + a.slots * kStageBytes), a.slots),
      m_barrier(a.arrivals, a.arrived) {}

template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::run() {
  for (int layer = 0; layer < static_cast<int>(a.size.layers); ++layer) runLayer(layer);
  if (a.head) runHead();
}

template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::runLayer(int layer) {
  m_parameters = a.parameters + static_cast<std::size_t>(layer) * a.layout.layerSize;
  expand(layer);
  convolve(layer);
  project();
  m_barrier.arrive();
  m_barrier.wait();
  sumProjected();
  m_barrier.arrive();
  m_barrier.wait();
  computeDelta();
  scan(layer);
  m_barrier.arrive();
  m_barrier.wait();
  contract(layer);
  m_barrier.arrive();
  m_barrier.wait();
}

// ---- products

/// Puts columns [firstColumn, + 16 · columnTiles) of all tokens in place; value(token, k) gives 4
/// of them.
template <int NT, int SPL>
template <class Value>
__device__ void Chunk<NT, SPL>::stage(int firstColumn, int columnTiles, Value value) {
  const int quads = columnTiles * 4;
  for (int i = threadIdx.x; i < quads * m_tokens; i += kComputeThreads) {
    const int token = i / quads;
    const int k = i % quads * 4;
    const float4 v = value(token, firstColumn + k);
    m_operands.store(token, k, v.x, v.y);
    m_operands.store(token, k + 2, v.z, v.w);
  }
}

/// output(row, token, sum) for every row of `tileRows` tile rows, in panels. A warp takes every
/// eighth column tile; the warps' sums are added in their order.
template <int NT, int SPL>
template <class Value, class Output>
__device__ void Chunk<NT, SPL>::product(int tileRows, int columns, Value value, Output output) {
  const int columnTiles = (columns + 15) / 16;
  const int planes = a.size.planes;
  const int staged = a.operandBytes / Operands<NT>::kTileStride / kComputeWarps * kComputeWarps;
  for (int panel = 0; panel < tileRows; panel += kPanel) {
    const int height = min(kPanel, tileRows - panel);
    Sums sums = {};
    for (int first = 0; first < columnTiles; first += staged) {
      const int count = min(staged, columnTiles - first);
      meet();
      stage(first * 16, count, value);
      meet();
      for (int c = m_warp; c < count; c += kComputeWarps) {
        uint2 b[NT];
#pragma unroll
        for (int j = 0; j < NT; ++j) b[j] = m_operands.load(c, j);
        for (int plane = 0; plane < planes; ++plane) {
          const int tile = m_cursor + ((first + c) * planes + plane) * height;
#pragma unroll
          for (int m = 0; m < kPanel; ++m) {
            if (m >= height) break;
            const uint4 weights = m_reader.tile(tile + m);
#pragma unroll
            for (int j = 0; j < NT; ++j) multiply(sums[m][j], weights, b[j]);
          }
        }
      }
    }
    m_cursor += columnTiles * planes * height;
    m_reader.moveTo((m_cursor - 1) / kStageTiles);
    meet();
    reduce(height, sums,
           [&](int row, int token, float sum) { output(panel * 16 + row, token, sum); });
  }
}

/// Adds the warps' sums, which for that lie where the operands were.
template <int NT, int SPL>
template <class Output>
__device__ void Chunk<NT, SPL>::reduce(int tileRows, const Sums& sums, Output output) {
  auto* memory = reinterpret_cast<float*>(m_operandMemory);
  const int perWarp = tileRows * NT * 64;
#pragma unroll
  for (int m = 0; m < kPanel; ++m) {
    if (m >= tileRows) break;
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      float* at = memory + m_warp * perWarp + (m * NT + j) * 64 + m_lane;
      at[0] = sums[m][j][0] + sums[m][j][1];
      at[32] = sums[m][j][2] + sums[m][j][3];
    }
  }
  meet();
  for (int i = threadIdx.x; i < perWarp; i += kComputeThreads) {
    const int token = i / 64 % NT * 4 + i % 4;
    if (token >= m_tokens) continue;
    float sum = memory[i];
#pragma unroll
    for (int w = 1; w < kComputeWarps; ++w) sum += memory[w * perWarp + i];
    output(i / (64 * NT) * 16 + i % 64 / 32 * 8 + i % 32 / 4, token, sum);
  }
}

/// Likewise for small matrices over operands in place: a warp takes every eighth tile row.
template <int NT, int SPL>
template <class Output>
__device__ void Chunk<NT, SPL>::productByRows(int tileRows, int columns, Output output) {
  const int columnTiles = (columns + 15) / 16;
  const int planes = a.size.planes;
  Sums sums = {};
  for (int c = 0; c < columnTiles; ++c) {
    uint2 b[NT];
#pragma unroll
    for (int j = 0; j < NT; ++j) b[j] = m_operands.load(c, j);
    for (int plane = 0; plane < planes; ++plane) {
      const int tile = m_cursor + (c * planes + plane) * tileRows;
#pragma unroll
      for (int m = 0; m < kPanel; ++m) {
        const int row = m * kComputeWarps + m_warp;
        if (row >= tileRows) break;
        const uint4 weights = m_reader.tile(tile + row);
#pragma unroll
        for (int j = 0; j < NT; ++j) multiply(sums[m][j], weights, b[j]);
      }
    }
  }
  m_cursor += columnTiles * planes * tileRows;
  if (tileRows > 0) m_reader.moveTo((m_cursor - 1) / kStageTiles);
#pragma unroll
  for (int m = 0; m < kPanel; ++m) {
    const int row = (m * kComputeWarps + m_warp) * 16 + m_lane / 4;
    if (row >= tileRows * 16) break;
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      const int token = 4 * j + m_lane % 4;
      if (token >= m_tokens) continue;
      output(row, token, sums[m][j][0] + sums[m][j][1]);
      output(row + 8, token, sums[m][j][2] + sums[m][j][3]);
    }
  }
}

// ---- norms

/// Mean (0 for RMSNorm) and 1 / sqrt(variance + ε) of every token, by all blocks alike. A warp sums
/// one eighth of a token's values, always the same ones.
template <int NT, int SPL>
template <class Value>
__device__ void Chunk<NT, SPL>::measure(Value value) {
  const int model = a.size.model;
  float* partial = m_moments;
  float* result = m_moments + kMostTokens * kComputeWarps;
  const auto sumOver = [&](auto term) {
    for (int token = 0; token < m_tokens; ++token) {
      float sum = 0;
      for (int k = threadIdx.x * 4; k < model; k += kComputeThreads * 4) {
        const float4 v = value(token, k);
        sum = term(token, v.x, sum);
        if (k + 1 < model) sum = term(token, v.y, sum);
        if (k + 2 < model) sum = term(token, v.z, sum);
        if (k + 3 < model) sum = term(token, v.w, sum);
      }
      sum = sumOfWarp(sum);
      if (m_lane == 0) partial[token * kComputeWarps + m_warp] = sum;
    }
    meet();
  };
  const auto total = [&](int token) {
    float sum = 0;
    for (int w = 0; w < kComputeWarps; ++w) sum += partial[token * kComputeWarps + w];
    return sum;
  };

  const int mine = threadIdx.x;
  if (a.layerNorm) {
    sumOver([](int, float x, float sum) { return sum + x; });
    if (mine < m_tokens) result[2 * mine] = total(mine) / static_cast<float>(model);
  } else if (mine < m_tokens) {
    result[2 * mine] = 0;
  }
  meet();
  sumOver([&](int token, float x, float sum) {
    const float centred = x - result[2 * token];
    return fmaf(centred, centred, sum);
  });
  if (mine < m_tokens) {
    const float variance = total(mine) / static_cast<float>(model);
    result[2 * mine + 1] = 1.0f / sqrtf(variance + a.epsilon);
  }
  meet();
}

template <int NT, int SPL>
template <class Value, class Output>
__device__ void Chunk<NT, SPL>::normedProduct(const float* weight, const float* bias, int tileRows,
                                              Value value, Output output) {
  if (tileRows == 0) return;
  measure(value);
  const float* moments = m_moments + kMostTokens * kComputeWarps;
  const auto normed = [&](int token, int k) {
    const float4 x = value(token, k);
    const float4 w = __ldg(reinterpret_cast<const float4*>(weight + k));
    const float4 b = __ldg(reinterpret_cast<const float4*>(bias + k));
    const float mean = moments[2 * token];
    const float scale = moments[2 * token + 1];
    return float4{fmaf((x.x - mean) * scale, w.x, b.x), fmaf((x.y - mean) * scale, w.y, b.y),
                  fmaf((x.z - mean) * scale, w.z, b.z), fmaf((x.w - mean) * scale, w.w, b.w)};
  };
  product(tileRows, a.size.model, normed, output);
}

// ---- stages of a layer

template <int NT, int SPL>
__device__ float4 Chunk<NT, SPL>::embedded(int token, int k) const {
  const std::size_t model = a.size.model;
  const auto id = static_cast<std::size_t>(a.input[token]);
  float values[4] = {};
  for (std::uint32_t plane = 0; plane < a.size.planes; ++plane) {
    const std::uint16_t* row = a.embedding + (plane * a.size.vocabulary + id) * model;
    for (int i = 0; i < 4; ++i)
      if (k + i < static_cast<int>(model))
        values[i] += __uint_as_float(static_cast<std::uint32_t>(__ldg(row + k + i)) << 16);
  }
  return {values[0], values[1], values[2], values[3]};
}

/// x before the layer. The embedding is the same in every block's hands; later values come from
/// the others.
template <int NT, int SPL>
__device__ float4 Chunk<NT, SPL>::residualAt(int layer, int token, int k) const {
  if (layer == 0) return embedded(token, k);
  return __ldcg(reinterpret_cast<const float4*>(a.residual + token * a.layout.paddedModel + k));
}

/// [u, z] = W_in norm(x) for the block's channels.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::expand(int layer) {
  const float* bias = m_parameters + a.layout.inBias;
  normedProduct(
      m_parameters + a.layout.norm, m_parameters + a.layout.normBias, m_block.groups.count,
      [&](int token, int k) { return residualAt(layer, token, k); },
      [&](int row, int token, float sum) {
        const int own = row / 16 * 8 + row % 8;
        const bool isGate = row % 16 >= 8;
        sum += __ldg(bias + (isGate ? a.layout.paddedInner : 0) + m_channelBegin + own);
        *shared(isGate ? m_z : m_u, token, own) = sum;
      });
  meet();
}

/// u' = SiLU(conv(u)); moves the convolution's memory.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::convolve(int layer) {
  const int inner = a.layout.paddedInner;
  const int taps = a.size.taps;
  const int memory = taps - 1;
  const std::size_t layerState = static_cast<std::size_t>(a.size.states + memory) * inner;
  const std::size_t offset = layer * layerState + static_cast<std::size_t>(a.size.states) * inner;
  const int own = m_block.groups.count * kGroupChannels;
  const float* history = a.stateIn + offset;
  const auto inputAt = [&](int channel, int position) {  // counted from the oldest remembered
    if (position >= memory) return *shared(m_u, position - memory, channel);
    return __ldcg(history + position * inner + m_channelBegin + channel);
  };
  for (int i = threadIdx.x; i < m_tokens * m_channels; i += kComputeThreads) {
    const int token = i / m_channels;
    const int channel = i % m_channels;
    float result = 0;
    if (channel < own && m_channelBegin + channel < inner) {
      float sum = __ldg(m_parameters + a.layout.convBias + m_channelBegin + channel);
      for (int tap = 0; tap < taps; ++tap) {
        const float weight =
            __ldg(m_parameters + a.layout.conv + tap * inner + m_channelBegin + channel);
        sum = fmaf(weight, inputAt(channel, token + tap), sum);
      }
      result = silu(sum);
    }
    *shared(m_convolved, token, channel) = result;
  }
  meet();  // stateIn may be stateOut: all of it is read before any is written
  for (int channel = threadIdx.x; channel < own; channel += kComputeThreads) {
    float moved[kMostTaps - 1];
    for (int i = 0; i < memory; ++i) moved[i] = inputAt(channel, m_tokens + i);
    for (int i = 0; i < memory; ++i)
      a.stateOut[offset + i * inner + m_channelBegin + channel] = moved[i];
  }
}

/// This block's part of [δ, B, C] = W_x u'.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::project() {
  if (m_block.groups.count == 0) return;
  stage(0, m_channels / 16, [&](int token, int k) {
    const float* at = shared(m_convolved, token, k);
    return float4{at[0], at[1], at[2], at[3]};
  });
  meet();
  productByRows(m_projected / 16, m_channels, [&](int row, int token, float sum) {
    __stcg(
        a.partial + (static_cast<std::size_t>(row) * a.capacity + token) * gridDim.x + blockIdx.x,
        sum);
  });
}

/// Adds the blocks' parts, one warp a value.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::sumProjected() {
  const int working = min(static_cast<int>(gridDim.x), static_cast<int>((a.size.inner + 7) / 8));
  const int warps = gridDim.x * kComputeWarps;
  for (int i = m_warp * gridDim.x + blockIdx.x; i < m_projected * m_tokens; i += warps) {
    const int row = i / m_tokens;
    const int token = i % m_tokens;
    const float* parts =
        a.partial + (static_cast<std::size_t>(row) * a.capacity + token) * gridDim.x;
    float sum = 0;
    for (int block = m_lane; block < working; block += 32) sum += __ldcg(parts + block);
    sum = sumOfWarp(sum);
    if (m_lane == 0) __stcg(a.projected + token * m_projected + row, sum);
  }
}

/// Δ = softplus(W_dt δ + b_dt).
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::computeDelta() {
  const int rankRows = static_cast<int>(tilesFor(a.size.dtRank) * kTileRows);
  const int states = paddedStates(a.size);
  stage(0, rankRows / 16, [&](int token, int k) {
    return __ldcg(reinterpret_cast<const float4*>(a.projected + token * m_projected + k));
  });
  for (int i = threadIdx.x; i < m_tokens * 2 * states; i += kComputeThreads) {
    const int token = i / (2 * states);
    m_bc[i] = __ldcg(a.projected + token * m_projected + rankRows + i % (2 * states));
  }
  meet();
  productByRows(m_channels / 16, rankRows, [&](int row, int token, float sum) {
    const int channel = m_channelBegin + row;
    const float bias = channel < static_cast<int>(a.layout.paddedInner)
                           ? __ldg(m_parameters + a.layout.dtBias + channel)
                           : 0.0f;
    *shared(m_delta, token, row) = softplus(sum + bias);
  });
  meet();
}

/// s = Ā ⊙ s + (Δ ⊙ u') ⊗ B, y = s C + D ⊙ u', gated with SiLU(z).
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::scan(int layer) {
  const int inner = a.layout.paddedInner;
  const int states = a.size.states;
  const int stateStride = 2 * paddedStates(a.size);
  const std::size_t layerState = static_cast<std::size_t>(states + a.size.taps - 1) * inner;
  const int q = threadIdx.x % kScanLanes;
  const int own = m_block.groups.count * kGroupChannels;
  for (int first = 0; first < own; first += kScanChannels) {
    const int channel = first + threadIdx.x / kScanLanes;
    const int global = m_channelBegin + channel;
    const bool active = channel < own && global < inner;
    const int block = global / 16 * 16 * states + global % 16;
    const float* from = a.stateIn + layer * layerState + block;
    float* to = a.stateOut + layer * layerState + block;
    const float* decay = m_parameters + a.layout.decay + block;
    float s[SPL];
    float rate[SPL];
#pragma unroll
    for (int i = 0; i < SPL; ++i) {
      const int n = q * SPL + i;
      const bool real = active && n < states;
      s[i] = real ? __ldcg(from + n * 16) : 0.0f;
      rate[i] = real ? __ldg(decay + n * 16) : 0.0f;
    }
    const float skip = active ? __ldg(m_parameters + a.layout.skip + global) : 0.0f;
    const int slot = active ? channel : 0;
    for (int token = 0; token < m_tokens; ++token) {
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
        const float kept = exp2f(delta * rate[i]);
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
      if (!active || q != 0) continue;
      const float gated = fmaf(skip, u, y) * silu(*shared(m_z, token, channel));
      const SplitPair parts = split(gated, 0.0f);
      __stcg(a.gated + token * inner + global, (parts.high & 0xffffu) | parts.low << 16);
      const std::size_t trace =
          (static_cast<std::size_t>(layer) * a.capacity + token) * inner + global;
      if (a.traceInput) {
        a.traceInput[trace] = *shared(m_u, token, channel);
        a.traceConvolved[trace] = u;
        a.traceDelta[trace] = delta;
      }
      if (a.taps) {
        float* tap = a.taps +
                     (static_cast<std::size_t>(layer) * a.capacity + token) * kTapKinds * inner +
                     global;
        tap[0] = delta;
        tap[inner] = sqrtf(squares);
        tap[2 * inner] = decays / static_cast<float>(states);
      }
    }
#pragma unroll
    for (int i = 0; i < SPL; ++i) {
      const int n = q * SPL + i;
      if (active && n < states) to[n * 16] = s[i];
    }
  }
  if (a.traceB && blockIdx.x == 0) {
    for (int i = threadIdx.x; i < m_tokens * states; i += kComputeThreads) {
      const int token = i / states;
      a.traceB[(static_cast<std::size_t>(layer) * a.capacity + token) * states + i % states] =
          m_bc[token * stateStride + i % states];
    }
  }
}

/// x = x + W_out y for the block's rows.
template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::contract(int layer) {
  const float* bias = m_parameters + a.layout.outBias;
  const int model = a.size.model;
  product(
      m_block.outTiles.count, a.size.inner,
      [&](int token, int k) {
        const uint4 packed =
            __ldcg(reinterpret_cast<const uint4*>(a.gated + token * a.layout.paddedInner + k));
        const auto join = [](std::uint32_t v) {
          return __uint_as_float(v << 16) + __uint_as_float(v & 0xffff0000u);
        };
        return float4{join(packed.x), join(packed.y), join(packed.z), join(packed.w)};
      },
      [&](int row, int token, float sum) {
        const int global = m_block.outTiles.begin * 16 + row;
        if (global >= model) return;
        float* at = a.residual + token * a.layout.paddedModel + global;
        const float before = layer == 0 ? embedded(token, global).x : __ldcg(at);
        __stcg(at, before + (sum + __ldg(bias + global)));
      });
}

template <int NT, int SPL>
__device__ void Chunk<NT, SPL>::runHead() {
  const float* norm = a.parameters + static_cast<std::size_t>(a.size.layers) * a.layout.layerSize;
  const int layers = a.size.layers;
  normedProduct(
      norm, norm + a.layout.paddedModel, m_block.headTiles.count,
      [&](int token, int k) { return residualAt(layers, token, k); },
      [&](int row, int token, float sum) {
        const std::uint32_t global = m_block.headTiles.begin * 16 + row;
        if (global < a.size.vocabulary)
          a.logits[static_cast<std::size_t>(token) * a.size.vocabulary + global] = sum;
      });
}

template <int NT, int SPL>
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
    fillRing(ring, sync, arguments.slots, arguments.tiles + block.firstTile * 32,
             (tiles + kStageTiles - 1) / kStageTiles);
    return;
  }
  Chunk<NT, SPL>(arguments, memory).run();
}

// ---- packing

struct PackArguments {
  const TileRow* rows;
  const float* values;
  std::uint32_t columns;
  std::uint32_t planes;
  uint4* tiles;
};

/// Part `plane` of a value: bfloat16, of what the parts before leave over.
__device__ inline std::uint32_t partOf(float value, std::uint32_t plane) {
  __nv_bfloat16 part = __float2bfloat16_rn(value);
  for (std::uint32_t i = 0; i < plane; ++i) {
    value -= __bfloat162float(part);
    part = __float2bfloat16_rn(value);
  }
  return __bfloat16_as_ushort(part);
}

/// One block a tile row, one warp a tile.
__global__ void packKernel(PackArguments a) {
  const TileRow& row = a.rows[blockIdx.x];
  const int lane = threadIdx.x % 32;
  const auto pair = [&](int line, std::uint32_t column, std::uint32_t plane) {
    const std::int32_t source = row.rows[line];
    std::uint32_t packed = 0;
    for (std::uint32_t i = 0; i < 2; ++i) {
      if (source < 0 || column + i >= row.columnEnd) continue;
      const float value = a.values[static_cast<std::size_t>(source) * a.columns + column + i];
      packed |= partOf(value, plane) << (16 * i);
    }
    return packed;
  };
  for (std::uint32_t t = threadIdx.x / 32; t < row.columnTiles * a.planes; t += blockDim.x / 32) {
    const std::uint32_t plane = t % a.planes;
    const std::uint32_t column = row.columnBegin + t / a.planes * 16 + lane % 4 * 2;
    const int line = lane / 4;
    a.tiles[(row.firstTile + static_cast<std::uint64_t>(t) * row.stride) * 32 + lane] =
        make_uint4(pair(line, column, plane), pair(line + 8, column, plane),
                   pair(line, column + 8, plane), pair(line + 8, column + 8, plane));
  }
}

// ---- replay

struct ReplayArguments {
  Dimensions size;
  std::uint32_t inner;
  std::uint32_t capacity;
  std::uint32_t kept;
  const float* decay;  // of layer 0
  std::uint32_t layerSize;
  const float* input;
  const float* convolved;
  const float* delta;
  const float* b;
  const float* stateIn;
  float* stateOut;
};

/// Threads over channels, state indices, and layers. The same operations as in Chunk::scan.
__global__ void replayKernel(ReplayArguments a) {
  const std::uint32_t layer = blockIdx.y;
  const std::uint32_t index = blockIdx.x * blockDim.x + threadIdx.x;
  const std::uint32_t memory = a.size.taps - 1;
  if (index >= (a.size.states + memory) * a.inner) return;
  const std::size_t offset = static_cast<std::size_t>(layer) * (a.size.states + memory) * a.inner;
  const float* trace = a.input + static_cast<std::size_t>(layer) * a.capacity * a.inner;
  if (index >= a.size.states * a.inner) {
    const std::uint32_t i = (index - a.size.states * a.inner) / a.inner;
    const std::uint32_t channel = index % a.inner;
    const std::uint32_t position = a.kept + i;
    a.stateOut[offset + index] =
        position < memory ? a.stateIn[offset + (a.size.states + position) * a.inner + channel]
                          : trace[static_cast<std::size_t>(position - memory) * a.inner + channel];
    return;
  }
  const std::uint32_t channel = index / (16 * a.size.states) * 16 + index % 16;
  const std::uint32_t n = index / 16 % a.size.states;
  const float rate = a.decay[static_cast<std::size_t>(layer) * a.layerSize + index];
  float s = a.stateIn[offset + index];
  for (std::uint32_t token = 0; token < a.kept; ++token) {
    const std::size_t row = static_cast<std::size_t>(layer) * a.capacity + token;
    const float delta = a.delta[row * a.inner + channel];
    const float gained = delta * a.convolved[row * a.inner + channel];
    s = fmaf(exp2f(delta * rate), s, gained * a.b[row * a.size.states + n]);
  }
  a.stateOut[offset + index] = s;
}

// ---- launching

struct Shape {
  std::uint32_t tokens = 0;
  int slots = 0;
  int operandBytes = 0;
  int sharedBytes = 0;
  const void* kernel = nullptr;
};

template <int NT>
const void* kernelFor(const Dimensions& size) {
  return size.states <= 2 * kScanLanes
             ? reinterpret_cast<const void*>(&chunkKernel<NT, 2>)
             : reinterpret_cast<const void*>(&chunkKernel<NT, kMostStates / kScanLanes>);
}

const void* kernelFor(const Dimensions& size, std::uint32_t tokens) {
  switch (tokens) {
    case 4: return kernelFor<1>(size);
    case 8: return kernelFor<2>(size);
    case 16: return kernelFor<4>(size);
    default: return kernelFor<8>(size);
  }
}

/// Shared memory for a kernel of up to `tokens` tokens; no slots when it does not fit.
Shape shapeFor(const DeviceWeights& weights, std::uint32_t tokens) {
  constexpr int kLeastSlots = 2;
  constexpr int kMostOperandBytes = 64 << 10;
  int device = 0;
  int available = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "cudaDeviceGetAttribute");
  const Dimensions& size = weights.plan.dimensions();
  const int channels = static_cast<int>(weights.plan.mostChannels());
  const int blocks = static_cast<int>(tokens / 4);
  const int tileStride = blocks * 256 + 32;
  // What reduce() takes, and what x_proj and dt_proj need in one piece.
  const int least =
      std::max({kComputeWarps * kPanel * blocks * 64 * 4, channels / 16 * tileStride,
                static_cast<int>(tilesFor(size.dtRank)) * tileStride, kComputeWarps * tileStride});
  Shape shape;
  shape.tokens = tokens;
  shape.operandBytes = std::max(least, std::min(kMostOperandBytes, available / 3) / 128 * 128);
  const int scratch = scratchBytes(size, shape.operandBytes, channels, static_cast<int>(tokens));
  constexpr int kSlotBytes = kStageBytes + static_cast<int>(sizeof(StageSync));
  shape.slots = (available - scratch) / kSlotBytes;
  if (shape.slots < kLeastSlots) shape.slots = 0;
  shape.sharedBytes = shape.slots * kSlotBytes + scratch;
  shape.kernel = kernelFor(size, tokens);
  return shape;
}

}  // namespace

ParameterLayout::ParameterLayout(const Dimensions& d) {
  paddedModel = static_cast<std::uint32_t>(tilesFor(d.model) * kTileRows);
  paddedInner = static_cast<std::uint32_t>(tilesFor(d.inner) * kTileRows);
  std::uint32_t at = 0;
  const auto take = [&](std::uint32_t size) { return std::exchange(at, at + size); };
  norm = take(paddedModel);
  normBias = take(paddedModel);
  inBias = take(2 * paddedInner);
  conv = take(d.taps * paddedInner);
  convBias = take(paddedInner);
  dtBias = take(paddedInner);
  decay = take(d.states * paddedInner);
  skip = take(paddedInner);
  outBias = take(paddedModel);
  layerSize = at;
}

DeviceWeights::DeviceWeights(const Dimensions& d, std::uint32_t blockCount)
    : plan(d, blockCount),
      layout(d),
      tiles(plan.tiles() * 32),
      blocks(blockCount),
      parameters(static_cast<std::size_t>(d.layers) * layout.layerSize + 2 * layout.paddedModel),
      embedding(static_cast<std::size_t>(d.planes) * d.vocabulary * d.model) {
  blocks.upload(plan.blocks().data(), blockCount);
}

std::size_t DeviceWeights::bytes() const {
  return tiles.bytes() + blocks.bytes() + parameters.bytes() + embedding.bytes();
}

Workspace::Workspace(const DeviceWeights& weights, std::uint32_t tokenCount)
    : tokens(tokenCount),
      input(tokens),
      residual(static_cast<std::size_t>(tokens) * weights.layout.paddedModel),
      partial(static_cast<std::size_t>(tokens) * projectedRows(weights.plan.dimensions()) *
              weights.blocks.size()),
      projected(static_cast<std::size_t>(tokens) * projectedRows(weights.plan.dimensions())),
      gated(static_cast<std::size_t>(tokens) * weights.layout.paddedInner),
      logits(static_cast<std::size_t>(tokens) * weights.plan.dimensions().vocabulary),
      arrivals(1) {
  const Dimensions& d = weights.plan.dimensions();
  const std::size_t trace =
      static_cast<std::size_t>(d.layers) * tokens * weights.layout.paddedInner;
  traceInput = DeviceArray<float>(trace);
  traceConvolved = DeviceArray<float>(trace);
  traceDelta = DeviceArray<float>(trace);
  traceB = DeviceArray<float>(static_cast<std::size_t>(d.layers) * tokens * d.states);
}

void packTiles(DeviceWeights& weights, Matrix matrix, std::uint32_t layer, const float* values,
               std::uint32_t columns, cudaStream_t stream) {
  const std::vector<TileRow> rows = weights.plan.tileRows(matrix, layer);
  DeviceArray<TileRow> onDevice(rows.size());
  onDevice.upload(rows.data(), rows.size());
  const PackArguments arguments{onDevice.data(), values, columns, weights.plan.dimensions().planes,
                                weights.tiles.data()};
  packKernel<<<static_cast<unsigned>(rows.size()), 256, 0, stream>>>(arguments);
  check(cudaGetLastError(), "packing weights");
  check(cudaStreamSynchronize(stream), "packing weights");
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
  std::uint32_t tokens = 4;
  while (tokens < run.tokens) tokens *= 2;
  const Shape shape = shapeFor(weights, tokens);
  check(cudaFuncSetAttribute(shape.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             shape.sharedBytes),
        "cudaFuncSetAttribute");
  const auto grid = static_cast<std::uint32_t>(weights.blocks.size());
  ChunkArguments arguments{.size = weights.plan.dimensions(),
                           .layout = weights.layout,
                           .layerNorm = weights.layerNorm,
                           .epsilon = weights.epsilon,
                           .tiles = weights.tiles.data(),
                           .blocks = weights.blocks.data(),
                           .parameters = weights.parameters.data(),
                           .embedding = weights.embedding.data(),
                           .input = workspace.input.data(),
                           .residual = workspace.residual.data(),
                           .partial = workspace.partial.data(),
                           .projected = workspace.projected.data(),
                           .gated = workspace.gated.data(),
                           .logits = workspace.logits.data(),
                           .traceInput = run.trace ? workspace.traceInput.data() : nullptr,
                           .traceConvolved = workspace.traceConvolved.data(),
                           .traceDelta = workspace.traceDelta.data(),
                           .traceB = run.trace ? workspace.traceB.data() : nullptr,
                           .taps = run.taps ? workspace.taps.data() : nullptr,
                           .arrivals = workspace.arrivals.data(),
                           .arrived = workspace.awaited,
                           .capacity = workspace.tokens,
                           .tokens = run.tokens,
                           .stateIn = run.stateIn,
                           .stateOut = run.stateOut,
                           .head = run.logits,
                           .slots = shape.slots,
                           .operandBytes = shape.operandBytes,
                           .channels = static_cast<int>(weights.plan.mostChannels())};
  void* parameters[] = {&arguments};
  check(cudaLaunchCooperativeKernel(shape.kernel, dim3(grid), dim3(kThreads), parameters,
                                    static_cast<std::size_t>(shape.sharedBytes), stream),
        "launching a chunk");
  constexpr std::uint32_t kBarriersPerLayer = 4;
  workspace.awaited += kBarriersPerLayer * weights.plan.dimensions().layers * grid;
}

void replay(const DeviceWeights& weights, const Workspace& workspace, std::uint32_t kept,
            const float* stateIn, float* stateOut, cudaStream_t stream) {
  const Dimensions& d = weights.plan.dimensions();
  const ReplayArguments arguments{.size = d,
                                  .inner = weights.layout.paddedInner,
                                  .capacity = workspace.tokens,
                                  .kept = kept,
                                  .decay = weights.parameters.data() + weights.layout.decay,
                                  .layerSize = weights.layout.layerSize,
                                  .input = workspace.traceInput.data(),
                                  .convolved = workspace.traceConvolved.data(),
                                  .delta = workspace.traceDelta.data(),
                                  .b = workspace.traceB.data(),
                                  .stateIn = stateIn,
                                  .stateOut = stateOut};
  const unsigned values = (d.states + d.taps - 1) * weights.layout.paddedInner;
  replayKernel<<<dim3((values + 255) / 256, d.layers), 256, 0, stream>>>(arguments);
  check(cudaGetLastError(), "replaying a chunk");
}

}  // namespace mb::cuda
