// The head and the loss. Logits are in memory for some rows at a time.
#pragma once

#include "kernels/cuda/training/layer_pass.h"

namespace mb::cuda::training {

template <class Value>
class Head {
 public:
  Head(const Plan& plan, Weights<Value>& weights, const PassShape& most);
  static std::size_t memoryFor(const Extents& extents, const PassShape& most);

  /// Loss of pass.x() for the targets; adds Σ -ln p(target) to `nats`, in device memory. With
  /// `scale` > 0 also the derivative of scale · loss by x, in its place, and by the weights.
  void run(LayerPass<Value>& pass, const std::int32_t* targets, const PassShape& shape, float scale,
           double* nats);

 private:
  const Plan& m_plan;
  Weights<Value>& m_weights;
  std::size_t m_rows;            ///< whose logits are in memory
  DeviceArray<float> m_scales;   ///< 1 / rms(x) [rows]
  DeviceArray<float> m_losses;   ///< [rows]
  DeviceArray<float> m_logits;   ///< [m_rows][V]
  DeviceArray<Value> m_dLogits;  ///< [m_rows][V]
};

}  // namespace mb::cuda::training
