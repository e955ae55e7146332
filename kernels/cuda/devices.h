// The CUDA devices of this machine. Safe to call without a driver.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace mb::cuda {

struct MemoryUse {
  std::size_t freeBytes = 0;
  std::size_t totalBytes = 0;
};

struct DeviceDescription {
  int index = 0;
  std::string name;
  int major = 0;  ///< compute capability
  int minor = 0;
  MemoryUse memory;
  std::uint32_t multiprocessors = 0;
};

struct DeviceList {
  std::vector<DeviceDescription> devices;  ///< that the kernels run on
  std::string problem;                     ///< why there are none, in CUDA's words
};

/// Throws CudaError.
DeviceDescription describeDevice(int index);

/// By every program. Quick. Throws CudaError.
MemoryUse memoryUse(int index);

/// Bytes a second read from the current device's memory, the best of some passes over 2 GiB, or
/// over what is free. Throws CudaError.
double measureReadBandwidth();

/// Never throws for a missing or unusable driver; says so in `problem`.
DeviceList listDevices();

}  // namespace mb::cuda
