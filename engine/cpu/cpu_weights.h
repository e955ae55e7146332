// A model's weights in the layouts the CPU kernels read.
#pragma once

#include <stop_token>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/model/model.h"
#include "engine/types.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/memory.h"

namespace mb {

/// Strides of the padded arrays of one model. Sections of a product's rows start at multiples
/// of 16.
struct CpuLayout {
  explicit CpuLayout(const ModelConfig& config);

  std::size_t model;       ///< d
  std::size_t inner;       ///< e
  std::size_t vocabulary;  ///< V
  std::size_t bOffset;     ///< start of B behind δ in the output of x_proj
  std::size_t cOffset;     ///< start of C
  std::size_t xProj;       ///< rows of x_proj
};

/// Row-major embedding, looked up one row at a time.
class EmbeddingTable {
 public:
  EmbeddingTable() = default;
  EmbeddingTable(std::size_t rows, std::size_t width, WeightPrecision precision);
  void setRow(std::size_t row, std::span<const float> values);
  /// Writes the row of `token`, widened, to out[0 .. width).
  void row(Token token, float* out) const;

 private:
  std::size_t m_width = 0;
  AlignedArray<std::uint16_t> m_bfloat16;  ///< filled when weights are bfloat16
  AlignedArray<float> m_float32;           ///< filled when they are float32
};

struct NormWeights {
  AlignedArray<float> weight;
  AlignedArray<float> bias;  ///< empty for RMSNorm
};

struct CpuLayer {
  NormWeights norm;
  cpu::PackedMatrix inProj;      ///< u rows at 0, z rows at layout.inner
  AlignedArray<float> inBias;    ///< or empty
  AlignedArray<float> conv;      ///< [taps][inner]
  AlignedArray<float> convBias;  ///< or empty
  cpu::PackedMatrix xProj;       ///< δ, B, C rows at 0, bOffset, cOffset
  cpu::PackedMatrix dtProj;
  AlignedArray<float> dtBias;
  AlignedArray<float> aLog2e;  ///< -exp(A_log) · log2(e), in blocks [inner / 16][states][16]
  AlignedArray<float> d;
  cpu::PackedMatrix outProj;
  AlignedArray<float> outBias;  ///< or empty
};

struct CpuWeights {
  /// Reads, checks and packs all tensors on the pool's threads. Throws FormatError naming the
  /// tensor for values that are not finite, and Stopped.
  CpuWeights(const WeightSource& source, WeightPrecision precision, cpu::ThreadPool& pool,
             std::stop_token stop);

  /// Bytes that decoding one token reads.
  std::size_t bytesPerStep() const;

  ModelConfig config;
  CpuLayout layout;
  EmbeddingTable embedding;
  std::vector<CpuLayer> layers;
  NormWeights finalNorm;
  cpu::PackedMatrix head;  ///< the embedding again when tied
};

}  // namespace mb
