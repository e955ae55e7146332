#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/training/convolution.cuh"
#include "kernels/cuda/training/layer_pass.h"
#include "kernels/cuda/training/rows.cuh"
#include "kernels/cuda/training/scan_back.cuh"
#include "kernels/cuda/training/sums.cuh"

namespace mb::cuda::training {

namespace {

constexpr int kFewStates = 4;  ///< of a thread of the scan; models with n <= 16
constexpr int kManyStates = 16;
constexpr int kFewTaps = 4;
constexpr unsigned kThreads = 256;
constexpr std::size_t kBlocksPerProcessor = 3;  ///< of backward scan and convolution
constexpr std::size_t kLeastSegment = 4;        ///< tiles
constexpr std::uint32_t kConvStrip = 256;       ///< tokens of the backward convolution's strips
constexpr std::uint32_t kShortConvStrip = 64;   ///< where there are few

std::uint32_t processors() {
  int device = 0;
  int count = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  return static_cast<std::uint32_t>(count);
}

bool fewStates(const Extents& sizes) {
  return sizes.statesPadded() == ScanTile<kFewStates>::kStates;
}

std::size_t scanBackBlocks(const Extents& sizes) {
  using Few = ScanBack<float, kFewStates>;
  using Many = ScanBack<float, kManyStates>;
  return sizes.innerPadded() /
         static_cast<std::size_t>(fewStates(sizes) ? Few::kChannels : Many::kChannels);
}

/// Streams times segments of the backward scan.
std::size_t mostGroups(const Extents& sizes, const PassShape& most, std::size_t multiprocessors) {
  return std::max<std::size_t>(most.streams,
                               kBlocksPerProcessor * multiprocessors / scanBackBlocks(sizes));
}

std::size_t convStrips(const PassShape& shape, std::uint32_t strip) {
  return std::size_t{shape.streams} * blocksFor(shape.tokens, strip);
}

ConvShape convShape(const float* weights, const float* bias, const float* memory,
                    const Extents& sizes, const PassShape& shape) {
  return {.weights = weights,
          .bias = bias,
          .memory = memory,
          .stateStride = sizes.stateSize(),
          .channels = sizes.innerPadded(),
          .taps = sizes.taps,
          .tokens = shape.tokens};
}

}  // namespace

std::size_t PassShape::tiles(const Extents& extents) const {
  return blocksFor(tokens,
                   static_cast<std::size_t>(fewStates(extents) ? ScanTile<kFewStates>::kTokens
                                                               : ScanTile<kManyStates>::kTokens));
}

template <class Value>
std::size_t LayerPass<Value>::partsFor(const Extents& sizes, const PassShape& most) {
  const std::size_t scan = scanBackBlocks(sizes) * most.rows() * 2 * sizes.statesPadded() *
                           sizeof(Value) / sizeof(float);
  const std::size_t conv =
      convStrips(most, kShortConvStrip) * sizes.innerPadded() * (sizes.taps + 1);
  return std::max(scan, conv);
}

template <class Value>
std::size_t LayerPass<Value>::memoryFor(const Extents& sizes, const PassShape& most) {
  const std::size_t d = sizes.modelPadded();
  const std::size_t e = sizes.innerPadded();
  const std::size_t values = d + e + 2 * std::max(d, e) + std::max(d, 2 * e) + sizes.selected();
  return most.rows() * (sizeof(float) * d + sizeof(Value) * values) +
         sizeof(float) *
             (partsFor(sizes, most) + std::size_t{most.streams} * e * (sizes.statesPadded() + 2)) +
         PassProducts::kWorkspaceBytes;
}

template <class Value>
LayerPass<Value>::LayerPass(const Plan& plan, Weights<Value>& weights, const PassShape& most)
    : m_plan(plan),
      m_sizes(plan.extents),
      m_weights(weights),
      m_d(m_sizes.modelPadded()),
      m_e(m_sizes.innerPadded()),
      m_n(m_sizes.statesPadded()),
      m_rank(m_sizes.rankPadded()),
      m_selected(m_sizes.selected()),
      m_processors(processors()),
      m_products(m_stream),
      m_x(most.rows() * m_d),
      m_rounded(most.rows() * m_d),
      m_convolved(most.rows() * m_e),
      m_delta(deltaSize(m_sizes, most)),
      m_dConvolved(most.rows() * std::max(m_d, m_e)),
      m_dExpanded(most.rows() * std::max(m_d, 2 * m_e)),
      m_dSelected(most.rows() * m_selected),
      m_parts(partsFor(m_sizes, most)) {
  const std::size_t groups = mostGroups(m_sizes, most, m_processors);
  for (DeviceArray<float>* values : {&m_dDecay, &m_segmentEnds})
    *values = DeviceArray<float>(groups * m_e * m_n);
  for (DeviceArray<float>* values : {&m_dDtBias, &m_dSkip, &m_segmentDeltas})
    *values = DeviceArray<float>(groups * m_e);
  const auto share = [](auto kernel, std::size_t bytes) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(bytes)),
          "cudaFuncSetAttribute");
  };
  share(scanBackKernel<Value, kFewStates>, sizeof(typename ScanBack<Value, kFewStates>::Shared));
  share(scanBackKernel<Value, kManyStates>, sizeof(typename ScanBack<Value, kManyStates>::Shared));
}

