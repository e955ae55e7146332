// The selective scan of several streams, backward. A block takes some channels of a segment of a
// stream from its last tile to its first. In each tile it makes the states again from the one that
// the forward pass left: first those at the beginning of every few tokens, then, going back, the
// few in between, which stay in registers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/training/scan_ahead.cuh"
#include "kernels/cuda/training/scan_back_sums.cuh"

namespace mb::cuda::training {

template <class Value>
struct ScanBackArguments {
  SegmentArguments segments;
  ScanArguments<Value> forward;  ///< `delta` becomes the derivative by W_dt δ
  Value* dConvolved;             ///< by the gated output [rows][e]; becomes that by u'
  Value* gated;                  ///< rows of [2e]: the gated output, and the derivative by z
  Value* dSelected;              ///< by B, C of each block's channels [blocks][rows][2n]
  float* dDecay;                 ///< by A_log [streams][segments][e][n]
  float* dDtBias;                ///< [streams][segments][e]
  float* dSkip;                  ///< [streams][segments][e]
  float* dStateIn;               ///< in strides as the states; or null
};

template <class Value, int SPL>
class ScanBack {
 public:
  static constexpr int kOwn = SPL > 4 ? 1 : 2;  ///< channels of a thread
  static constexpr int kChannels = kScanThreads / kScanLanes * kOwn;

 private:
  using Tile = ScanTile<SPL>;
  static constexpr int kGroup = SPL > 4 ? 2 : 4;  ///< tokens whose states a thread holds
  static constexpr int kGroups = Tile::kTokens / kGroup;
  static constexpr int kWarps = kScanThreads / 32;
  using Token = TokenBack<kOwn, SPL>;
  using Sums = GroupSums<kOwn, SPL, kGroup>;

 public:
  struct Shared {
    alignas(16) float delta[Tile::kTokens][kChannels];  ///< Δ; then the derivative by W_dt δ
    alignas(16) float input[Tile::kTokens][kChannels];  ///< u'; then the derivative by it
    alignas(16) float dy[Tile::kTokens][kChannels];     ///< by y; then y
    alignas(16) float selected[Tile::kTokens][Tile::kRow];
    /// States before each group; when a warp has taken them, by B and C of its channels, as
    /// [kGroup][2n].
    alignas(16) float4 starts[kGroups][kWarps][kOwn * SPL / 4][32];
    alignas(16) float scratch[kWarps][Sums::kScratch];
  };

  __device__ ScanBack(const ScanBackArguments<Value>& arguments, Shared& tile)
      : a(arguments),
        m_forward(arguments.forward),
        m_tile(tile),
        m_lane(static_cast<int>(threadIdx.x % kScanLanes)),
        m_own(static_cast<int>(threadIdx.x) / kScanLanes * kOwn),
        m_first(blockIdx.x * kChannels) {}

  __device__ void run() {
#pragma unroll
    for (int c = 0; c < kOwn; ++c) {
      loadRates<SPL>(m_forward.decay + place(c), m_rate[c]);
      m_skip[c] = m_forward.skip[m_first + m_own + c];
    }
    takeOver();
    const std::uint32_t begin = blockIdx.z * a.segments.tiles;
    const std::uint32_t end = min(begin + a.segments.tiles, m_forward.tiles(Tile::kTokens));
    for (std::uint32_t tile = end; tile-- > begin;) {
      const std::uint32_t first = tile * Tile::kTokens;
      const Start start = startAt(tile);
      prepare(first);
      __syncthreads();
      makeStarts(start);
#pragma unroll 1
      for (int group = kGroups; group-- > 0;) backGroup(group);
      const TileRows rows(*this, first);
      Gates gates;
      gates.load(a, rows);
      __syncthreads();
      // Threads write what they have prepared, and prepare it anew: nobody else waits for it.
      write(rows, gates);
      writeSelected(first);
    }
    finish();
  }

