#include <cuda_runtime.h>

#include "kernels/cuda/devices.h"

namespace mb::cuda {

DeviceList listDevices() {
  DeviceList list;
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    list.problem = driver == 0            ? "no NVIDIA driver"
                   : error != cudaSuccess ? cudaGetErrorString(error)
                                          : "none present";
    cudaGetLastError();  // a failed query must not spoil later calls
    return list;
  }
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, index) != cudaSuccess) continue;
    DeviceDescription device{properties.name, properties.major, properties.minor,
                             properties.totalGlobalMem, 0};
    std::size_t total = 0;
    if (cudaSetDevice(index) == cudaSuccess) cudaMemGetInfo(&device.freeBytes, &total);
    list.devices.push_back(device);
  }
  return list;
}

}  // namespace mb::cuda