/// [u, z] of a norm's output.
template <class Value>
void LayerPass<Value>::expand(std::uint32_t layer, const LayerMemory<Value>& memory,
                              const PassShape& shape) {
  const Tensor& inProj = m_plan.layers[layer].inProj;
  m_products.multiply<Value, Value>(Order::AsIs, {memory.normed, shape.rows(), m_d, m_d},
                                    Order::Transposed,
                                    {m_weights.matrix(inProj), 2 * m_e, m_d, m_d},
                                    {memory.expanded, shape.rows(), 2 * m_e, 2 * m_e});
  m_clock.mark("in_proj", m_stream);
}

template <class Value>
void LayerPass<Value>::convolve(std::uint32_t layer, const LayerMemory<Value>& memory,
                                const PassShape& shape) {
  const LayerTensors& at = m_plan.layers[layer];
  const ConvShape conv = convShape(m_weights.values(at.conv), m_weights.values(at.convBias),
                                   memory.stateIn, m_sizes, shape);
  const auto kernel = m_sizes.taps <= kFewTaps
                          ? convKernel<Value, kFewTaps>
                          : convKernel<Value, static_cast<int>(kMostTrainedTaps)>;
  const dim3 grid(blocksFor(m_e, kConvChannels), blocksFor(shape.tokens, kConvTokens),
                  shape.streams);
  kernel<<<grid, kConvThreads, 0, m_stream>>>(conv, memory.expanded, memory.convolved);
  m_clock.mark("convolution", m_stream);
}

/// W_dt δ.
template <class Value>
void LayerPass<Value>::takeDelta(std::uint32_t layer, const LayerMemory<Value>& memory,
                                 const PassShape& shape) {
  const Tensor& dtProj = m_plan.layers[layer].dtProj;
  m_products.multiply<Value, Value>(
      Order::AsIs, {memory.selected, shape.rows(), m_rank, m_selected}, Order::Transposed,
      {m_weights.matrix(dtProj), m_e, m_rank, m_rank}, {memory.delta, shape.rows(), m_e, m_e});
  m_clock.mark("dt_proj", m_stream);
}

template <class Value>
void LayerPass<Value>::forward(std::uint32_t layer, const LayerMemory<Value>& memory,
                               const PassShape& shape) {
  const LayerTensors& at = m_plan.layers[layer];
  const std::size_t rows = shape.rows();
  normKernel<<<blocksFor(rows, kRowWarps), 32 * kRowWarps, 0, m_stream>>>(
      {static_cast<std::uint32_t>(rows), m_sizes.model, static_cast<std::uint32_t>(m_d),
       m_sizes.epsilon},
      m_x.data(), memory.normed, memory.scales);
  m_clock.mark("norm", m_stream);
  expand(layer, memory, shape);
  convolve(layer, memory, shape);
  if (m_sizes.taps > 1)
    rememberKernel<<<dim3(blocksFor(m_e, kThreads), m_sizes.taps - 1, shape.streams), kThreads, 0,
                     m_stream>>>(convShape(nullptr, nullptr, memory.stateIn, m_sizes, shape),
                                 memory.expanded, memory.stateOut);
  m_products.multiply<Value, Value>(Order::AsIs, {memory.convolved, rows, m_e, m_e},
                                    Order::Transposed,
                                    {m_weights.matrix(at.xProj), m_selected, m_e, m_e},
                                    {memory.selected, rows, m_selected, m_selected});
  m_clock.mark("x_proj", m_stream);
  takeDelta(layer, memory, shape);
  scan(layer, memory, shape);
  m_products.addProduct<Value, float>(
      Order::AsIs, {m_dExpanded.data(), rows, m_e, 2 * m_e}, Order::Transposed,
      {m_weights.matrix(at.outProj), m_d, m_e, m_e}, {m_x.data(), rows, m_d, m_d});
  m_clock.mark("out_proj", m_stream);
  check(cudaGetLastError(), "a layer's forward pass");
}

