// Mamba-1 over long stretches of text: cuBLASLt for the projections, and a selective scan that is
// parallel over channels and states.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>
#include <span>
#include <vector>

#include "kernels/cuda/chunk.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/prefill_scan.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/taps.h"

namespace mb::cuda {

/// Reads texts into states, layer by layer over the whole text, and each layer piece by piece. The
/// weights lie in memory once, in the tiles of chunks: one layer at a time is laid out for
/// cuBLASLt. With bfloat16 weights activations are rounded to bfloat16 between the operations, so
/// results differ from those of chunks by that; sums, Δ, the residual and the state are float32.
/// With float32 weights all is float32. Taps take no memory but for their means: what they are made
/// of takes the place of W_dt δ.
class Prefill {
 public:
  struct Capacity {
    std::uint32_t tokens = 0;  ///< most of a run
    std::uint32_t piece = 0;   ///< of a run that pass a layer together
  };
  /// What `budget` bytes in all are enough for; at least one piece of 256 tokens. `beside` is what
  /// the caller needs for each token of a run.
  static Capacity capacityOf(const DeviceWeights& weights, std::size_t budget,
                             std::size_t beside = 0);
  /// Whether the current device has shared memory enough for taps.
  static bool canTap(const DeviceWeights& weights);

  /// The weights must outlive it.
  Prefill(const DeviceWeights& weights, Capacity capacity);

  enum class Logits : std::uint8_t { None, Last, All };
  struct Run {
    std::span<const std::int32_t> tokens;
    const float* stateIn = nullptr;  ///< as on the host; may be stateOut
    float* stateOut = nullptr;
    Logits logits = Logits::None;
    TapMeans taps{};  ///< needs canTap()
  };
  /// Launches everything; results are ready when the stream is.
  void run(const Run& run, cudaStream_t stream);

  /// On the host: [tokens][V], or [V] when only the last were wanted.
  const float* logits() const { return m_hostLogits.data(); }

 private:
  /// Some tokens of a run, and the state of a layer before and after them.
  struct Piece {
    std::uint32_t first = 0;
    std::uint32_t tokens = 0;
    bool last = false;
    const float* stateIn = nullptr;
    float* stateOut = nullptr;
    TapMeans taps{};  ///< of these tokens
  };
  /// Of a layer's weights: in_proj and the channels' parameters, and all others.
  enum Part { kIn, kRest };

  void layOut(Part part, std::uint32_t layer, cudaStream_t stream);
  void await(Part part, cudaStream_t stream);
  template <class Value>
  void runAs(const Run& run, cudaStream_t stream);
  template <class Value>
  void runLayer(std::uint32_t layer, const Run& run, cudaStream_t stream);
  template <class Value>
  void runPiece(std::uint32_t layer, const Piece& piece, cudaStream_t stream);
  template <class Value>
  void select(std::uint32_t layer, const Piece& piece, cudaStream_t stream);
  template <class Value>
  void scan(std::uint32_t layer, const Piece& piece, cudaStream_t stream);
  void keepTaps(std::uint32_t layer, const Piece& piece, cudaStream_t stream) const;
  template <class Value>
  void runHead(const Run& run, cudaStream_t stream);
  template <class Value>
  void runHeadPiece(std::uint32_t first, std::uint32_t rows, float* logits, cudaStream_t stream);
  template <class Value>
  void norm(const float* weight, const float* addend, std::uint32_t first, std::uint32_t tokens,
            cudaStream_t stream);
  template <class Value>
  const Value* matrix(Matrix which) const;
  float* channels(std::uint32_t layer) { return m_channels.data() + layer % 2 * m_channelSize; }
  std::uint32_t pieceOf(std::size_t tokens) const;
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
  std::uint32_t m_piece;
  Products m_products;
  TextScan m_scan;
  std::size_t m_offsets[4];  ///< of a layer's matrices in m_matrices, in values
  DeviceArray<UnpackRow> m_layerRows;
  std::size_t m_inRows = 0;  ///< of m_layerRows, those of in_proj
  DeviceArray<UnpackRow> m_headRows;
  std::uint32_t m_headPiece = 0;      ///< tile rows of the head that fit m_matrices
  DeviceArray<std::byte> m_matrices;  ///< of one layer, row-major, padded with zeros
  DeviceArray<float> m_channels;      ///< [2][field][e] of two layers, see RecordField
  std::size_t m_channelSize = 0;
  Stream m_layingOut;
  Event m_used;  ///< what is laid out next takes the place of what is used by then
  Event m_laidOut[2];

  DeviceArray<std::int32_t> m_tokens;
  DeviceArray<float> m_residual;  ///< [tokens][d]
  /// u, z: [piece][2][e], then W_dt δ in the place of u, and there what taps are made of.
  DeviceArray<std::byte> m_expanded;
  DeviceArray<std::byte> m_convolved;  ///< norm(x) [piece][d], then u' [piece][e], then gated
  DeviceArray<std::byte> m_rankInput;  ///< δ [piece][r]
  DeviceArray<float> m_selected;       ///< δ, B, C [piece][rows of x_proj]
  DeviceArray<float> m_logits;
  PinnedArray<float> m_hostLogits;
};

}  // namespace mb::cuda
