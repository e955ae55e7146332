// The sums of the backward scan across threads: over a channel's states (y, and what gives the
// derivatives by Δ and u'), which four lanes share, and over a warp's channels (the derivatives by
// B and C). One class adds float32 with shuffles, the other lets tensor cores add products of
// bfloat16; both take the tokens of a group one after the other.
#pragma once

#include <cstdint>

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
 public:
  /// Derivatives by B, C go to [GROUP][2n].
  __device__ explicit GroupSums(float* selected) : m_selected(selected) {}

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
  __device__ void keep(int i, float* selected) const {
    constexpr int kStates = kScanLanes * SPL;
    const int lane = m_lanes.lane;
    halve<2 * SPL>(selected, 16, lane & 16);
    halve<SPL>(selected, 8, lane & 8);
    halve<SPL / 2>(selected, 4, lane & 4);
    float* to = m_selected + i * 2 * kStates + (lane & 16 ? kStates : 0) + m_lanes.part * SPL +
                (lane & 8 ? SPL / 2 : 0) + (lane & 4 ? SPL / 4 : 0);
#pragma unroll
    for (int k = 0; k < SPL / 4; ++k) to[k] = selected[k];
  }

  WarpLanes m_lanes;
  float* m_selected;
  float m_sums[GROUP][OWN][3];
};

}  // namespace mb::cuda::training