template <class Value>
static ScanArguments<Value> scanArguments(const Plan& plan, Weights<Value>& weights,
                                          std::uint32_t layer, const LayerMemory<Value>& memory,
                                          const PassShape& shape, const Value* convolved,
                                          Value* delta) {
  const LayerTensors& at = plan.layers[layer];
  const Extents& sizes = plan.extents;
  const std::size_t hidden = std::size_t{sizes.taps - 1} * sizes.innerPadded();
  return {.convolved = convolved,
          .delta = delta,
          .expanded = memory.expanded,
          .selected = memory.selected,
          .tileStates = memory.tileStates,
          .dtBias = weights.values(at.dtBias),
          .decay = weights.values(at.decay),
          .skip = weights.values(at.skip),
          .stateIn = memory.stateIn + hidden,
          .stateOut = memory.stateOut + hidden,
          .stateStride = sizes.stateSize(),
          .selectedStride = sizes.selected(),
          .rank = sizes.rankPadded(),
          .channels = sizes.innerPadded(),
          .tokens = shape.tokens};
}

template <class Value>
void LayerPass<Value>::scan(std::uint32_t layer, const LayerMemory<Value>& memory,
                            const PassShape& shape) {
  const auto arguments =
      scanArguments(m_plan, m_weights, layer, memory, shape, memory.convolved, memory.delta);
  const auto kernel =
      fewStates(m_sizes) ? scanKernel<Value, kFewStates> : scanKernel<Value, kManyStates>;
  const dim3 grid(blocksFor(m_e, kScanThreads / kScanLanes), shape.streams);
  kernel<<<grid, kScanThreads, 0, m_stream>>>(arguments, m_dExpanded.data());
  m_clock.mark("scan", m_stream);
}

template <class Value>
void LayerPass<Value>::backward(std::uint32_t layer, const LayerMemory<Value>& memory,
                                const PassShape& shape) {
  const LayerTensors& at = m_plan.layers[layer];
  const std::size_t rows = shape.rows();
  if (memory.expandsAgain) expand(layer, memory, shape);
  if (memory.convolvesAgain) {
    convolve(layer, memory, shape);
    takeDelta(layer, memory, shape);
  }
  m_products.multiply<Value, Value>(Order::AsIs, {m_rounded.data(), rows, m_d, m_d}, Order::AsIs,
                                    {m_weights.matrix(at.outProj), m_d, m_e, m_e},
                                    {m_dConvolved.data(), rows, m_e, m_e});
  m_clock.mark("out_proj back", m_stream);
  scanBack(layer, memory, shape);
  m_products.addProduct<Value, float>(Order::Transposed, {m_rounded.data(), rows, m_d, m_d},
                                      Order::AsIs, {m_dExpanded.data(), rows, m_e, 2 * m_e},
                                      {m_weights.gradient(at.outProj), m_d, m_e, m_e});
  m_clock.mark("out_proj weights", m_stream);
  selectBack(layer, memory, shape);
  convolveBack(layer, memory, shape);
  expandBack(layer, memory, shape);
  check(cudaGetLastError(), "a layer's backward pass");
}

/// to += Σ rows.
template <class Value>
void LayerPass<Value>::sumRows(const float* rows, std::size_t count, const Tensor& to) {
  const auto columns = static_cast<std::uint32_t>(to.size());
  sumRowsKernel<<<blocksFor(columns, kSumColumns), dim3(kSumColumns, kSumThreads), 0, m_stream>>>(
      rows, static_cast<std::uint32_t>(count), columns, m_weights.gradient(to));
}

