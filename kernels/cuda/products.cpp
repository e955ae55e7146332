#include "kernels/cuda/products.h"

#include <algorithm>
#include <array>
#include <utility>

#include "kernels/cuda/blas.h"

namespace mb::cuda {

namespace {

constexpr std::size_t kMostPlans = 256;  // texts come in any length

/// Of all pointers, in bytes. cuBLASLt's kernels for 16 copy by tensor maps, which racecheck cannot
/// follow.
#ifdef MB_CUDA_RACECHECK
constexpr std::uint32_t kAlignment = 8;
#else
constexpr std::uint32_t kAlignment = 16;
#endif

constexpr int kMostAlgorithms = 16;  // that are measured
constexpr int kMeasuredRuns = 5;
constexpr std::uint64_t kWorthMeasuring = std::uint64_t{1} << 32;  // terms of all sums
/// Of the time of what was the fastest so far: less is noise.
constexpr double kWorthChanging = 0.98;

cudaDataType_t typeOf(bool wide) {
  return wide ? CUDA_R_32F : CUDA_R_16BF;
}

bool isWorthMeasuring(const ProductForm& form) {
  return !form.add && std::uint64_t{form.rows} * form.columns * form.tokens >= kWorthMeasuring;
}

/// For cuBLAS, whose matrices are column-major, each is its transpose: it computes toᵀ = matrixᵀ ·
/// fromᵀ.
cublasOperation_t operationOf(Order order) {
  return order == Order::AsIs ? CUBLAS_OP_N : CUBLAS_OP_T;
}

std::uint32_t strideOf(std::uint32_t given, Order order, std::uint32_t rows,
                       std::uint32_t columns) {
  return given > 0 ? given : order == Order::AsIs ? columns : rows;
}

std::uint32_t matrixStrideOf(const ProductForm& form) {
  return strideOf(form.matrixStride, form.matrix, form.columns, form.rows);
}

std::uint32_t fromStrideOf(const ProductForm& form) {
  return strideOf(form.fromStride, form.from, form.tokens, form.columns);
}

}  // namespace

Products::Products(Choice choice, std::size_t workspaceBytes)
    : m_choice(choice), m_workspace(workspaceBytes) {
  cublasLtHandle_t library = nullptr;
  checkBlas(cublasLtCreate(&library), "cublasLtCreate");
  m_library.reset(library);
}

/// Of a matrix of so many rows and columns; for cuBLASLt its rows are columns.
Products::Layout Products::layoutOf(cudaDataType_t type, Order order, std::uint32_t rows,
                                    std::uint32_t columns, std::uint32_t stride) {
  if (order == Order::Transposed) std::swap(rows, columns);
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
            layoutOf(typeOf(form.wide), form.matrix, form.columns, form.rows, matrixStrideOf(form)),
            layoutOf(typeOf(form.wide), form.from, form.tokens, form.columns, fromStrideOf(form)),
            layoutOf(typeOf(form.wideResult), Order::AsIs, form.tokens, form.rows, form.stride),
            {}};
  const auto set = [&](cublasLtMatmulDescAttributes_t what, Order order) {
    const cublasOperation_t operation = operationOf(order);
    checkBlas(cublasLtMatmulDescSetAttribute(description, what, &operation, sizeof operation),
              "cublasLtMatmulDescSetAttribute");
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, form.matrix);
  set(CUBLASLT_MATMUL_DESC_TRANSB, form.from);

  const bool measures = m_choice == Choice::Measured && isWorthMeasuring(form);
  plan.algorithms = algorithmsOf(plan, measures ? kMostAlgorithms : 1);
  return plan;
}

std::vector<cublasLtMatmulAlgo_t> Products::algorithmsOf(const Plan& plan, int most) const {
  cublasLtMatmulPreference_t made = nullptr;
  checkBlas(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate");
  const Preference preference(made);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
    checkBlas(cublasLtMatmulPreferenceSetAttribute(made, what, &value, sizeof value),
              "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, m_workspace.bytes());
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, kAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, kAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, kAlignment);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, kAlignment);
  std::array<cublasLtMatmulHeuristicResult_t, kMostAlgorithms> best{};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      m_library.get(), plan.description.get(), plan.matrix.get(), plan.from.get(), plan.to.get(),
      plan.to.get(), made, most, best.data(), &found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return {};
  checkBlas(status, "cublasLtMatmulAlgoGetHeuristic");
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < found; ++i) algorithms.push_back(best[static_cast<std::size_t>(i)].algo);
  return algorithms;
}

