// One layer forward and backward, over rows of tokens of several streams.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cuda_runtime_api.h>

#include "kernels/cuda/memory.h"
#include "kernels/cuda/training/plan.h"
#include "kernels/cuda/training/products.h"
#include "kernels/cuda/training/stage_clock.h"
#include "kernels/cuda/training/weights.h"

namespace mb::cuda::training {

/// What a pass goes over.
struct PassShape {
  std::uint32_t streams = 0;
  std::uint32_t tokens = 0;  ///< of a stream

  std::size_t rows() const { return std::size_t{streams} * tokens; }
  /// Tiles of the scan, at whose beginnings states are kept.
  std::size_t tiles(const Extents& extents) const;
};

/// What one layer keeps from the forward to the backward pass, and the streams' states.
template <class Value>
struct LayerMemory {
  Value* normed;         ///< x / rms(x) [rows][d]
  float* scales;         ///< 1 / rms(x) [rows]
  Value* selected;       ///< δ, B, C [rows][r + 2n]
  Value* tileStates;     ///< [streams][tiles][e][n], or null when there is no backward pass
  Value* expanded;       ///< u, z [rows][2e]
  Value* convolved;      ///< u' [rows][e]
  Value* delta;          ///< W_dt δ [rows][max(d, e)], then the derivative by it
  bool expandsAgain;     ///< `expanded` is not what the forward pass left there
  bool convolvesAgain;   ///< nor are `convolved` and `delta`
  const float* stateIn;  ///< of the first stream, Extents::stateSize() each
  float* stateOut;       ///< likewise
  float* stateGradient;  ///< likewise; or null
};

/// How the backward scan cuts streams up, when there are few, so that every multiprocessor has
/// work.
struct SegmentShape {
  std::uint32_t segments;  ///< of a stream
  std::uint32_t tiles;     ///< of a segment
};

template <class Value>
class LayerPass {
 public:
  /// For at most so many rows. Plan and weights must outlive it.
  LayerPass(const Plan& plan, Weights<Value>& weights, const PassShape& most);
  static std::size_t memoryFor(const Extents& extents, const PassShape& most);
  /// Values of LayerMemory::delta.
  static std::size_t deltaSize(const Extents& extents, const PassShape& most) {
    return most.rows() * std::max(extents.modelPadded(), extents.innerPadded());
  }

  /// x += block(norm(x)).
  void forward(std::uint32_t layer, const LayerMemory<Value>& memory, const PassShape& shape);
  /// From the derivative by what the layer adds to, in x() and rounded(), to that by what it took,
  /// in the same place. Adds to the weights' gradients.
  void backward(std::uint32_t layer, const LayerMemory<Value>& memory, const PassShape& shape);

  float* x() { return m_x.data(); }                  ///< [rows][d]
  Value* rounded() { return m_rounded.data(); }      ///< [rows][d]
  Value* convolved() { return m_convolved.data(); }  ///< for layers that do not keep theirs
  Value* delta() { return m_delta.data(); }          ///< likewise
  Value* wide() { return m_dConvolved.data(); }      ///< free between layers: [rows][d]
  Value* otherWide() { return m_dExpanded.data(); }  ///< likewise
  float* parts() { return m_parts.data(); }          ///< likewise, of partsFor() values
  static std::size_t partsFor(const Extents& extents, const PassShape& most);
  PassProducts& products() { return m_products; }
  cudaStream_t stream() const { return m_stream; }
  StageClock& clock() { return m_clock; }

 private:
  void expand(std::uint32_t layer, const LayerMemory<Value>& memory, const PassShape& shape);
  void convolve(std::uint32_t layer, const LayerMemory<Value>& memory, const PassShape& shape);
  void takeDelta(std::uint32_t layer, const LayerMemory<Value>& memory, const PassShape& shape);
  void scan(std::uint32_t layer, const LayerMemory<Value>& memory, const PassShape& shape);
  void scanBack(std::uint32_t layer, const LayerMemory<Value>& memory, const PassShape& shape);
  void selectBack(std::uint32_t layer, const LayerMemory<Value>& memory, const PassShape& shape);
  void convolveBack(std::uint32_t layer, const LayerMemory<Value>& memory, const PassShape& shape);
  void expandBack(std::uint32_t layer, const LayerMemory<Value>& memory, const PassShape& shape);
  SegmentShape segmentsOf(const PassShape& shape) const;
  std::uint32_t convStrip(const PassShape& shape) const;
  /// Of the derivatives by B and C, rounded as these are.
  Value* selectedParts() { return reinterpret_cast<Value*>(m_parts.data()); }
  void sumRows(const float* rows, std::size_t count, const Tensor& to);

  const Plan& m_plan;
  const Extents& m_sizes;
  Weights<Value>& m_weights;
  std::size_t m_d;  ///< padded, as all here
  std::size_t m_e;
  std::size_t m_n;
  std::size_t m_rank;
  std::size_t m_selected;      ///< r + 2n
  std::uint32_t m_processors;  ///< of the device
  Stream m_stream;
  PassProducts m_products;
  StageClock m_clock;
  DeviceArray<float> m_x;              ///< residual stream; backward its derivative
  DeviceArray<Value> m_rounded;        ///< the derivative, rounded
  DeviceArray<Value> m_convolved;      ///< u'
  DeviceArray<Value> m_delta;          ///< W_dt δ, then the derivative by it
  DeviceArray<Value> m_dConvolved;     ///< by the gated output, then by u'
  DeviceArray<Value> m_dExpanded;      ///< [rows][2e]: gated output, then the derivative by u; by z
  DeviceArray<Value> m_dSelected;      ///< by δ, B, C
  DeviceArray<float> m_parts;          ///< sums of parts of the rows
  DeviceArray<float> m_dDecay;         ///< [streams][segments][e][n]
  DeviceArray<float> m_dDtBias;        ///< [streams][segments][e]
  DeviceArray<float> m_dSkip;          ///< likewise
  DeviceArray<float> m_segmentEnds;    ///< see SegmentArguments
  DeviceArray<float> m_segmentDeltas;  ///< likewise
};

}  // namespace mb::cuda::training