template <class Value>
SegmentShape LayerPass<Value>::segmentsOf(const PassShape& shape) const {
  const std::size_t tiles = shape.tiles(m_sizes);
  const std::size_t wanted =
      kBlocksPerProcessor * m_processors / (scanBackBlocks(m_sizes) * shape.streams);
  const std::size_t each =
      blocksFor(tiles, std::max<std::size_t>(1, std::min(wanted, tiles / kLeastSegment)));
  return {blocksFor(tiles, each), static_cast<std::uint32_t>(each)};
}

/// Through gate and scan: makes the gated output again too.
template <class Value>
void LayerPass<Value>::scanBack(std::uint32_t layer, const LayerMemory<Value>& memory,
                                const PassShape& shape) {
  const LayerTensors& at = m_plan.layers[layer];
  const std::size_t hidden = (m_sizes.taps - 1) * m_e;
  const SegmentShape segments = segmentsOf(shape);
  const ScanBackArguments<Value> arguments{
      .segments = {.segments = segments.segments,
                   .tiles = segments.tiles,
                   .ends = m_segmentEnds.data(),
                   .deltas = m_segmentDeltas.data()},
      .forward =
          scanArguments(m_plan, m_weights, layer, memory, shape, memory.convolved, memory.delta),
      .dConvolved = m_dConvolved.data(),
      .gated = m_dExpanded.data(),
      .dSelected = selectedParts(),
      .dDecay = m_dDecay.data(),
      .dDtBias = m_dDtBias.data(),
      .dSkip = m_dSkip.data(),
      .dStateIn = memory.stateGradient ? memory.stateGradient + hidden : nullptr};
  const bool few = fewStates(m_sizes);
  const auto kernel = few ? scanBackKernel<Value, kFewStates> : scanBackKernel<Value, kManyStates>;
  const std::size_t shared = few ? sizeof(typename ScanBack<Value, kFewStates>::Shared)
                                 : sizeof(typename ScanBack<Value, kManyStates>::Shared);
  const auto ahead = few ? scanAheadKernel<Value, kFewStates> : scanAheadKernel<Value, kManyStates>;
  if (segments.segments > 1)
    ahead<<<dim3(blocksFor(m_e, kScanThreads / kScanLanes), shape.streams, segments.segments - 1),
            kScanThreads, 0, m_stream>>>(arguments.forward, m_dConvolved.data(),
                                         arguments.segments);
  m_clock.mark("scan ahead", m_stream);
  const dim3 grid(static_cast<unsigned>(scanBackBlocks(m_sizes)), shape.streams, segments.segments);
  kernel<<<grid, kScanThreads, shared, m_stream>>>(arguments);
  m_clock.mark("scan back", m_stream);
  const std::size_t groups = std::size_t{shape.streams} * segments.segments;
  sumRows(m_dDecay.data(), groups, at.decay);
  sumRows(m_dDtBias.data(), groups, at.dtBias);
  sumRows(m_dSkip.data(), groups, at.skip);
  const std::size_t columns = 2 * m_n;
  sumSelectedKernel<<<blocksFor(shape.rows() * columns, 4 * kThreads), kThreads, 0, m_stream>>>(
      selectedParts(), static_cast<std::uint32_t>(scanBackBlocks(m_sizes)), shape.rows(),
      static_cast<std::uint32_t>(columns), m_dSelected.data(), static_cast<std::uint32_t>(m_rank));
  m_clock.mark("scan sums", m_stream);
}

