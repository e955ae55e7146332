#include <algorithm>
#include <cmath>

#include "kernels/cuda/training/head.h"
#include "kernels/cuda/training/layer_pass.h"
#include "kernels/cuda/training/learner.h"
#include "kernels/cuda/training/token_table.h"
#include "kernels/cuda/values.cuh"

namespace mb::cuda::training {

namespace {

constexpr std::uint32_t kPaceLayers = 8;  ///< that are launched before one waits for them

/// Streams that begin anew get zeros. Grid: values, streams of all layers.
__global__ void startKernel(const float* from, const std::uint8_t* fresh, std::uint32_t streams,
                            std::uint32_t size, float* to) {
  const std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const std::size_t at = std::size_t{blockIdx.y} * size + i;
  to[at] = fresh[blockIdx.y % streams] ? 0.0f : from[at];
}

/// States of streams in all layers, and the ones that a pass comes to.
struct StreamStates {
  StreamStates() = default;
  StreamStates(std::size_t size, std::uint32_t streams)
      : kept(size), now(size), next(size), fresh(streams) {}

  DeviceArray<float> kept;  ///< [L][streams][Extents::stateSize()]
  DeviceArray<float> now;
  DeviceArray<float> next;
  DeviceArray<std::uint8_t> fresh;

  std::size_t bytes() const { return 3 * kept.bytes() + fresh.bytes(); }
};

template <class Value>
class LearnerOf : public Learner {
 public:
  LearnerOf(const Plan& plan, const Capacity& capacity)
      : m_plan(plan),
        m_sizes(plan.extents),
        m_most{capacity.streams, capacity.tokens},
        m_weights(plan, capacity.averages),
        m_pass(plan, m_weights, m_most),
        m_head(plan, m_weights, m_most),
        m_tokens(plan.extents, m_most.rows()),
        m_embeddingSums(TokenTable::sumsFor(plan.extents, m_most.rows())),
        m_states(stateSize(m_most.streams), m_most.streams),
        m_aside(stateSize(1), 1),
        m_stateGradient(stateSize(m_most.streams)),
        m_totals(2),
        m_hostTotals(2),
        m_normed(m_sizes.layers * normedSize()),
        m_scales(m_sizes.layers * m_most.rows()),
        m_selected(m_sizes.layers * selectedSize()),
        m_tileStates(m_sizes.layers * tileStatesSize()),
        m_kept(keptWithin(capacity.memory)),
        m_expanded(expandedSize() * std::min(m_sizes.layers, m_kept + 1)),
        m_whole(wholeWithin(capacity.memory)),
        m_inner(innerSize() * m_whole) {}

  void begin() override {
    m_weights.clear(stream());
    check(cudaMemsetAsync(m_totals.data(), 0, m_totals.bytes(), stream()), "cudaMemsetAsync");
    m_isFirst = true;
    m_pass.clock().mark("optimiser", stream());
  }

  void learn(const Batch& batch, const std::function<void()>& pace) override {
    const PassShape shape{batch.streams, batch.tokens};
    start(batch, m_isFirst ? m_states.kept : m_states.now, m_states);
    forward(batch, shape, m_states, true, pace);
    m_head.run(m_pass, m_tokens.targets(), shape, batch.scale, m_totals.data());
    for (std::uint32_t layer = m_sizes.layers; layer-- > 0;) {
      m_pass.backward(layer, memoryOf(layer, m_states, shape, true), shape);
      keepPace(layer, pace);
    }
    m_tokens.addGradient(m_pass.x(), m_embeddingSums.data(), m_weights.gradient(m_plan.embedding),
                         stream());
    m_pass.clock().mark("embedding", stream());
    std::swap(m_states.now, m_states.next);
    m_isFirst = false;
  }

  Learned finish() override {
    m_weights.finish(stream());
    m_weights.measure(m_totals.data() + 1, stream());
    fetchTotals();
    return {m_hostTotals.data()[0], std::sqrt(m_hostTotals.data()[1])};
  }

  void update(const AdamW& step) override {
    m_weights.update(step, stream());
    std::swap(m_states.kept, m_states.now);
  }

  void exchangeAverage() override { m_weights.exchangeAverage(stream()); }

