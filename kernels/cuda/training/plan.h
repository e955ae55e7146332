// Where the weights of a model that is trained lie on the device: as in its checkpoint, but with
// rows and columns padded with zeros, so that no kernel meets the end of one. What is zero there
// stays zero.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mb::cuda::training {

inline constexpr std::uint32_t kMostTrainedStates = 64;  ///< n that the scan takes
inline constexpr std::uint32_t kMostTrainedTaps = 9;     ///< k that the convolution takes
inline constexpr std::size_t kTensorGrain = 1024;        ///< values that a tensor is padded to

/// Sizes of a model. `…Padded` are those on the device.
struct Extents {
  std::uint32_t model = 0;       ///< d
  std::uint32_t inner = 0;       ///< e
  std::uint32_t states = 0;      ///< n
  std::uint32_t taps = 0;        ///< k
  std::uint32_t rank = 0;        ///< r
  std::uint32_t layers = 0;      ///< L
  std::uint32_t vocabulary = 0;  ///< V
  float epsilon = 0;             ///< of the norms
  bool convBias = false;
  bool tiedHead = false;

  std::uint32_t modelPadded() const;
  std::uint32_t innerPadded() const;
  std::uint32_t statesPadded() const;
  std::uint32_t rankPadded() const;
  std::uint32_t vocabularyPadded() const;
  /// Of a row of δ, B, C.
  std::uint32_t selected() const { return rankPadded() + 2 * statesPadded(); }
  /// Values that a layer remembers of a stream: conv's inputs [k - 1][e], then s [e][n].
  std::size_t stateSize() const { return std::size_t{innerPadded()} * (taps - 1 + statesPadded()); }
};

/// A matrix, or a vector as one row.
struct Tensor {
  std::size_t offset = 0;
  std::uint32_t rows = 0;
  std::uint32_t columns = 0;
  bool decays = false;

  std::size_t size() const { return std::size_t{rows} * columns; }
};

struct LayerTensors {
  Tensor norm;      ///< [d]
  Tensor inProj;    ///< [2e][d]: u, then z
  Tensor conv;      ///< [e][k]
  Tensor convBias;  ///< [e]; zero and never changed where the model has none
  Tensor xProj;     ///< [r + 2n][e]: δ, B, C
  Tensor dtProj;    ///< [e][r]
  Tensor dtBias;    ///< [e]
  Tensor decay;     ///< A_log: [e][n]
  Tensor skip;      ///< D: [e]
  Tensor outProj;   ///< [d][e]
};

struct Plan {
  explicit Plan(const Extents& extents);

  Extents extents;
  Tensor embedding;  ///< [V][d]
  Tensor finalNorm;  ///< [d]
  Tensor head;       ///< [V][d]; the embedding when tied
  std::vector<LayerTensors> layers;
  std::vector<std::uint8_t> decays;  ///< of each kTensorGrain values
  std::size_t size = 0;              ///< of all

 private:
  Tensor take(std::uint32_t rows, std::uint32_t columns, bool decays);
};

}  // namespace mb::cuda::training
