#include <algorithm>
#include <cuda_runtime.h>

#include "kernels/cuda/devices.h"
#include "kernels/cuda/memory.h"

namespace mb::cuda {

namespace {

constexpr int kLeastCapability = 75;

__global__ void readKernel(const uint4* values, std::size_t count, std::uint32_t* sink) {
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  std::uint32_t sum = 0;
#pragma unroll 8
  for (std::size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
    const uint4 v = __ldcs(values + i);
    sum |= v.x | v.y | v.z | v.w;
  }
  if (sum == 1) *sink = sum;  // never: the values are zero
}

}  // namespace

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
    try {
      DeviceDescription device = describeDevice(index);
      if (10 * device.major + device.minor >= kLeastCapability)
        list.devices.push_back(std::move(device));
      else
        list.problem = device.name + " has compute capability " + std::to_string(device.major) +
                       "." + std::to_string(device.minor) + ", 7.5 is needed";
    } catch (const CudaError& error) {
      list.problem = error.what();
    }
  }
  return list;
}

DeviceDescription describeDevice(int index) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  DeviceDescription device{
      .index = index,
      .name = properties.name,
      .major = properties.major,
      .minor = properties.minor,
      .memory = memoryUse(index),
      .multiprocessors = static_cast<std::uint32_t>(properties.multiProcessorCount)};
  return device;
}

MemoryUse memoryUse(int index) {
  MemoryUse use;
  check(cudaSetDevice(index), "cudaSetDevice");
  check(cudaMemGetInfo(&use.freeBytes, &use.totalBytes), "cudaMemGetInfo");
  return use;
}

double measureReadBandwidth() {
  constexpr int kPasses = 7;
  constexpr std::size_t kMost = std::size_t{2} << 30;
  std::size_t free = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  DeviceArray<uint4> values(std::min(kMost, free / 2) / sizeof(uint4));
  DeviceArray<std::uint32_t> sink(1);
  Event start;
  Event end;
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    start.record();
    readKernel<<<2048, 512>>>(values.data(), values.size(), sink.data());
    end.record();
    check(cudaGetLastError(), "reading memory");
    best = std::max(best, static_cast<double>(values.bytes()) / end.secondsSince(start));
  }
  return best;
}

}  // namespace mb::cuda
