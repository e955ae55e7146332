// How fast a device trains.
#pragma once

#include <string>
#include <vector>

#include "engine/benchmark/benchmark.h"
#include "engine/training/training_devices.h"

namespace mb {

struct TrainingBenchmark {
  std::string device;
  Samples rate;                   ///< tokens a second, forward, backward and AdamW
  std::size_t memory = 0;         ///< bytes that the training holds on the device; 0 on the CPU
  std::vector<StageTime> stages;  ///< of one step, the device waiting after each; or empty
};

/// Steps over random tokens with fresh weights; timing does not depend on either. Every stream
/// reads a segment a step. With `stages` one more step is taken apart.
TrainingBenchmark benchmarkTraining(const ModelConfig& config, const TrainingDeviceOptions& options,
                                    bool stages, const BenchmarkOptions& benchmark,
                                    std::stop_token stop);

}  // namespace mb