  double evaluate(const Batch& batch) override {
    const PassShape shape{1, batch.tokens};
    check(cudaMemsetAsync(m_totals.data(), 0, m_totals.bytes(), stream()), "cudaMemsetAsync");
    start(batch, m_aside.kept, m_aside);
    forward(batch, shape, m_aside, false, [] {});
    m_head.run(m_pass, m_tokens.targets(), shape, 0, m_totals.data());
    std::swap(m_aside.kept, m_aside.next);
    fetchTotals();
    return m_hostTotals.data()[0];
  }

  void download(Held what, std::span<float> values) const override {
    fetch(m_weights.held(what), values);
  }
  void upload(Held what, std::span<const float> values) override {
    m_weights.held(what).upload(values.data(), values.size());
    if (what == Held::Masters) m_weights.round(stream());
    wait();
  }
  void downloadStates(std::span<float> values) const override { fetch(m_states.kept, values); }
  void downloadStateGradient(std::span<float> values) const override {
    fetch(m_stateGradient, values);
  }
  void uploadStates(std::span<const float> values) override {
    m_states.kept.upload(values.data(), values.size());
  }

  std::size_t memoryBytes() const override {
    return neededBytes() + m_expanded.bytes() + m_inner.bytes();
  }
  std::vector<std::pair<std::string, double>> profile() override {
    m_pass.clock().switchOn();
    return m_pass.clock().take();
  }

 private:
  cudaStream_t stream() const { return m_pass.stream(); }
  void wait() const { check(cudaStreamSynchronize(stream()), "cudaStreamSynchronize"); }

  std::size_t stateSize(std::uint32_t streams) const {
    return m_sizes.layers * m_sizes.stateSize() * streams;
  }
  std::size_t normedSize() const { return m_most.rows() * m_sizes.modelPadded(); }
  std::size_t selectedSize() const { return m_most.rows() * m_sizes.selected(); }
  std::size_t expandedSize() const { return m_most.rows() * 2 * m_sizes.innerPadded(); }
  /// u' and W_dt δ.
  std::size_t innerSize() const {
    return convolvedSize() + LayerPass<Value>::deltaSize(m_sizes, m_most);
  }
  std::size_t convolvedSize() const { return m_most.rows() * m_sizes.innerPadded(); }
  std::size_t tileStatesSize() const {
    return m_most.streams * m_most.tiles(m_sizes) * m_sizes.innerPadded() * m_sizes.statesPadded();
  }

  /// Everything but in_proj's outputs.
  std::size_t neededBytes() const {
    return m_weights.bytes() + LayerPass<Value>::memoryFor(m_sizes, m_most) +
           Head<Value>::memoryFor(m_sizes, m_most) + TokenTable::memoryFor(m_sizes, m_most.rows()) +
           m_embeddingSums.bytes() + m_states.bytes() + m_aside.bytes() + m_stateGradient.bytes() +
           m_normed.bytes() + m_scales.bytes() + m_selected.bytes() + m_tileStates.bytes();
  }
  /// Layers that keep in_proj's outputs; the others share one place.
  std::uint32_t keptWithin(std::size_t memory) const {
    const std::size_t each = expandedSize() * sizeof(Value);
    const std::size_t needed = neededBytes() + each;
    const std::size_t fitting = memory > needed ? (memory - needed) / each : 0;
    return static_cast<std::uint32_t>(std::min<std::size_t>(fitting, m_sizes.layers - 1));
  }

  /// Layers that keep u' and W_dt δ as well, when all keep in_proj's outputs.
  std::uint32_t wholeWithin(std::size_t memory) const {
    const std::size_t taken = neededBytes() + m_expanded.bytes();
    if (m_kept + 1 < m_sizes.layers || memory <= taken) return 0;
    return static_cast<std::uint32_t>(
        std::min<std::size_t>((memory - taken) / (innerSize() * sizeof(Value)), m_kept));
  }

  void start(const Batch& batch, const DeviceArray<float>& from, StreamStates& states) {
    m_tokens.upload(batch.inputs, batch.targets, stream());
    check(cudaMemcpyAsync(states.fresh.data(), batch.fresh.data(), batch.fresh.size_bytes(),
                          cudaMemcpyHostToDevice, stream()),
          "sending tokens");
    constexpr unsigned kThreads = 256;
    const auto size = static_cast<std::uint32_t>(m_sizes.stateSize());
    const dim3 grid((size + kThreads - 1) / kThreads, m_sizes.layers * batch.streams);
    startKernel<<<grid, kThreads, 0, stream()>>>(from.data(), states.fresh.data(), batch.streams,
                                                 size, states.now.data());
    check(cudaGetLastError(), "starting the streams");
  }

