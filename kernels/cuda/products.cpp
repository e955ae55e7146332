#include "kernels/cuda/products.h"

#include "kernels/cuda/blas.h"

namespace mb::cuda {

namespace {

constexpr std::size_t kMostPlans = 256;  // texts come in any length

cudaDataType_t typeOf(bool wide) {
  return wide ? CUDA_R_32F : CUDA_R_16BF;
}

}  // namespace

Products::Products() : m_workspace(kWorkspaceBytes) {
  cublasLtHandle_t library = nullptr;
  checkBlas(cublasLtCreate(&library), "cublasLtCreate");
  m_library.reset(library);
}

/// For cuBLASLt, whose matrices are column-major, a row is a column.
Products::Layout Products::layoutOf(cudaDataType_t type, std::uint32_t rows, std::uint32_t columns,
                                    std::uint32_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  checkBlas(cublasLtMatrixLayoutCreate(&layout, type, columns, rows, stride),
            "cublasLtMatrixLayoutCreate");
  return Layout(layout);
}

Products::Plan Products::planOf(const ProductForm& form) const {
  cublasLtMatmulDesc_t description = nullptr;
  checkBlas(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F),
            "cublasLtMatmulDescCreate");
  Plan plan{Description(description),
            layoutOf(typeOf(form.wide), form.rows, form.columns, form.columns),
            layoutOf(typeOf(form.wide), form.tokens, form.columns, form.columns),
            layoutOf(typeOf(form.wideResult), form.tokens, form.rows, form.stride), std::nullopt};
  const cublasOperation_t transposed = CUBLAS_OP_T;
  checkBlas(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                           sizeof transposed),
            "cublasLtMatmulDescSetAttribute");

  plan.algorithm = algorithmOf(plan);
  return plan;
}

std::optional<cublasLtMatmulAlgo_t> Products::algorithmOf(const Plan& plan) const {
  cublasLtMatmulPreference_t made = nullptr;
  checkBlas(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate");
  const Preference preference(made);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
    checkBlas(cublasLtMatmulPreferenceSetAttribute(made, what, &value, sizeof value),
              "cublasLtMatmulPreferenceSetAttribute");
  };
  constexpr std::uint32_t kAlignment = 16;
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, kAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, kAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, kAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, kAlignment);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      m_library.get(), plan.description.get(), plan.matrix.get(), plan.from.get(), plan.to.get(),
      plan.to.get(), made, 1, &best, &found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || found == 0) return std::nullopt;
  checkBlas(status, "cublasLtMatmulAlgoGetHeuristic");
  return best.algo;
}

const Products::Plan& Products::planned(const ProductForm& form) {
  const auto known = m_plans.find(form);
  if (known != m_plans.end()) return known->second;
  if (m_plans.size() == kMostPlans) m_plans.clear();
  return m_plans.emplace(form, planOf(form)).first->second;
}

void Products::multiply(const ProductForm& form, const void* matrix, const void* from, void* to,
                        cudaStream_t stream) {
  const Plan& plan = planned(form);
  if (!plan.algorithm) return multiplyOtherwise(form, matrix, from, to, stream);
  const float one = 1;
  const float before = form.add ? 1 : 0;
  checkBlas(cublasLtMatmul(m_library.get(), plan.description.get(), &one, matrix, plan.matrix.get(),
                           from, plan.from.get(), &before, to, plan.to.get(), to, plan.to.get(),
                           &*plan.algorithm, m_workspace.data(), m_workspace.bytes(), stream),
            "cublasLtMatmul");
}

void Products::multiplyOtherwise(const ProductForm& form, const void* matrix, const void* from,
                                 void* to, cudaStream_t stream) {
  if (!m_otherLibrary) {
    cublasHandle_t library = nullptr;
    checkBlas(cublasCreate(&library), "cublasCreate");
    m_otherLibrary.reset(library);
  }
  checkBlas(cublasSetStream(m_otherLibrary.get(), stream), "cublasSetStream");
  const float one = 1;
  const float before = form.add ? 1 : 0;
  const auto narrow = [](std::uint32_t extent) { return static_cast<int>(extent); };
  checkBlas(cublasGemmEx(m_otherLibrary.get(), CUBLAS_OP_T, CUBLAS_OP_N, narrow(form.rows),
                         narrow(form.tokens), narrow(form.columns), &one, matrix, typeOf(form.wide),
                         narrow(form.columns), from, typeOf(form.wide), narrow(form.columns),
                         &before, to, typeOf(form.wideResult), narrow(form.stride),
                         CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
            "cublasGemmEx");
}

}  // namespace mb::cuda
