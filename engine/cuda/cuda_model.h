// A model on a CUDA device.
#pragma once

#include <memory>
#include <stop_token>

#include "engine/model/model.h"

namespace mb {

namespace cuda {
struct DeviceWeights;
class Stream;
}  // namespace cuda

class CudaModel : public Model {
 public:
  /// Takes the device with this index. Throws FormatError, Stopped, or DeviceError when the device
  /// fails, has too little memory, or its kernels do not take this shape.
  CudaModel(const WeightSource& source, ModelInfo info, WeightPrecision precision, int device,
            std::stop_token stop = {});
  ~CudaModel() override;

  const ModelConfig& config() const override { return m_config; }
  const ModelInfo& info() const override { return m_info; }
  std::unique_ptr<Runner> newRunner() const override;
  std::uint64_t waits() const override;

 private:
  ModelConfig m_config;
  ModelInfo m_info;
  int m_device;
  std::shared_ptr<const cuda::DeviceWeights> m_weights;
  std::shared_ptr<const cuda::Stream> m_stream;  ///< of all runners, so that states pass in order
};

/// Bytes a second that the device reads from its memory, the best of some passes.
double measureCudaBandwidth(int device);

}  // namespace mb