 private:
  __device__ std::size_t place(int c) const {
    return std::size_t{m_first + m_own + c} * Tile::kStates + m_lane * SPL;
  }

  /// Derivatives by the state at the segment's end, from the segments behind it.
  __device__ void takeOver() {
    for (std::uint32_t segment = a.segments.segments; --segment > blockIdx.z;) {
      const std::size_t at = a.segments.of(blockIdx.y, segment) * m_forward.channels;
#pragma unroll
      for (int c = 0; c < kOwn; ++c) {
        float end[SPL];
        loadState<SPL>(a.segments.ends + at * Tile::kStates + place(c), end);
        const float deltas = a.segments.deltas[at + m_first + m_own + c];
#pragma unroll
        for (int k = 0; k < SPL; ++k)
          m_ds[c][k] = fmaf(power2(deltas * m_rate[c][k]), m_ds[c][k], end[k]);
      }
    }
  }

  using Share = RowShare<kChannels>;
  static constexpr int kRounds = (Tile::kTokens + Share::kRows - 1) / Share::kRows;

  /// The rows of a tile that a thread takes, one a round, of eight channels. All loads of all
  /// rounds are started before the first is waited for.
  class TileRows {
   public:
    /// Found anew each time: the groups have no registers to keep it in.
    __device__ TileRows(const ScanBack& scan, std::uint32_t first)
        : m_forward(scan.m_forward), m_first(first) {
      int thread = static_cast<int>(threadIdx.x);
      asm volatile("" : "+r"(thread));
      m_row = Share::row(thread);
      m_column = Share::column(thread);
      m_channel = scan.m_first + static_cast<std::uint32_t>(m_column);
    }
    __device__ int row(int round) const { return m_row + round * Share::kRows; }
    __device__ int column() const { return m_column; }
    __device__ std::uint32_t channel() const { return m_channel; }
    __device__ bool isReal(int round) const {
      return row(round) < Tile::kTokens && m_first + row(round) < m_forward.tokens;
    }
    /// Of values [rows][e].
    __device__ std::size_t at(int round) const {
      return rowAt(round) * m_forward.channels + m_channel;
    }
    /// In the second half of rows of [2e].
    __device__ std::size_t atSecond(int round) const {
      return (2 * rowAt(round) + 1) * m_forward.channels + m_channel;
    }

   private:
    __device__ std::size_t rowAt(int round) const {
      return m_forward.firstRow() + m_first + row(round);
    }

    const ScanArguments<Value>& m_forward;
    std::uint32_t m_first;  ///< token of the tile
    int m_row;
    int m_column;
    std::uint32_t m_channel;
  };

  /// z, and the derivative by the gated output.
  struct Gates {
    Octet<Value> gate[kRounds];
    Octet<Value> dGated[kRounds];

    __device__ void load(const ScanBackArguments<Value>& a, const TileRows& rows) {
#pragma unroll
      for (int i = 0; i < kRounds; ++i) {
        gate[i] = {};
        dGated[i] = {};
        if (!rows.isReal(i)) continue;
        gate[i] = octetAt(a.forward.expanded + rows.atSecond(i));
        dGated[i] = octetAt(a.dConvolved + rows.at(i));
      }
    }
  };

