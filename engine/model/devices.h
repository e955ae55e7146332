// Which processor runs a model, and models from folders or shapes on it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/model/model.h"
#include "kernels/cpu/thread_pool.h"

namespace mb {

/// Auto: the first usable CUDA device, or the CPU.
enum class DeviceKind : std::uint8_t { Cpu, Cuda, Auto };

struct DeviceOptions {
  DeviceKind kind = DeviceKind::Cpu;
  WeightPrecision precision = WeightPrecision::BFloat16;
  int cudaDevice = 0;       ///< index
  bool orCpu = false;       ///< a CUDA device that fails gives way to the CPU; Auto implies it
  std::string simd = {};    ///< CPU instruction set; empty takes the fastest
  std::size_t threads = 0;  ///< CPU threads; 0 takes all
};

struct DeviceMemory {
  std::size_t used = 0;  ///< by every program
  std::size_t total = 0;
};

/// A processor that models can run on.
struct DeviceEntry {
  DeviceKind kind = DeviceKind::Cpu;
  int cudaDevice = 0;
  std::string name;     ///< "CPU", or as CUDA names it
  DeviceMemory memory;  ///< zero for the CPU
};

/// What this machine has to offer.
struct DeviceChoice {
  DeviceKind kind = DeviceKind::Cpu;  ///< what Auto takes
  std::string reason;                 ///< "no usable CUDA device (…)", or which was
  std::vector<DeviceEntry> devices;   ///< the CPU, then usable CUDA devices

  bool hasCuda() const { return devices.size() > 1; }
};

DeviceChoice chooseDevice();

/// Nothing when the device does not answer.
std::optional<DeviceMemory> memoryOfCudaDevice(int index);

/// Opens models on one device. The models share the device's threads, so that their runners must
/// not run at the same time.
class ModelLoader {
 public:
  /// Throws DeviceError when the device asked for is not usable.
  explicit ModelLoader(const DeviceOptions& options);

  /// What models are opened on; never Auto.
  DeviceKind kind() const { return m_options.kind; }
  int cudaDevice() const { return m_options.cudaDevice; }
  /// Why that, for people.
  const std::string& reason() const { return m_reason; }
  /// A CUDA device failed, for which reason(), and the CPU took its place.
  bool gaveUp() const { return m_gaveUp; }

  /// Throws FileError, FormatError, DeviceError or Stopped.
  std::shared_ptr<const Model> open(const std::filesystem::path& folder, std::stop_token stop = {});
  /// A model of a named shape with random weights. Throws RequestError for an unknown name.
  std::shared_ptr<const Model> openShape(const std::string& name, std::stop_token stop = {});

  const std::shared_ptr<cpu::ThreadPool>& pool() const { return m_pool; }
  /// Bytes a second that the device reads from memory, the best of some passes.
  double measureMemoryBandwidth() const;

 private:
  std::shared_ptr<const Model> build(const WeightSource& source, const ModelInfo& info,
                                     std::stop_token stop);
  void giveUp(const std::string& problem);

  DeviceOptions m_options;
  std::string m_reason;
  bool m_gaveUp = false;
  std::shared_ptr<cpu::ThreadPool> m_pool;
};

}  // namespace mb