Products::Plan& Products::planned(const ProductForm& form) {
  const auto known = m_plans.find(form);
  if (known != m_plans.end()) return known->second;
  if (m_plans.size() == kMostPlans) m_plans.clear();
  return m_plans.emplace(form, planOf(form)).first->second;
}

void Products::multiply(const ProductForm& form, const Operands& operands, cudaStream_t stream) {
  Plan& plan = planned(form);
  if (plan.algorithms.empty()) return multiplyOtherwise(form, operands, stream);
  if (plan.algorithms.size() > 1) choose(form, plan, operands, stream);
  checkBlas(run(plan, plan.algorithms.front(), form.add, operands, stream), "cublasLtMatmul");
}

cublasStatus_t Products::run(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, bool add,
                             const Operands& operands, cudaStream_t stream) {
  const float one = 1;
  const float before = add ? 1 : 0;
  return cublasLtMatmul(m_library.get(), plan.description.get(), &one, operands.matrix,
                        plan.matrix.get(), operands.from, plan.from.get(), &before, operands.to,
                        plan.to.get(), operands.to, plan.to.get(), &algorithm, m_workspace.data(),
                        m_workspace.bytes(), stream);
}

/// Leaves a plan with one algorithm, and anything in `to`.
void Products::choose(const ProductForm& form, Plan& plan, const Operands& operands,
                      cudaStream_t stream) {
  Event start, end;
  const auto runs = [&](const cublasLtMatmulAlgo_t& algorithm) {
    return run(plan, algorithm, false, operands, stream) == CUBLAS_STATUS_SUCCESS;
  };
  const auto resultOf = [&] {
    return m_fingerprint.of(operands.to, form.wideResult, form.tokens, form.rows, form.stride,
                            stream);
  };
  const auto secondsOf = [&](const cublasLtMatmulAlgo_t& algorithm) {
    start.record(stream);
    for (int i = 0; i < kMeasuredRuns; ++i) runs(algorithm);
    end.record(stream);
    return end.secondsSince(start);
  };
  cublasLtMatmulAlgo_t fastest = plan.algorithms.front();
  checkBlas(run(plan, fastest, false, operands, stream), "cublasLtMatmul");
  const std::uint64_t wanted = resultOf();
  double least = secondsOf(fastest);
  for (std::size_t i = 1; i < plan.algorithms.size(); ++i) {
    if (!runs(plan.algorithms[i]) || resultOf() != wanted) continue;
    const double seconds = secondsOf(plan.algorithms[i]);
    if (seconds >= kWorthChanging * least) continue;
    least = seconds;
    fastest = plan.algorithms[i];
  }
  plan.algorithms = {fastest};
}

void Products::multiplyOtherwise(const ProductForm& form, const Operands& operands,
                                 cudaStream_t stream) {
  if (!m_otherLibrary) {
    cublasHandle_t library = nullptr;
    checkBlas(cublasCreate(&library), "cublasCreate");
    m_otherLibrary.reset(library);
  }
  checkBlas(cublasSetStream(m_otherLibrary.get(), stream), "cublasSetStream");
  const float one = 1;
  const float before = form.add ? 1 : 0;
  const auto narrow = [](std::uint32_t extent) { return static_cast<int>(extent); };
  checkBlas(cublasGemmEx(m_otherLibrary.get(), operationOf(form.matrix), operationOf(form.from),
                         narrow(form.rows), narrow(form.tokens), narrow(form.columns), &one,
                         operands.matrix, typeOf(form.wide), narrow(matrixStrideOf(form)),
                         operands.from, typeOf(form.wide), narrow(fromStrideOf(form)), &before,
                         operands.to, typeOf(form.wideResult), narrow(form.stride),
                         CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
            "cublasGemmEx");
}

}  // namespace mb::cuda
