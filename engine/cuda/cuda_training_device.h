// Training on a CUDA device, all streams at once.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/model/model.h"
#include "engine/training/parameters.h"
#include "engine/training/training_device.h"

namespace mb {

namespace cuda::training {
class Learner;
struct Plan;
enum class Held : std::uint8_t;
}  // namespace cuda::training

/// Weights, moments and sums are float32; products and what layers hand on are bfloat16, or
/// float32 when that is asked for. The same steps give the same bits on the same kind of device.
class CudaTrainingDevice : public TrainingDevice {
 public:
  struct Options {
    int device = 0;           ///< index
    std::size_t streams = 1;  ///< and the most tokens of each in a segment
    std::size_t segment = 1;
    WeightPrecision precision = WeightPrecision::BFloat16;
    bool averages = false;  ///< keeps a moving average of the parameters, from the first update on
    /// Bytes of device memory to stay within as far as possible; 0 takes what is free. With less
    /// more is computed again in the backward pass.
    std::size_t memory = 0;
  };

  /// Why a device does not train, or nothing.
  static std::string problemOf(int device);

  /// The layout must outlive it. Throws DeviceError; RequestError for a shape the kernels do not
  /// take.
  CudaTrainingDevice(const ParameterLayout& layout, std::span<const float> parameters,
                     const Options& options);
  ~CudaTrainingDevice() override;

  std::string name() const override;
  std::size_t threads() const override { return 0; }
  std::size_t memoryBytes() const override;
  double learn(std::span<const SegmentTokens> segments, float scale, std::stop_token stop) override;
  double gradientNorm() override { return m_gradientNorm; }
  void update(const AdamWStep& step) override;
  double lossOf(TokenView text, std::size_t segment, std::stop_token stop) override;
  std::span<const float> parameters() const override;
  std::span<const float> kept() const override;
  TrainedState state() const override;
  void setState(TrainedState state) override;
  std::vector<float> gradient() const override;
  std::vector<float> stateGradient() const override;
  std::vector<StageTime> profile() override;

 private:
  /// Rows of a tensor in the parameter layout, and where they lie on the device.
  struct Placement {
    std::size_t host;
    std::size_t device;
    std::size_t rows;
    std::size_t columns;  ///< values of a row on the host
    std::size_t stride;   ///< from row to row on the device
  };

  void place(std::size_t host, std::size_t device, std::size_t rows, std::size_t columns,
             std::size_t stride);
  void placeAll();
  void placeLayer(std::size_t index);
  double readText(TokenView text, std::size_t segment, std::stop_token stop);
  std::vector<float> toHost(std::span<const float> device) const;
  std::vector<float> fetch(cuda::training::Held what) const;
  std::vector<float> toDevice(std::span<const float> host) const;
  template <class Copy>
  void eachStateRow(const Copy& copy) const;
  std::vector<float> statesToHost(std::span<const float> device) const;
  std::size_t deviceStateSize() const;

  const ParameterLayout& m_layout;
  Options m_options;
  std::string m_name;
  std::unique_ptr<const cuda::training::Plan> m_plan;
  std::unique_ptr<cuda::training::Learner> m_learner;
  std::vector<Placement> m_placements;
  double m_gradientNorm = 0;
  mutable std::vector<float> m_parameters;  ///< a copy, or empty when it is out of date
  mutable std::vector<float> m_average;     ///< likewise
};

}  // namespace mb
