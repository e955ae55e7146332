// cuBLAS: a handle, its errors, and products of row-major matrices.
#pragma once

#include <cstddef>
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <string>

#include "kernels/cuda/memory.h"

namespace mb::cuda {

inline void checkBlas(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw CudaError(std::string(call) + ", " + cublasGetStatusString(status), cudaErrorUnknown);
}

/// A cuBLAS handle on the current device.
class Blas {
 public:
  Blas() { checkBlas(cublasCreate(&m_handle), "cublasCreate"); }
  ~Blas() { cublasDestroy(m_handle); }
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;
  operator cublasHandle_t() const { return m_handle; }

 private:
  cublasHandle_t m_handle = nullptr;
};

/// bfloat16 or float32.
template <class Value>
inline constexpr cudaDataType_t kTypeOf = sizeof(Value) == 2 ? CUDA_R_16BF : CUDA_R_32F;

/// A row-major matrix whose rows lie `stride` values apart.
template <class Value>
struct Rows {
  Value* data;
  std::size_t rows;
  std::size_t columns;
  std::size_t stride;
};

enum class Order : bool { AsIs, Transposed };

/// to = a · b + keep · to, of a and b or their transposes; sums are float32. For cuBLAS, whose
/// matrices are column-major, each is its transpose: it computes toᵀ = bᵀ · aᵀ.
template <class Value, class Result>
void multiply(const Blas& blas, Order orderA, const Rows<const Value>& a, Order orderB,
              const Rows<const Value>& b, float keep, const Rows<Result>& to) {
  const float one = 1;
  const auto narrow = [](std::size_t extent) { return static_cast<int>(extent); };
  const auto operation = [](Order order) {
    return order == Order::AsIs ? CUBLAS_OP_N : CUBLAS_OP_T;
  };
  const std::size_t inner = orderA == Order::AsIs ? a.columns : a.rows;
  checkBlas(
      cublasGemmEx(blas, operation(orderB), operation(orderA), narrow(to.columns), narrow(to.rows),
                   narrow(inner), &one, b.data, kTypeOf<Value>, narrow(b.stride), a.data,
                   kTypeOf<Value>, narrow(a.stride), &keep, to.data, kTypeOf<Result>,
                   narrow(to.stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
      "cublasGemmEx");
}

}  // namespace mb::cuda
