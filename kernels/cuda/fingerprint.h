// One number for the bits of a matrix on the device.
#pragma once

#include <cstdint>
#include <cuda_runtime_api.h>

#include "kernels/cuda/memory.h"

namespace mb::cuda {

class Fingerprint {
 public:
  /// Of the row-major values [rows][columns], float32 or bfloat16, whose rows lie `stride` values
  /// apart: other bits, or the same elsewhere, have most likely another number. Waits. Throws
  /// CudaError.
  std::uint64_t of(const void* values, bool wide, std::uint32_t rows, std::uint32_t columns,
                   std::uint32_t stride, cudaStream_t stream);

 private:
  DeviceArray<unsigned long long> m_sum;  ///< one, since it was first needed
};

}  // namespace mb::cuda
