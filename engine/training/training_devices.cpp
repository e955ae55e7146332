#include "engine/training/training_devices.h"

#include <utility>

#include "engine/error.h"
#include "engine/training/cpu_training_device.h"

#ifdef MB_HAVE_CUDA
#include "engine/cuda/cuda_training_device.h"
#endif

namespace mb {

ChosenTrainingDevice makeTrainingDevice(const ParameterLayout& layout,
                                        std::vector<float> parameters,
                                        const TrainingDeviceOptions& options,
                                        cpu::ThreadPool& pool) {
  const DeviceKind wanted = options.device.kind;
  std::string reason = "as chosen";
  if (wanted != DeviceKind::Cpu) {
    const DeviceChoice choice = chooseDevice();
    if (wanted == DeviceKind::Cuda && !choice.hasCuda())
      throw DeviceError("CUDA is not usable here: " + choice.reason);
    if (wanted == DeviceKind::Auto) reason = choice.reason;
#ifdef MB_HAVE_CUDA
    if (choice.hasCuda()) {
      const bool isAuto = wanted == DeviceKind::Auto;
      const int device = isAuto ? choice.devices[1].cudaDevice : options.device.cudaDevice;
      const std::string problem = CudaTrainingDevice::problemOf(device);
      if (problem.empty())
        return {std::make_unique<CudaTrainingDevice>(
                    layout, parameters,
                    CudaTrainingDevice::Options{.device = device,
                                                .streams = options.streams,
                                                .segment = options.segment,
                                                .precision = options.device.precision,
                                                .averages = options.averages,
                                                .memory = options.memory}),
                reason};
      if (!isAuto) throw DeviceError(problem);
      reason = problem;
    }
#endif
  }
  return {std::make_unique<CpuTrainingDevice>(layout, std::move(parameters), options.streams, pool),
          reason};
}

}  // namespace mb
