// The tokens of a batch on the device: their embeddings, and the embedding's gradient, which is
// summed token by token in the order of the rows.
#pragma once

#include <cstddef>
#include <cuda_runtime_api.h>
#include <span>
#include <vector>

#include "kernels/cuda/memory.h"
#include "kernels/cuda/training/plan.h"

namespace mb::cuda::training {

struct Occurrences;

class TokenTable {
 public:
  /// For at most so many rows.
  TokenTable(const Extents& extents, std::size_t rows);
  ~TokenTable();
  static std::size_t memoryFor(const Extents& extents, std::size_t rows);
  /// Values that addGradient() needs for sums.
  static std::size_t sumsFor(const Extents& extents, std::size_t rows);

  void upload(std::span<const std::int32_t> inputs, std::span<const std::int32_t> targets,
              cudaStream_t stream);
  /// Uploads what addGradient() needs. The host works for a while: best when the device does too.
  void sort(std::span<const std::int32_t> inputs, cudaStream_t stream);
  const std::int32_t* targets() const { return m_targets.data(); }
  /// x = the embedding of each input.
  void embed(const float* embedding, float* x, cudaStream_t stream) const;
  /// gradient[input] += dx, over all rows.
  void addGradient(const float* dx, float* sums, float* gradient, cudaStream_t stream);

 private:
  void findOccurrences(std::span<const std::int32_t> inputs);

  std::uint32_t m_width;
  std::uint32_t m_vocabulary;
  std::size_t m_count = 0;  ///< rows
  DeviceArray<std::int32_t> m_inputs;
  DeviceArray<std::int32_t> m_targets;
  DeviceArray<std::uint32_t> m_rows;    ///< by token, then in their order
  DeviceArray<Occurrences> m_pieces;    ///< of a token's rows
  DeviceArray<Occurrences> m_tokens;    ///< of a token's pieces
  std::vector<std::uint32_t> m_sorted;  ///< host copies of these three
  std::vector<Occurrences> m_hostPieces;
  std::vector<Occurrences> m_hostTokens;
};

}  // namespace mb::cuda::training
