// Where a model is trained: its weights, AdamW's moments, the gradient and the streams' states live
// there.
#pragma once

#include <cstdint>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/types.h"

namespace mb {

/// Tokens of one stream, and what follows each.
struct SegmentTokens {
  TokenView inputs;
  TokenView targets;   ///< as many; kNoTarget where nothing counts
  bool fresh = false;  ///< begins with an empty state, not with the one before
};

/// One step of AdamW: Loshchilov and Hutter, arXiv 1711.05101.
struct AdamWStep {
  std::uint64_t count = 1;  ///< of steps, this one included
  double learningRate = 0;
  double weightDecay = 0;  ///< of the parameters that decay
  double beta1 = 0;
  double beta2 = 0;
  double epsilon = 0;
  double factor = 1;    ///< that the gradient is multiplied with first, to clip it
  double averaged = 0;  ///< what stays of a moving average of the parameters; 0 keeps none
};

/// What a run needs to go on, in the order of the parameter layout.
struct TrainedState {
  std::vector<float> parameters;
  std::vector<float> average;              ///< of the parameters, or empty
  std::vector<float> momentum;             ///< AdamW's m
  std::vector<float> squares;              ///< AdamW's v
  std::vector<std::vector<float>> states;  ///< of each stream, as emptyState() lays them out
};

/// How long one kind of work took.
struct StageTime {
  std::string stage;
  double seconds = 0;
};

/// Not thread-safe. All but the constructors and threads() throw DeviceError when the device fails;
/// what it holds is lost then.
class TrainingDevice {
 public:
  virtual ~TrainingDevice() = default;

  /// For people: "CPU, 8 threads".
  virtual std::string name() const = 0;
  /// CPU threads whose number decides in which order gradients are added up; 0 where none does.
  virtual std::size_t threads() const = 0;
  /// Bytes of memory it takes by now, where that is known; or 0.
  virtual std::size_t memoryBytes() const { return 0; }

  /// Forward and backward pass over segments [streams][parts]: every stream reads its parts one
  /// after the other. Returns the loss, the sum over all targets of -ln p(target), times `scale`,
  /// and leaves its derivative as the gradient. The streams' states move on with update() only.
  /// Throws Stopped.
  virtual double learn(std::span<const SegmentTokens> segments, float scale,
                       std::stop_token stop) = 0;
  /// Norm of the gradient that learn() left.
  virtual double gradientNorm() = 0;
  /// One step along that gradient; keeps the states that learn() came to.
  virtual void update(const AdamWStep& step) = 0;

  /// Loss in nats, with kept(), of a text that one stream reads in segments from an empty state.
  /// Throws Stopped.
  virtual double lossOf(TokenView text, std::size_t segment, std::stop_token stop) = 0;

  /// A copy of the weights may be made when it is asked for; valid until the device is used again.
  virtual std::span<const float> parameters() const = 0;
  /// The moving average, which begins with the first update() that keeps one as the parameters
  /// before it; or the parameters. Likewise.
  virtual std::span<const float> kept() const = 0;
  virtual TrainedState state() const = 0;
  /// Takes the place of what the device holds; sizes must agree.
  virtual void setState(TrainedState state) = 0;

  /// What learn() left, for tests: the gradient by the parameters, and that by the states it
  /// began with, stream by stream, [streams][emptyState().size()].
  virtual std::vector<float> gradient() const = 0;
  virtual std::vector<float> stateGradient() const = 0;

  /// What kinds of work took since the call before; the first one begins. Empty where that is not
  /// known.
  virtual std::vector<StageTime> profile() { return {}; }
};

}  // namespace mb