  void forward(const Batch& batch, const PassShape& shape, StreamStates& states, bool learns,
               const std::function<void()>& pace) {
    m_tokens.embed(m_weights.values(m_plan.embedding), m_pass.x(), stream());
    m_pass.clock().mark("embedding", stream());
    for (std::uint32_t layer = 0; layer < m_sizes.layers; ++layer) {
      m_pass.forward(layer, memoryOf(layer, states, shape, learns), shape);
      if (learns && layer == 0) m_tokens.sort(batch.inputs, stream());
      keepPace(layer, pace);
    }
  }

  LayerMemory<Value> memoryOf(std::uint32_t layer, StreamStates& states, const PassShape& shape,
                              bool learns) {
    const std::size_t slot = learns ? layer : 0;
    const std::size_t state = layer * m_sizes.stateSize() * shape.streams;
    const bool isLast = layer + 1 == m_sizes.layers;  // whose outputs are still there
    const bool isWhole = learns && layer < m_whole;
    Value* inner = isWhole ? m_inner.data() + layer * innerSize() : nullptr;
    return {.normed = m_normed.data() + slot * normedSize(),
            .scales = m_scales.data() + slot * m_most.rows(),
            .selected = m_selected.data() + slot * selectedSize(),
            .tileStates = learns ? m_tileStates.data() + slot * tileStatesSize() : nullptr,
            .expanded = m_expanded.data() + std::min<std::size_t>(slot, m_kept) * expandedSize(),
            .convolved = isWhole ? inner : m_pass.convolved(),
            .delta = isWhole ? inner + convolvedSize() : m_pass.delta(),
            .expandsAgain = layer >= m_kept && !isLast,
            .convolvesAgain = !isWhole && !isLast,
            .stateIn = states.now.data() + state,
            .stateOut = states.next.data() + state,
            .stateGradient = learns && m_isFirst ? m_stateGradient.data() + state : nullptr};
  }

  void keepPace(std::uint32_t layer, const std::function<void()>& pace) {
    if (layer % kPaceLayers == kPaceLayers - 1) wait();
    pace();
  }

  void fetchTotals() {
    check(cudaMemcpyAsync(m_hostTotals.data(), m_totals.data(), m_totals.bytes(),
                          cudaMemcpyDeviceToHost, stream()),
          "fetching the loss");
    wait();
  }

  void fetch(const DeviceArray<float>& from, std::span<float> to) const {
    wait();
    check(cudaMemcpy(to.data(), from.data(), to.size_bytes(), cudaMemcpyDeviceToHost),
          "fetching what was learned");
  }

  const Plan& m_plan;
  const Extents& m_sizes;
  PassShape m_most;
  Weights<Value> m_weights;
  LayerPass<Value> m_pass;
  Head<Value> m_head;
  TokenTable m_tokens;
  DeviceArray<float> m_embeddingSums;
  StreamStates m_states;
  StreamStates m_aside;  ///< of evaluate()
  DeviceArray<float> m_stateGradient;
  DeviceArray<double> m_totals;  ///< loss, ‖gradient‖²
  PinnedArray<double> m_hostTotals;
  bool m_isFirst = true;        ///< the next batch is the first since begin()
  DeviceArray<Value> m_normed;  ///< of each layer, as the following
  DeviceArray<float> m_scales;
  DeviceArray<Value> m_selected;
  DeviceArray<Value> m_tileStates;
  std::uint32_t m_kept;
  DeviceArray<Value> m_expanded;  ///< of the layers that keep theirs, then of the others
  std::uint32_t m_whole;
  DeviceArray<Value> m_inner;  ///< u' and W_dt δ of the first layers
};

}  // namespace

std::unique_ptr<Learner> Learner::make(const Plan& plan, const Capacity& capacity, bool bfloat16) {
  if (bfloat16) return std::make_unique<LearnerOf<bf16>>(plan, capacity);
  return std::make_unique<LearnerOf<float>>(plan, capacity);
}

}  // namespace mb::cuda::training
