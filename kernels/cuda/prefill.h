// Mamba-1 over long stretches of text: cuBLAS for the projections, and a selective scan that is
// parallel over channels and over segments of the text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>
#include <span>
#include <vector>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/chunk.h"
#include "kernels/cuda/memory.h"

namespace mb::cuda {

/// Reads texts into states. The weights lie in memory once, in the tiles of chunks: one layer at a
/// time is laid out for cuBLAS. With bfloat16 weights activations are rounded to bfloat16 between
/// the operations, so results differ from those of chunks by that; sums, Δ, the residual and the
/// state are float32. With float32 weights all is float32.
class Prefill {
 public:
  /// Most tokens of which the activations fit `budget` bytes; no fewer than 256.
  static std::uint32_t mostTokens(const DeviceWeights& weights, std::size_t budget);

  /// For runs of at most `tokens` tokens. The weights must outlive it.
  Prefill(const DeviceWeights& weights, std::uint32_t tokens);

  enum class Logits : std::uint8_t { None, Last, All };
  struct Run {
    std::span<const std::int32_t> tokens;
    const float* stateIn = nullptr;  ///< as on the host; may be stateOut
    float* stateOut = nullptr;
    Logits logits = Logits::None;
  };
  /// Launches everything; results are ready when the stream is.
  void run(const Run& run, cudaStream_t stream);

  /// On the host: [tokens][V], or [V] when only the last were wanted.
  const float* logits() const { return m_hostLogits.data(); }

 private:
  template <class Value>
  void runAs(const Run& run, cudaStream_t stream);
  template <class Value>
  void runLayer(std::uint32_t layer, const Run& run, cudaStream_t stream);
  template <class Value>
  void runHead(const Run& run, cudaStream_t stream);
  template <class Value>
  void scan(std::uint32_t layer, const Run& run, cudaStream_t stream);
  void reserveLogits(std::size_t rows);

  void addRows(Matrix matrix, std::uint32_t columns, std::size_t offset,
               std::vector<UnpackRow>& to) const;

  const DeviceWeights& m_weights;
  Dimensions m_size;
  std::uint32_t m_model;  ///< padded to 16, as everything here
  std::uint32_t m_inner;
  std::uint32_t m_projected;
  std::uint32_t m_rank;
  std::size_t m_valueBytes;
  Blas m_blas;
  std::size_t m_offsets[4];  ///< of a layer's matrices in m_matrices, in values
  DeviceArray<UnpackRow> m_layerRows;
  DeviceArray<UnpackRow> m_headRows;
  std::uint32_t m_headPiece = 0;      ///< tile rows of the head that fit m_matrices
  DeviceArray<std::byte> m_matrices;  ///< of one layer, row-major, padded with zeros
  DeviceArray<float> m_channels;      ///< [field][e] of one layer, see RecordField

  DeviceArray<std::int32_t> m_tokens;
  DeviceArray<float> m_residual;       ///< [tokens][d]
  DeviceArray<std::byte> m_normed;     ///< [tokens][d], then δ [tokens][r]
  DeviceArray<std::byte> m_expanded;   ///< u, z: [tokens][2][e]
  DeviceArray<std::byte> m_convolved;  ///< u' [tokens][e]
  DeviceArray<std::byte> m_delta;      ///< W_dt δ [tokens][e], then the gated output
  DeviceArray<float> m_selected;       ///< δ, B, C [tokens][rows of x_proj]
  DeviceArray<float> m_segmentEnds;    ///< [segments][e / 16][n][16]
  DeviceArray<float> m_segmentSums;    ///< Σ Δ [segments][e]
  DeviceArray<float> m_start;          ///< the first state, when the new one takes its place
  DeviceArray<float> m_logits;
  PinnedArray<float> m_hostLogits;
};

}  // namespace mb::cuda
