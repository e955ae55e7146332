// The sums of the backward scan across threads: over a channel's states (y, and what gives the
// derivatives by Δ and u'), which four lanes share, and over a warp's channels (the derivatives by
// B and C), through shared memory: that takes fewer instructions than shuffles do.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/training/scan.cuh"

namespace mb::cuda::training {

/// One token as a thread sees it: its OWN channels, and SPL states of each.
template <int OWN, int SPL>
struct TokenBack {
  float b[SPL];
  float c[SPL];
  float after[OWN][SPL];  ///< states
  float ds[OWN][SPL];     ///< derivatives by them
  float gained[OWN];      ///< Δ u'
  float dy[OWN];
  float slope[OWN];  ///< this thread's part of Σ ds Ā s A / ln 2
};

/// Sums over a channel's states of the one token that a lane takes to its end.
template <int OWN>
struct ChannelSums {
  float y[OWN];
  float along[OWN];  ///< Σ ds B
  float slope[OWN];
};

/// A warp's share of a group: which lane is whose.
struct WarpLanes {
  int lane = static_cast<int>(threadIdx.x % 32);
  int part = lane % kScanLanes;  ///< of a channel's states
  int slot = lane / kScanLanes;  ///< of the warp's channels, OWN of them
};

/// Takes the tokens of a group one after the other. GROUP is 4, or 2 when the two upper lanes of a
/// channel have the same sums as the lower.
template <int OWN, int SPL, int GROUP>
class GroupSums {
  static constexpr int kStates = kScanLanes * SPL;
  static constexpr int kTogether = SPL > 4 ? 1 : 2;                 ///< tokens added at a time
  static constexpr int kSums = kTogether * 2 * kStates / 32;        ///< of a lane
  static constexpr int kSumLanes = kStates / kSums;                 ///< of a token's B, or C
  static constexpr int kPartSize = 32 / kScanLanes * kStates + 16;  ///< in different banks

 public:
  static constexpr int kScratch = kTogether * 2 * kPartSize;  ///< floats of a warp

  /// Derivatives by B, C go to [GROUP][2n].
  __device__ GroupSums(float* selected, float* scratch)
      : m_selected(selected), m_scratch(scratch) {}

  __device__ void add(int i, const TokenBack<OWN, SPL>& token) {
    float selected[2 * SPL] = {};
#pragma unroll
    for (int own = 0; own < OWN; ++own) {
      float y = 0;
      float along = 0;
#pragma unroll
      for (int k = 0; k < SPL; ++k) {
        y = fmaf(token.after[own][k], token.c[k], y);
        along = fmaf(token.ds[own][k], token.b[k], along);
        selected[k] = fmaf(token.ds[own][k], token.gained[own], selected[k]);
        selected[SPL + k] = fmaf(token.dy[own], token.after[own][k], selected[SPL + k]);
      }
      m_sums[i][own][0] = y;
      m_sums[i][own][1] = along;
      m_sums[i][own][2] = token.slope[own];
    }
    keep(i, selected);
  }

  __device__ ChannelSums<OWN> finish() {
    constexpr int kAll = GROUP * OWN * 3;
    float* sums = &m_sums[0][0][0];
    halve<kAll>(sums, 2, m_lanes.part & 2);
    if constexpr (GROUP == 4) {
      halve<kAll / 2>(sums, 1, m_lanes.part & 1);
    } else {
#pragma unroll
      for (int i = 0; i < kAll / 2; ++i) sums[i] += __shfl_xor_sync(~0u, sums[i], 1);
    }
    ChannelSums<OWN> result;
#pragma unroll
    for (int own = 0; own < OWN; ++own) {
      result.y[own] = m_sums[0][own][0];
      result.along[own] = m_sums[0][own][1];
      result.slope[own] = m_sums[0][own][2];
    }
    return result;
  }

 private:
  /// Of a token, by B and C, a channel's part.
  __device__ void keep(int i, const float* selected) const {
    const int lane = m_lanes.lane;
    float* own =
        m_scratch + i % kTogether * 2 * kPartSize + m_lanes.slot * kStates + m_lanes.part * SPL;
#pragma unroll
    for (int k = 0; k < SPL; k += 4) {
      *reinterpret_cast<float4*>(own + k) = *reinterpret_cast<const float4*>(selected + k);
      *reinterpret_cast<float4*>(own + kPartSize + k) =
          *reinterpret_cast<const float4*>(selected + SPL + k);
    }
    if (i % kTogether > 0) return;
    using Few = std::conditional_t<kSums == 2, float2, float4>;
    static_assert(sizeof(Few) == sizeof(float) * kSums);
    __syncwarp();
    const int part = lane / kSumLanes;  // of the tokens' B and C
    const int column = lane % kSumLanes * kSums;
    const float* from = m_scratch + part * kPartSize + column;
    float sums[kSums] = {};
#pragma unroll
    for (int slot = 0; slot < 32 / kScanLanes; ++slot) {
      float values[kSums];
      *reinterpret_cast<Few*>(values) = *reinterpret_cast<const Few*>(from + slot * kStates);
#pragma unroll
      for (int k = 0; k < kSums; ++k) sums[k] += values[k];
    }
    *reinterpret_cast<Few*>(m_selected + i * 2 * kStates + part * kStates + column) =
        *reinterpret_cast<const Few*>(sums);
    __syncwarp();
  }

  WarpLanes m_lanes;
  float* m_selected;
  float* m_scratch;
  float m_sums[GROUP][OWN][3];
};

}  // namespace mb::cuda::training
