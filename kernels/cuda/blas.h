// cuBLAS's errors.
#pragma once

#include <cublas_v2.h>
#include <string>

#include "kernels/cuda/memory.h"

namespace mb::cuda {

inline void checkBlas(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw CudaError(std::string(call) + ", " + cublasGetStatusString(status), cudaErrorUnknown);
}

}  // namespace mb::cuda
