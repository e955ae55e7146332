// The weights that are trained: float32 masters, AdamW's moments, the gradient, and rounded copies
// for the products.
#pragma once

#include <cstddef>
#include <cuda_runtime_api.h>

#include "kernels/cuda/memory.h"
#include "kernels/cuda/training/plan.h"

namespace mb::cuda::training {

/// One step of AdamW (Loshchilov and Hutter, arXiv 1711.05101), its corrections of bias worked in.
struct AdamW {
  float rate;        ///< learning rate / (1 - beta1^count)
  float correction;  ///< 1 / (1 - beta2^count)
  float beta1;
  float beta2;
  float epsilon;
  float keep;      ///< 1 - learning rate · weight decay, of the weights that decay
  float factor;    ///< that clips the gradient
  float averaged;  ///< what stays of the moving average, where one is kept
};

/// The masters, or what lies as they do.
enum class Held : std::uint8_t { Masters, Momentum, Squares, Gradient, Average };

/// The weight of the norm before a matrix is folded into its copy: W diag(w) (x / rms(x)) is
/// W norm(x). The gradient by the product gives those by both: dW = d(W diag(w)) diag(w) and
/// dw = Σ over rows of d(W diag(w)) ⊙ W.
template <class Value>
class Weights {
 public:
  /// With a moving average of the masters, or without. The plan must outlive it.
  Weights(const Plan& plan, bool averages);

  /// Makes the copies again. To be called whenever the masters have changed.
  void round(cudaStream_t stream);
  /// Sets the gradient to zero.
  void clear(cudaStream_t stream);
  /// Ends a gradient: parts it from the folded norms.
  void finish(cudaStream_t stream);
  /// ‖gradient‖² to `to`, in device memory.
  void measure(double* to, cudaStream_t stream);
  void update(const AdamW& step, cudaStream_t stream);
  /// The masters become the average, and the average the masters.
  void exchangeAverage(cudaStream_t stream);

  const Value* matrix(const Tensor& tensor) const { return m_rounded.data() + tensor.offset; }
  const float* values(const Tensor& tensor) const {
    return held(Held::Masters).data() + tensor.offset;
  }
  float* gradient(const Tensor& tensor) { return held(Held::Gradient).data() + tensor.offset; }
  /// Of the head before finish(), apart from that of the embedding it may be tied to.
  float* headGradient() { return m_headGradient.data(); }

  DeviceArray<float>& held(Held what) { return m_held[static_cast<std::size_t>(what)]; }
  const DeviceArray<float>& held(Held what) const { return m_held[static_cast<std::size_t>(what)]; }
  std::size_t bytes() const;

 private:
  void roundMatrix(const Tensor& matrix, const Tensor* norm, cudaStream_t stream);
  void unfold(const Tensor& matrix, const float* folded, const Tensor& norm, cudaStream_t stream);

  const Plan& m_plan;
  DeviceArray<float> m_held[5];  ///< by Held; the average may be empty
  DeviceArray<float> m_headGradient;
  DeviceArray<Value> m_rounded;
  DeviceArray<std::uint8_t> m_decays;
  DeviceArray<float> m_normSums;    ///< a norm's derivative by groups of rows
  DeviceArray<double> m_partNorms;  ///< ‖·‖² by kTensorGrain values
};

}  // namespace mb::cuda::training
