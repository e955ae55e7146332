// Which processor trains a model.
#pragma once

#include <memory>

#include "engine/model/devices.h"
#include "engine/training/parameters.h"
#include "engine/training/training_device.h"

namespace mb {

struct TrainingDeviceOptions {
  std::size_t streams = 1;
  std::size_t segment = 1;    ///< most tokens of a stream in a segment
  DeviceOptions device = {};  ///< Auto takes the CPU where there is no CUDA device
  bool averages = false;      ///< a moving average of the parameters will be kept
  std::size_t memory = 0;     ///< bytes of device memory to stay within if possible; 0: all
};

struct ChosenTrainingDevice {
  std::unique_ptr<TrainingDevice> device;
  std::string reason;  ///< why that one, as ModelLoader says it
};

/// On the CPU the threads of the pool share the work; layout and pool must outlive the device.
/// Throws DeviceError when the device that was asked for is not usable, or, even with Auto, has
/// too little memory.
ChosenTrainingDevice makeTrainingDevice(const ParameterLayout& layout,
                                        std::vector<float> parameters,
                                        const TrainingDeviceOptions& options,
                                        cpu::ThreadPool& pool);

}  // namespace mb
