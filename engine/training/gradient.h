// Loss and gradient of one segment of one text: the model of MODEL.md, forward and backward.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <stop_token>
#include <vector>

#include "engine/training/data_source.h"
#include "engine/training/parameters.h"
#include "engine/training/selective_scan.h"
#include "engine/types.h"

namespace mb {

/// What a segment hands to the next, for every layer: the convolution's last k - 1 inputs [k -
/// 1][e], oldest first, then s [e][n].
template <class Real>
std::vector<Real> emptyState(const ModelConfig& config);

template <class Real>
struct Segment {
  TokenView inputs;
  TokenView targets;                ///< what follows each input, or kNoTarget; as many
  std::span<const Real> stateIn;    ///< before the first input
  std::span<Real> stateOut;         ///< after the last; may be stateIn
  std::span<Real> gradient;         ///< added to; empty for the loss alone
  std::span<Real> stateGradient{};  ///< set to d loss / d stateIn, unless empty
};

/// Forward and backward pass over segments, in Real = float or double. Activations are kept, states
/// only every few tokens: the backward scan makes the others again. The gradient does not go beyond
/// stateIn: back-propagation through time is truncated at the segment's beginning.
template <class Real>
class Backprop {
 public:
  /// The layout must outlive it.
  explicit Backprop(const ParameterLayout& layout);
  Backprop(Backprop&& other) noexcept;
  ~Backprop();

  /// The segment's loss: the sum over its targets of -ln p(target), times `scale`. Adds its
  /// derivative by every parameter to segment.gradient. Throws Stopped, at the latest after one
  /// layer; gradient and states are then unspecified.
  Real run(std::span<const Real> parameters, const Segment<Real>& segment, Real scale,
           std::stop_token stop = {});

 private:
  struct Layer;

  void resize(std::size_t tokens);
  void checkStop() const;
  void forward(std::size_t index, const Segment<Real>& segment);
  void backward(std::size_t index, const Segment<Real>& segment);
  void convolve(std::size_t index, const Segment<Real>& segment);
  void scan(std::size_t index, const Segment<Real>& segment);
  void activate(const Layer& layer);
  void gate(const Layer& layer);
  void gateBack(std::size_t index);
  ScanInputs<Real> scanInputs(const Layer& layer) const;
  void scanBack(std::size_t index, const Segment<Real>& segment);
  void convolveBack(std::size_t index, const Segment<Real>& segment);
  Real head(const Segment<Real>& segment, Real scale);
  std::size_t stateOffset(std::size_t layer) const;

  const ParameterLayout& m_layout;
  const ModelConfig& m_config;
  std::size_t m_d;         ///< width
  std::size_t m_e;         ///< channels
  std::size_t m_n;         ///< states of a channel
  std::size_t m_taps;      ///< k
  std::size_t m_rank;      ///< r
  std::size_t m_selected;  ///< rows of x_proj: δ, B, C
  const cpu::TrainingOps<Real>& m_ops;
  SelectiveScan<Real> m_scan;
  const Real* m_parameters = nullptr;
  Real* m_gradient = nullptr;  ///< of the run, or null
  std::stop_token m_stop;      ///< of the run
  std::size_t m_tokens = 0;
  std::vector<Layer> m_layers;
  std::vector<Real> m_x;           ///< residual stream [T][d]
  std::vector<Real> m_dx;          ///< its derivative
  std::vector<Real> m_normed;      ///< [T][d]
  std::vector<Real> m_dNormed;     ///< [T][d]
  std::vector<Real> m_finalScale;  ///< [T]
  std::vector<Real> m_logits;      ///< of some tokens: [rows][V]
  std::vector<Real> m_dExpanded;   ///< [T][2e]: of u, z
  std::vector<Real> m_convolved;   ///< u' [T][e]
  std::vector<Real> m_dConvolved;  ///< [T][e]
  std::vector<Real> m_dSelected;   ///< [T][r + 2n]
  std::vector<Real> m_dDelta;      ///< [T][e]
  std::vector<Real> m_gated;       ///< [T][e]
  std::vector<Real> m_dGated;      ///< [T][e]
  std::vector<Real> m_dy;          ///< [T][e]: of the scan's output and D's
  std::vector<Real> m_sigmoid;     ///< of one row [e]
};

}  // namespace mb
