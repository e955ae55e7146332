// Forward and backward pass of Mamba-1 (MODEL.md, section 1) over segments of several streams at
// once, and AdamW.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/training/plan.h"
#include "kernels/cuda/training/weights.h"

namespace mb::cuda::training {

/// Segments of streams, as many tokens of each.
struct Batch {
  std::span<const std::int32_t> inputs;   ///< [streams][tokens]
  std::span<const std::int32_t> targets;  ///< [streams][tokens]; negative ones do not count
  std::span<const std::uint8_t> fresh;    ///< streams that begin with an empty state
  std::uint32_t streams = 0;
  std::uint32_t tokens = 0;
  float scale = 1;  ///< of the loss whose derivative the gradient is
};

/// What a learner has to have room for.
struct Capacity {
  std::uint32_t streams = 0;
  std::uint32_t tokens = 0;  ///< of a stream
  /// Bytes of device memory that it should not go beyond, as long as what it cannot do without
  /// fits. Layers whose in_proj's outputs do not fit too make them again in the backward pass, and
  /// so do those whose inputs of the scan do not fit beside all these.
  std::size_t memory = 0;
  bool averages = false;  ///< keeps a moving average of the weights
};

/// Everything is on the current device and in one stream; calls that return nothing do not wait.
/// Sums have a fixed order: the same calls give the same bits. Throws CudaError.
class Learner {
 public:
  /// bfloat16 products and activations, or float32 ones. The plan must outlive it.
  static std::unique_ptr<Learner> make(const Plan& plan, const Capacity& capacity, bool bfloat16);
  virtual ~Learner() = default;

  /// Begins a gradient: it is zero, the streams are where update() left them.
  virtual void begin() = 0;
  /// Adds the gradient of a batch of all streams; their states move on for the next. Calls `pace`
  /// between layers, and waits every few layers: it may throw, and all is as before begin().
  virtual void learn(const Batch& batch, const std::function<void()>& pace) = 0;
  struct Learned {
    double nats = 0;          ///< sum over all tokens since begin(), without scale
    double gradientNorm = 0;  ///< with scale
  };
  /// Ends the gradient and waits.
  virtual Learned finish() = 0;
  /// One step of AdamW; the streams stay where learn() took them.
  virtual void update(const AdamW& step) = 0;

  /// From now on the weights are their moving average, or again themselves.
  virtual void exchangeAverage() = 0;
  /// Sum of -ln p(target) over a batch of one stream whose state is kept from call to call, apart
  /// from the others'. Waits.
  virtual double evaluate(const Batch& batch) = 0;

  /// Host copies [plan.size], and back. These wait.
  virtual void download(Held what, std::span<float> values) const = 0;
  virtual void upload(Held what, std::span<const float> values) = 0;
  /// [L][streams][Extents::stateSize()], where update() left them; or by how much the gradient of
  /// the batch after begin() depends on them.
  virtual void downloadStates(std::span<float> values) const = 0;
  virtual void downloadStateGradient(std::span<float> values) const = 0;
  virtual void uploadStates(std::span<const float> values) = 0;

  virtual std::size_t memoryBytes() const = 0;
  /// Seconds that each kind of work has taken since the call before; the first one begins.
  virtual std::vector<std::pair<std::string, double>> profile() = 0;
};

}  // namespace mb::cuda::training