/// Through Δ and x_proj.
template <class Value>
void LayerPass<Value>::selectBack(std::uint32_t layer, const LayerMemory<Value>& memory,
                                  const PassShape& shape) {
  const LayerTensors& at = m_plan.layers[layer];
  const std::size_t rows = shape.rows();
  const Rows<const Value> dDelta{memory.delta, rows, m_e, m_e};
  m_products.multiply<Value, Value>(Order::AsIs, dDelta, Order::AsIs,
                                    {m_weights.matrix(at.dtProj), m_e, m_rank, m_rank},
                                    {m_dSelected.data(), rows, m_rank, m_selected});
  m_products.addProduct<Value, float>(Order::Transposed, dDelta, Order::AsIs,
                                      {memory.selected, rows, m_rank, m_selected},
                                      {m_weights.gradient(at.dtProj), m_e, m_rank, m_rank});
  m_clock.mark("dt_proj back", m_stream);
  const Rows<const Value> dSelected{m_dSelected.data(), rows, m_selected, m_selected};
  m_products.addProduct<Value, float>(Order::Transposed, dSelected, Order::AsIs,
                                      {memory.convolved, rows, m_e, m_e},
                                      {m_weights.gradient(at.xProj), m_selected, m_e, m_e});
  m_products.addProduct<Value, Value>(Order::AsIs, dSelected, Order::AsIs,
                                      {m_weights.matrix(at.xProj), m_selected, m_e, m_e},
                                      {m_dConvolved.data(), rows, m_e, m_e});
  m_clock.mark("x_proj back", m_stream);
}

/// Long strips have fewer sums to add up in the end, short ones use more of the device.
template <class Value>
std::uint32_t LayerPass<Value>::convStrip(const PassShape& shape) const {
  const std::size_t blocks = convStrips(shape, kConvStrip) * blocksFor(m_e, kConvChannels);
  return blocks < kBlocksPerProcessor * m_processors ? kShortConvStrip : kConvStrip;
}

template <class Value>
void LayerPass<Value>::convolveBack(std::uint32_t layer, const LayerMemory<Value>& memory,
                                    const PassShape& shape) {
  const LayerTensors& at = m_plan.layers[layer];
  const ConvShape conv = convShape(m_weights.values(at.conv), m_weights.values(at.convBias),
                                   memory.stateIn, m_sizes, shape);
  const std::uint32_t strip = convStrip(shape);
  const std::size_t strips = convStrips(shape, strip);
  float* dBias = m_parts.data() + strips * at.conv.size();
  const auto kernel = m_sizes.taps <= kFewTaps
                          ? convBackKernel<Value, kFewTaps>
                          : convBackKernel<Value, static_cast<int>(kMostTrainedTaps)>;
  const dim3 grid(blocksFor(m_e, kConvChannels), blocksFor(shape.tokens, strip), shape.streams);
  kernel<<<grid, kConvThreads, 0, m_stream>>>(conv, {.expanded = memory.expanded,
                                                     .dConvolved = m_dConvolved.data(),
                                                     .dExpanded = m_dExpanded.data(),
                                                     .strip = strip,
                                                     .dWeights = m_parts.data(),
                                                     .dBias = dBias,
                                                     .dMemory = memory.stateGradient});
  sumRows(m_parts.data(), strips, at.conv);
  if (m_sizes.convBias) sumRows(dBias, strips, at.convBias);
  m_clock.mark("convolution back", m_stream);
}

/// Through in_proj and the norm.
template <class Value>
void LayerPass<Value>::expandBack(std::uint32_t layer, const LayerMemory<Value>& memory,
                                  const PassShape& shape) {
  const Tensor& inProj = m_plan.layers[layer].inProj;
  const std::size_t rows = shape.rows();
  const Rows<const Value> dExpanded{m_dExpanded.data(), rows, 2 * m_e, 2 * m_e};
  m_products.addProduct<Value, float>(Order::Transposed, dExpanded, Order::AsIs,
                                      {memory.normed, rows, m_d, m_d},
                                      {m_weights.gradient(inProj), 2 * m_e, m_d, m_d});
  m_clock.mark("in_proj weights", m_stream);
  m_products.multiply<Value, Value>(Order::AsIs, dExpanded, Order::AsIs,
                                    {m_weights.matrix(inProj), 2 * m_e, m_d, m_d},
                                    {memory.delta, rows, m_d, m_d});
  m_clock.mark("in_proj back", m_stream);
  normBackKernel<Value, true><<<blocksFor(rows, kRowWarps), 32 * kRowWarps, 0, m_stream>>>(
      {static_cast<std::uint32_t>(rows), m_sizes.model, static_cast<std::uint32_t>(m_d),
       m_sizes.epsilon},
      memory.delta, memory.normed, memory.scales, m_x.data(), m_rounded.data());
  m_clock.mark("norm back", m_stream);
}

template class LayerPass<bf16>;
template class LayerPass<float>;

}  // namespace mb::cuda::training
