// Products of row-major matrices by cuBLASLt. Unlike cuBLAS it keeps no 32 MiB of its own on the
// device, and says once for each form of product how it is best computed; cuBLAS computes those
// that it does not know on older devices.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <map>
#include <memory>
#include <optional>

#include "kernels/cuda/memory.h"

namespace mb::cuda {

/// to = from · matrixᵀ, or that added to it: [tokens][rows] = [tokens][columns] · [rows][columns]ᵀ.
struct ProductForm {
  std::uint32_t rows = 0;
  std::uint32_t columns = 0;
  std::uint32_t tokens = 0;
  std::uint32_t stride = 0;  ///< of `to`, in values
  bool wide = false;         ///< `matrix` and `from` are float32, not bfloat16
  bool wideResult = false;   ///< `to` is
  bool add = false;

  auto operator<=>(const ProductForm&) const = default;
};

/// Sums in float32. One at a time: all products share a workspace.
class Products {
 public:
  static constexpr std::size_t kWorkspaceBytes = 4u << 20;

  Products();

  /// Pointers must be aligned to 16 bytes. Throws CudaError.
  void multiply(const ProductForm& form, const void* matrix, const void* from, void* to,
                cudaStream_t stream);

 private:
  template <class Handle, cublasStatus_t (*DESTROY)(Handle)>
  struct Destroyer {
    using pointer = Handle;
    void operator()(Handle handle) const { DESTROY(handle); }
  };
  template <class Handle, cublasStatus_t (*DESTROY)(Handle)>
  using Owned = std::unique_ptr<Handle, Destroyer<Handle, DESTROY>>;
  using Library = Owned<cublasLtHandle_t, cublasLtDestroy>;
  using OtherLibrary = Owned<cublasHandle_t, cublasDestroy>;
  using Description = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
  using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
  using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

  struct Plan {
    Description description;
    Layout matrix;
    Layout from;
    Layout to;
    std::optional<cublasLtMatmulAlgo_t> algorithm;  // none: left to cuBLAS
  };

  static Layout layoutOf(cudaDataType_t type, std::uint32_t rows, std::uint32_t columns,
                         std::uint32_t stride);
  Plan planOf(const ProductForm& form) const;
  std::optional<cublasLtMatmulAlgo_t> algorithmOf(const Plan& plan) const;
  const Plan& planned(const ProductForm& form);
  void multiplyOtherwise(const ProductForm& form, const void* matrix, const void* from, void* to,
                         cudaStream_t stream);

  Library m_library;
  OtherLibrary m_otherLibrary;  ///< since it was first needed
  DeviceArray<std::byte> m_workspace;
  std::map<ProductForm, Plan> m_plans;
};

}  // namespace mb::cuda
