// CUDA's failures as the engine's.
#pragma once

#include <cuda_runtime_api.h>
#include <string>

#include "engine/error.h"
#include "kernels/cuda/memory.h"

namespace mb {

/// Runs `work` on a device; what CUDA reports becomes a DeviceError.
template <class Work>
auto onDevice(int device, const Work& work) {
  try {
    cuda::check(cudaSetDevice(device), "cudaSetDevice");
    return work();
  } catch (const cuda::CudaError& error) {
    throw DeviceError("CUDA device " + std::to_string(device) + " failed: " + error.what());
  }
}

}  // namespace mb
