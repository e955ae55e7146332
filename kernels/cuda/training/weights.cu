#include <algorithm>
#include <utility>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/training/sums.cuh"
#include "kernels/cuda/training/weights.h"

namespace mb::cuda::training {

namespace {

constexpr unsigned kThreads = 256;
constexpr std::uint32_t kUnfoldRows = 64;  ///< of a block
static_assert(kTensorGrain == 4 * kThreads);

/// A copy of a matrix for the products, times the weight of the norm before it.
template <class Value>
__global__ void roundKernel(const float* master, const float* norm, std::uint32_t columns,
                            std::size_t size, Value* to) {
  const std::size_t i = 4 * (std::size_t{blockIdx.x} * blockDim.x + threadIdx.x);
  if (i >= size) return;
  float4 value = quadAt(master + i);
  if (norm) value = value * quadAt(norm + i % columns);
  setQuad(to + i, value);
}

struct UnfoldArguments {
  const float* folded;  ///< d(W diag(w)); may be `gradient` when that is not added to
  const float* master;  ///< W
  const float* norm;    ///< w
  float* gradient;      ///< by W
  float* normSums;      ///< [blocks of rows][columns]: Σ d(W diag(w)) ⊙ W
  std::uint32_t rows;
  std::uint32_t columns;
  bool add;
};

/// Grid: columns, rows. A thread takes a column of kUnfoldRows rows.
__global__ void unfoldKernel(UnfoldArguments a) {
  const std::uint32_t column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= a.columns) return;
  const float weight = a.norm[column];
  const std::uint32_t end = min((blockIdx.y + 1) * kUnfoldRows, a.rows);
  float sum = 0;
  for (std::uint32_t row = blockIdx.y * kUnfoldRows; row < end; ++row) {
    const std::size_t at = std::size_t{row} * a.columns + column;
    const float folded = a.folded[at];
    sum = fmaf(folded, a.master[at], sum);
    a.gradient[at] = fmaf(folded, weight, a.add ? a.gradient[at] : 0.0f);
  }
  a.normSums[std::size_t{blockIdx.y} * a.columns + column] = sum;
}

/// ‖·‖² of each block's kTensorGrain values.
__global__ void squaresKernel(const float* values, double* to) {
  const float4 v = quadAt(values + std::size_t{blockIdx.x} * kTensorGrain + 4 * threadIdx.x);
  const float squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, v.w * v.w)));
  const float sum = sumOfThreads<kThreads>(squares);
  if (threadIdx.x == 0) to[blockIdx.x] = static_cast<double>(sum);
}

/// A block takes kTensorGrain values, which all decay or not. Where nothing ever was to learn, as
/// in the padding, nothing changes.
__global__ void updateKernel(AdamW step, const float* gradients, const std::uint8_t* decays,
                             float* momentum, float* squares, float* averages, float* masters) {
  const std::size_t at = std::size_t{blockIdx.x} * kTensorGrain + 4 * threadIdx.x;
  const float keep = decays[blockIdx.x] ? step.keep : 1.0f;
  const float4 gradient = quadAt(gradients + at);
  const auto inertia = [&](float m, float g) {
    return fmaf(step.beta1, m, (1 - step.beta1) * (g * step.factor));
  };
  const auto energy = [&](float v, float g) {
    g *= step.factor;
    return fmaf(step.beta2, v, (1 - step.beta2) * g * g);
  };
  const float4 m = each(inertia, quadAt(momentum + at), gradient);
  const float4 v = each(energy, quadAt(squares + at), gradient);
  const auto stride = [&](float mean, float square) {
    return mean == 0.0f ? 0.0f
                        : step.rate * mean / (sqrtf(square * step.correction) + step.epsilon);
  };
  const auto move = [&](float value, float by) { return fmaf(keep, value, -by); };
  const float4 moved = each(move, quadAt(masters + at), each(stride, m, v));
  setQuad(masters + at, moved);
  setQuad(momentum + at, m);
  setQuad(squares + at, v);
  if (!averages) return;
  const auto mean = [&](float before, float now) {
    return fmaf(step.averaged, before, (1 - step.averaged) * now);
  };
  setQuad(averages + at, each(mean, quadAt(averages + at), moved));
}

}  // namespace

