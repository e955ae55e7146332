#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/training/head.h"
#include "kernels/cuda/training/loss.cuh"
#include "kernels/cuda/training/rows.cuh"
#include "kernels/cuda/training/sums.cuh"

namespace mb::cuda::training {

namespace {

constexpr std::size_t kLogitBytes = 64u << 20;
constexpr std::size_t kLeastRows = 128;
constexpr std::uint32_t kNarrow = 2048;  ///< words of a vocabulary that a warp takes
constexpr int kWideThreads = 256;

std::size_t rowsAtATime(const Extents& sizes, const PassShape& most) {
  const std::size_t fitting =
      kLogitBytes / (sizeof(float) * sizes.vocabularyPadded()) / kLeastRows * kLeastRows;
  return std::min(most.rows(), std::max(kLeastRows, fitting));
}

}  // namespace

template <class Value>
std::size_t Head<Value>::memoryFor(const Extents& sizes, const PassShape& most) {
  return 2 * sizeof(float) * most.rows() +
         (sizeof(float) + sizeof(Value)) * rowsAtATime(sizes, most) * sizes.vocabularyPadded();
}

template <class Value>
Head<Value>::Head(const Plan& plan, Weights<Value>& weights, const PassShape& most)
    : m_plan(plan),
      m_weights(weights),
      m_rows(rowsAtATime(plan.extents, most)),
      m_scales(most.rows()),
      m_losses(most.rows()),
      m_logits(m_rows * plan.head.rows),
      m_dLogits(m_rows * plan.head.rows) {}

template <class Value>
void Head<Value>::run(LayerPass<Value>& pass, const std::int32_t* targets, const PassShape& shape,
                      float scale, double* nats) {
  const std::size_t d = m_plan.head.columns;
  const std::size_t words = m_plan.head.rows;
  const cudaStream_t stream = pass.stream();
  const NormShape norm{static_cast<std::uint32_t>(shape.rows()), m_plan.extents.model,
                       static_cast<std::uint32_t>(d), m_plan.extents.epsilon};
  const unsigned normBlocks = blocksFor(shape.rows(), kRowWarps);
  Value* normed = pass.wide();
  Value* dNormed = pass.otherWide();
  normKernel<<<normBlocks, 32 * kRowWarps, 0, stream>>>(norm, pass.x(), normed, m_scales.data());
  const Rows<const Value> matrix{m_weights.matrix(m_plan.head), words, d, d};
  for (std::size_t first = 0; first < shape.rows(); first += m_rows) {
    const std::size_t rows = std::min(m_rows, shape.rows() - first);
    const Rows<const Value> from{normed + first * d, rows, d, d};
    pass.products().template multiply<Value, float>(Order::AsIs, from, Order::Transposed, matrix,
                                                    {m_logits.data(), rows, words, words});
    const LossArguments loss{.logits = m_logits.data(),
                             .targets = targets + first,
                             .losses = m_losses.data() + first,
                             .rows = static_cast<std::uint32_t>(rows),
                             .vocabulary = m_plan.extents.vocabulary,
                             .stride = static_cast<std::uint32_t>(words),
                             .scale = scale};
    Value* dLogits = scale > 0 ? m_dLogits.data() : nullptr;
    if (words <= kNarrow)
      lossKernel<Value, 32><<<blocksFor(rows, 8), 256, 0, stream>>>(loss, dLogits);
    else
      lossKernel<Value, kWideThreads>
          <<<static_cast<unsigned>(rows), kWideThreads, 0, stream>>>(loss, dLogits);
    if (!dLogits) continue;
    const Rows<const Value> gradient{m_dLogits.data(), rows, words, words};
    pass.products().template addProduct<Value, float>(
        Order::Transposed, gradient, Order::AsIs, from, {m_weights.headGradient(), words, d, d});
    pass.products().template multiply<Value, Value>(Order::AsIs, gradient, Order::AsIs, matrix,
                                                    {dNormed + first * d, rows, d, d});
  }
  sumAllKernel<<<1, 1024, 0, stream>>>(m_losses.data(), shape.rows(), true, nats);
  if (scale > 0)
    normBackKernel<Value, false><<<normBlocks, 32 * kRowWarps, 0, stream>>>(
        norm, dNormed, normed, m_scales.data(), pass.x(), pass.rounded());
  check(cudaGetLastError(), "the head");
  pass.clock().mark("head", stream);
}

template class Head<bf16>;
template class Head<float>;

}  // namespace mb::cuda::training