  /// Δ, u' and the derivative by y. Behind the last token all are zero, and so change nothing.
  __device__ void prepare(std::uint32_t first) const {
    const TileRows rows(*this, first);
    SelectedShare<Value, SPL> selected;
    selected.load(m_forward, first);
    Octet<Value> raw[kRounds], input[kRounds];
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      raw[i] = {};
      input[i] = {};
      if (!rows.isReal(i)) continue;
      raw[i] = octetAt(m_forward.delta + rows.at(i));
      input[i] = octetAt(m_forward.convolved + rows.at(i));
    }
    Gates gates;
    gates.load(a, rows);
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      const int row = rows.row(i);
      if (row >= Tile::kTokens) break;
      float delta[8], inputs[8], dy[8];
      takeDeltas(raw[i], m_forward.dtBias + rows.channel(), rows.isReal(i) ? 1.0f : 0.0f, delta);
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        inputs[k] = input[i][k];
        dy[k] = gates.dGated[i][k] * silu(gates.gate[i][k]);
      }
      storeEight(m_tile.delta[row] + rows.column(), delta);
      storeEight(m_tile.input[row] + rows.column(), inputs);
      storeEight(m_tile.dy[row] + rows.column(), dy);
    }
    selected.store(m_tile.selected);
  }

  /// The states of a thread's channels at the beginning of a tile, as they are loaded.
  struct Start {
    Packed<Value> quads[kOwn][SPL / 4];
  };
  __device__ Start startAt(std::uint32_t tile) const {
    const std::size_t tiles = m_forward.tiles(Tile::kTokens);
    const Value* from = m_forward.tileStates + (blockIdx.y * tiles + tile) * m_forward.channels *
                                                   std::size_t{Tile::kStates};
    Start start;
#pragma unroll
    for (int c = 0; c < kOwn; ++c)
#pragma unroll
      for (int q = 0; q < SPL / 4; ++q) start.quads[c][q] = packedAt(from + place(c) + 4 * q);
    return start;
  }

  /// A token's values of this thread's channels.
  __device__ void loadOwn(const float* row, float (&to)[kOwn]) const {
    if constexpr (kOwn == 2) {
      const float2 both = *reinterpret_cast<const float2*>(row + m_own);
      to[0] = both.x;
      to[1] = both.y;
    } else {
      to[0] = row[m_own];
    }
  }
  __device__ void storeOwn(const float (&from)[kOwn], float* row) const {
    if constexpr (kOwn == 2)
      *reinterpret_cast<float2*>(row + m_own) = {from[0], from[1]};
    else
      row[m_own] = from[0];
  }

  __device__ static int warp() {
    return static_cast<int>(threadIdx.x) / 32;
  }
  __device__ static int lane() {
    return static_cast<int>(threadIdx.x) % 32;
  }

  __device__ void keepStart(int group, const float (&state)[kOwn][SPL]) {
#pragma unroll
    for (int q = 0; q < kOwn * SPL / 4; ++q)
      m_tile.starts[group][warp()][q][lane()] =
          *reinterpret_cast<const float4*>(&state[0][0] + 4 * q);
  }
  __device__ void takeStart(int group, float (&state)[kOwn][SPL]) const {
#pragma unroll
    for (int q = 0; q < kOwn * SPL / 4; ++q)
      *reinterpret_cast<float4*>(&state[0][0] + 4 * q) = m_tile.starts[group][warp()][q][lane()];
    __syncwarp();  // the place is used again
  }

  /// Ā and the state after a token.
  __device__ void advance(int t, const float (&before)[kOwn][SPL], float (&kept)[kOwn][SPL],
                          float (&after)[kOwn][SPL]) const {
    float b[SPL], delta[kOwn], input[kOwn];
    loadShared<SPL>(m_tile.selected[t] + m_lane * SPL, b);
    loadOwn(m_tile.delta[t], delta);
    loadOwn(m_tile.input[t], input);
#pragma unroll
    for (int c = 0; c < kOwn; ++c) {
      const float gained = delta[c] * input[c];
#pragma unroll
      for (int k = 0; k < SPL; ++k) {
        kept[c][k] = power2(delta[c] * m_rate[c][k]);
        after[c][k] = fmaf(kept[c][k], before[c][k], gained * b[k]);
      }
    }
  }

  /// States before all groups.
  __device__ void makeStarts(const Start& start) {
    float state[kOwn][SPL];
#pragma unroll
    for (int c = 0; c < kOwn; ++c)
#pragma unroll
      for (int q = 0; q < SPL / 4; ++q)
        *reinterpret_cast<float4*>(state[c] + 4 * q) = widened(start.quads[c][q]);
#pragma unroll 1
    for (int group = 0; group < kGroups; ++group) {
      keepStart(group, state);
      if (group + 1 == kGroups) return;
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        float kept[kOwn][SPL];
        advance(group * kGroup + i, state, kept, state);
      }
    }
  }

  __device__ void backGroup(int group) {
    float start[kOwn][SPL];
    takeStart(group, start);
    const int first = group * kGroup;
    float kept[kGroup][kOwn][SPL];    // Ā
    float states[kGroup][kOwn][SPL];  // after each token
#pragma unroll
    for (int i = 0; i < kGroup; ++i)
      advance(first + i, i == 0 ? start : states[i - 1], kept[i], states[i]);
    Sums sums(reinterpret_cast<float*>(m_tile.starts[group][warp()]), m_tile.scratch[warp()]);
#pragma unroll
    for (int i = kGroup - 1; i >= 0; --i)
      sums.add(i, backToken(first + i, kept[i], i == 0 ? start : states[i - 1], states[i]));
    finishToken(first, sums.finish());
  }

  /// Through one token.
  __device__ Token backToken(int t, const float (&kept)[kOwn][SPL],
                             const float (&before)[kOwn][SPL], const float (&after)[kOwn][SPL]) {
    Token token;
    float delta[kOwn], input[kOwn];
    loadShared<SPL>(m_tile.selected[t] + m_lane * SPL, token.b);
    loadShared<SPL>(m_tile.selected[t] + Tile::kStates + m_lane * SPL, token.c);
    loadOwn(m_tile.delta[t], delta);
    loadOwn(m_tile.input[t], input);
    loadOwn(m_tile.dy[t], token.dy);
#pragma unroll
    for (int c = 0; c < kOwn; ++c) {
      token.gained[c] = delta[c] * input[c];
      token.slope[c] = 0;
#pragma unroll
      for (int k = 0; k < SPL; ++k) {
        token.after[c][k] = after[c][k];
        token.ds[c][k] = fmaf(token.dy[c], token.c[k], m_ds[c][k]);
        m_ds[c][k] = token.ds[c][k] * kept[c][k];
        const float change = m_ds[c][k] * before[c][k];
        token.slope[c] = fmaf(change, m_rate[c][k], token.slope[c]);
        m_dDecay[c][k] = fmaf(change, delta[c], m_dDecay[c][k]);
      }
    }
    return token;
  }

  /// Takes the token of the group that is this lane's to its end.
  __device__ void finishToken(int first, const ChannelSums<kOwn>& sums) {
    const bool counts = kGroup == 4 || m_lane % 2 == 0;
    const int t = first + (kGroup == 4 ? m_lane : m_lane / 2);
    float delta[kOwn], input[kOwn], dy[kOwn];
    loadOwn(m_tile.delta[t], delta);
    loadOwn(m_tile.input[t], input);
    loadOwn(m_tile.dy[t], dy);
    __syncwarp();
    if (counts) {
#pragma unroll
      for (int c = 0; c < kOwn; ++c) {
        const float gained = fmaf(sums.along[c], input[c], kLn2 * sums.slope[c]);
        const float skipped = dy[c] * m_skip[c];
        m_dSkip[c] = fmaf(dy[c], input[c], m_dSkip[c]);
        dy[c] = fmaf(m_skip[c], input[c], sums.y[c]);
        input[c] = fmaf(sums.along[c], delta[c], skipped);
        delta[c] = gained * softplusSlope(delta[c]);
        m_dDtBias[c] += delta[c];
      }
      storeOwn(delta, m_tile.delta[t]);
      storeOwn(input, m_tile.input[t]);
      storeOwn(dy, m_tile.dy[t]);
    }
    __syncwarp();
  }

  __device__ void write(const TileRows& rows, const Gates& gates) const {
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      if (!rows.isReal(i)) return;
      const int row = rows.row(i);
      float delta[8], input[8], y[8], gated[8], dGate[8];
      loadEight(m_tile.delta[row] + rows.column(), delta);
      loadEight(m_tile.input[row] + rows.column(), input);
      loadEight(m_tile.dy[row] + rows.column(), y);
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const float gate = gates.gate[i][k];
        const float s = sigmoid(gate);
        gated[k] = y[k] * gate * s;
        dGate[k] = gates.dGated[i][k] * y[k] * siluSlope(gate, s);
      }
      using Out = Octet<Value>;
      setOctet(m_forward.delta + rows.at(i), Out::of(delta));
      setOctet(a.dConvolved + rows.at(i), Out::of(input));
      setOctet(a.gated + rows.atSecond(i) - m_forward.channels, Out::of(gated));
      setOctet(a.gated + rows.atSecond(i), Out::of(dGate));
    }
  }

  /// Derivatives by B and C, summed over the warps.
  __device__ void writeSelected(std::uint32_t first) const {
    const std::size_t rows = std::size_t{gridDim.y} * m_forward.tokens;
    Value* to = a.dSelected + (blockIdx.x * rows + m_forward.firstRow() + first) * Tile::kRow;
#pragma unroll 1
    for (int i = 4 * static_cast<int>(threadIdx.x); i < Tile::kTokens * Tile::kRow;
         i += 4 * kScanThreads) {
      if (first + i / Tile::kRow >= m_forward.tokens) return;
      constexpr int kGroupValues = kGroup * Tile::kRow;
      float4 sum{0, 0, 0, 0};
#pragma unroll
      for (int from = 0; from < kWarps; ++from)
        sum = sum + reinterpret_cast<const float4*>(
                        m_tile.starts[i / kGroupValues][from])[i % kGroupValues / 4];
      setQuad(to + i, sum);
    }
  }

  __device__ void finish() const {
#pragma unroll
    for (int c = 0; c < kOwn; ++c) {
      float dDecay[SPL];
#pragma unroll
      for (int k = 0; k < SPL; ++k) dDecay[k] = m_dDecay[c][k] * m_rate[c][k] * kLn2;
      const std::size_t at = a.segments.of(blockIdx.y, blockIdx.z) * m_forward.channels;
      storeState<SPL>(dDecay, a.dDecay + at * Tile::kStates + place(c));
      if (a.dStateIn && blockIdx.z == 0)
        storeState<SPL>(m_ds[c], a.dStateIn + blockIdx.y * m_forward.stateStride + place(c));
      float bias = m_dDtBias[c];
      float skip = m_dSkip[c];
#pragma unroll
      for (int distance = 2; distance > 0; distance /= 2) {
        bias += __shfl_xor_sync(~0u, bias, distance);
        skip += __shfl_xor_sync(~0u, skip, distance);
      }
      if (m_lane > 0) continue;
      a.dDtBias[at + m_first + m_own + c] = bias;
      a.dSkip[at + m_first + m_own + c] = skip;
    }
  }

  const ScanBackArguments<Value>& a;
  const ScanArguments<Value>& m_forward;
  Shared& m_tile;
  int m_lane;
  int m_own;              ///< first of this thread's channels in the block
  std::uint32_t m_first;  ///< first channel of the block
  float m_rate[kOwn][SPL];
  float m_skip[kOwn];
  float m_ds[kOwn][SPL] = {};  ///< by the state after the token that comes next
  float m_dDecay[kOwn][SPL] = {};
  float m_dDtBias[kOwn] = {};
  float m_dSkip[kOwn] = {};
};

/// Grid: channels, streams, segments.
template <class Value, int SPL>
__global__ void __launch_bounds__(kScanThreads, SPL > 4 ? 2 : 3)
    scanBackKernel(const __grid_constant__ ScanBackArguments<Value> a) {
  extern __shared__ __align__(16) unsigned char memory[];
  using Work = ScanBack<Value, SPL>;
  Work(a, *reinterpret_cast<typename Work::Shared*>(memory)).run();
}

}  // namespace mb::cuda::training
