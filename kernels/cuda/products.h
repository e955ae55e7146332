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
#include <vector>

#include "kernels/cuda/fingerprint.h"
#include "kernels/cuda/memory.h"

namespace mb::cuda {

/// How a matrix lies in memory, row after row: as it is named, or as its transpose.
enum class Order : bool { AsIs, Transposed };

/// to = from · matrix, or that added to it: [tokens][rows] = [tokens][columns] · [columns][rows].
struct ProductForm {
  std::uint32_t rows = 0;
  std::uint32_t columns = 0;
  std::uint32_t tokens = 0;
  std::uint32_t stride = 0;        ///< of the rows of `to`, in values
  std::uint32_t fromStride = 0;    ///< likewise; 0 where one begins behind the other
  std::uint32_t matrixStride = 0;  ///< likewise
  Order from = Order::AsIs;
  Order matrix = Order::Transposed;
  bool wide = false;        ///< `matrix` and `from` are float32, not bfloat16
  bool wideResult = false;  ///< `to` is
  bool add = false;

  auto operator<=>(const ProductForm&) const = default;
};

/// Sums in float32. One at a time: all products share a workspace.
class Products {
 public:
  static constexpr std::size_t kWorkspaceBytes = 4u << 20;

  /// How it is found which of its algorithms is the best for a form of product.
  enum class Choice : std::uint8_t {
    Estimated,  ///< cuBLASLt says
    /// A large product that adds nothing to its result is computed by several when its form first
    /// comes, and waited for. Of those with the same result, bit for bit, as the estimated one the
    /// fastest stays: which that is depends on the moment, what it computes does not.
    Measured
  };

  explicit Products(Choice choice = Choice::Estimated,
                    std::size_t workspaceBytes = kWorkspaceBytes);

  struct Operands {
    const void* matrix = nullptr;  ///< all aligned to 16 bytes
    const void* from = nullptr;
    void* to = nullptr;  ///< apart from the others
  };
  /// Throws CudaError.
  void multiply(const ProductForm& form, const Operands& operands, cudaStream_t stream);

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
    /// Best first, as far as is known; one, when there is nothing to find out. None: left to
    /// cuBLAS.
    std::vector<cublasLtMatmulAlgo_t> algorithms;
  };

  static Layout layoutOf(cudaDataType_t type, Order order, std::uint32_t rows,
                         std::uint32_t columns, std::uint32_t stride);
  Plan planOf(const ProductForm& form) const;
  std::vector<cublasLtMatmulAlgo_t> algorithmsOf(const Plan& plan, int most) const;
  Plan& planned(const ProductForm& form);
  cublasStatus_t run(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, bool add,
                     const Operands& operands, cudaStream_t stream);
  void choose(const ProductForm& form, Plan& plan, const Operands& operands, cudaStream_t stream);
  void multiplyOtherwise(const ProductForm& form, const Operands& operands, cudaStream_t stream);

  Choice m_choice;
  Library m_library;
  OtherLibrary m_otherLibrary;  ///< since it was first needed
  DeviceArray<std::byte> m_workspace;
  Fingerprint m_fingerprint;
  std::map<ProductForm, Plan> m_plans;
};

}  // namespace mb::cuda
