// Which processor runs a model, and models from folders or shapes on it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/model/model.h"
#include "kernels/cpu/thread_pool.h"

namespace mb {

enum class DeviceKind : std::uint8_t { Cpu, Cuda };

struct DeviceOptions {
  DeviceKind kind = DeviceKind::Cpu;
  WeightPrecision precision = WeightPrecision::BFloat16;
  int cudaDevice = 0;       ///< index
  std::string simd = {};    ///< CPU instruction set; empty takes the fastest
  std::size_t threads = 0;  ///< CPU threads; 0 takes all
};

/// The devices of this machine and the reason for the one chosen, for the status bar.
struct DeviceChoice {
  DeviceKind kind = DeviceKind::Cpu;
  std::string reason;                    ///< "no CUDA device found (…)", or the name of the first
  std::vector<std::string> cudaDevices;  ///< names of usable CUDA devices
};

/// Looks for CUDA devices. The CPU is chosen all the same, until the CUDA engine has shown in every
/// shape that it is right; it runs when asked for by name.
DeviceChoice chooseDevice();

/// Opens models on one device. The models share the device's threads, so that their runners must
/// not run at the same time.
class ModelLoader {
 public:
  /// Throws DeviceError when the device asked for is not usable.
  explicit ModelLoader(const DeviceOptions& options);

  /// Throws FileError, FormatError, DeviceError or Stopped.
  std::shared_ptr<const Model> open(const std::filesystem::path& folder,
                                    std::stop_token stop = {}) const;
  /// A model of a named shape with random weights. Throws RequestError for an unknown name.
  std::shared_ptr<const Model> openShape(const std::string& name, std::stop_token stop = {}) const;

  const std::shared_ptr<cpu::ThreadPool>& pool() const { return m_pool; }
  /// Bytes a second that the device reads from memory, the best of some passes.
  double measureMemoryBandwidth() const;

 private:
  std::shared_ptr<const Model> build(const WeightSource& source, ModelInfo info,
                                     std::stop_token stop) const;

  DeviceOptions m_options;
  std::shared_ptr<cpu::ThreadPool> m_pool;
};

}  // namespace mb