template <class Value>
Weights<Value>::Weights(const Plan& plan, bool averages)
    : m_plan(plan),
      m_headGradient(plan.head.size()),
      m_rounded(plan.size),
      m_decays(plan.decays.size()),
      m_partNorms(plan.decays.size()) {
  for (DeviceArray<float>& values : m_held)
    if (averages || &values != &held(Held::Average)) values = DeviceArray<float>(plan.size);
  m_decays.upload(plan.decays.data(), plan.decays.size());
  const std::uint32_t most =
      std::max(plan.head.rows, plan.layers.empty() ? 0 : plan.layers[0].inProj.rows);
  m_normSums = DeviceArray<float>(std::size_t{blocksFor(most, kUnfoldRows)} * plan.head.columns);
}

template <class Value>
std::size_t Weights<Value>::bytes() const {
  std::size_t sum = m_headGradient.bytes() + m_rounded.bytes() + m_decays.bytes() +
                    m_normSums.bytes() + m_partNorms.bytes();
  for (const DeviceArray<float>& values : m_held) sum += values.bytes();
  return sum;
}

template <class Value>
void Weights<Value>::roundMatrix(const Tensor& matrix, const Tensor* norm, cudaStream_t stream) {
  roundKernel<<<blocksFor(matrix.size(), kTensorGrain), kThreads, 0, stream>>>(
      values(matrix), norm ? values(*norm) : nullptr, matrix.columns, matrix.size(),
      m_rounded.data() + matrix.offset);
}

template <class Value>
void Weights<Value>::round(cudaStream_t stream) {
  for (const LayerTensors& layer : m_plan.layers) {
    roundMatrix(layer.inProj, &layer.norm, stream);
    for (const Tensor* matrix : {&layer.xProj, &layer.dtProj, &layer.outProj})
      roundMatrix(*matrix, nullptr, stream);
  }
  roundMatrix(m_plan.head, &m_plan.finalNorm, stream);
  check(cudaGetLastError(), "rounding the weights");
}

template <class Value>
void Weights<Value>::clear(cudaStream_t stream) {
  for (DeviceArray<float>* values : {&held(Held::Gradient), &m_headGradient})
    check(cudaMemsetAsync(values->data(), 0, values->bytes(), stream), "clearing the gradient");
}

template <class Value>
void Weights<Value>::unfold(const Tensor& matrix, const float* folded, const Tensor& norm,
                            cudaStream_t stream) {
  const unsigned blocks = blocksFor(matrix.rows, kUnfoldRows);
  unfoldKernel<<<dim3(blocksFor(matrix.columns, kThreads), blocks), kThreads, 0, stream>>>(
      {.folded = folded,
       .master = values(matrix),
       .norm = values(norm),
       .gradient = gradient(matrix),
       .normSums = m_normSums.data(),
       .rows = matrix.rows,
       .columns = matrix.columns,
       .add = folded != gradient(matrix)});
  sumRowsKernel<<<blocksFor(matrix.columns, kSumColumns), dim3(kSumColumns, kSumThreads), 0,
                  stream>>>(m_normSums.data(), blocks, matrix.columns, gradient(norm));
}

template <class Value>
void Weights<Value>::finish(cudaStream_t stream) {
  for (const LayerTensors& layer : m_plan.layers)
    unfold(layer.inProj, gradient(layer.inProj), layer.norm, stream);
  unfold(m_plan.head, headGradient(), m_plan.finalNorm, stream);
  check(cudaGetLastError(), "finishing the gradient");
}

template <class Value>
void Weights<Value>::measure(double* to, cudaStream_t stream) {
  squaresKernel<<<static_cast<unsigned>(m_partNorms.size()), kThreads, 0, stream>>>(
      held(Held::Gradient).data(), m_partNorms.data());
  sumAllKernel<<<1, 1024, 0, stream>>>(m_partNorms.data(), m_partNorms.size(), false, to);
  check(cudaGetLastError(), "measuring the gradient");
}

template <class Value>
void Weights<Value>::update(const AdamW& step, cudaStream_t stream) {
  updateKernel<<<static_cast<unsigned>(m_decays.size()), kThreads, 0, stream>>>(
      step, held(Held::Gradient).data(), m_decays.data(), held(Held::Momentum).data(),
      held(Held::Squares).data(), held(Held::Average).data(), held(Held::Masters).data());
  check(cudaGetLastError(), "updating the weights");
  round(stream);
}

template <class Value>
void Weights<Value>::exchangeAverage(cudaStream_t stream) {
  std::swap(held(Held::Masters), held(Held::Average));
  round(stream);
}

template class Weights<bf16>;
template class Weights<float>;

}  // namespace mb::cuda::training
