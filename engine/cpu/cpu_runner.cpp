#include "engine/cpu/cpu_runner.h"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstring>

#include "engine/error.h"

namespace mb {

using cpu::Range;
using cpu::share;

namespace {

/// Brings the values to the host, so that threads can share them.
void prepareForThreads(const State& from, State& to) {
  from.values();
  to.values();
}

}  // namespace

struct CpuRunner::Step {
  const State& from;
  State& to;
  TokenView tokens;
  const ChunkRequest& request;
  std::atomic<bool> stopped{false};

  std::size_t count() const { return tokens.size(); }
};

CpuRunner::CpuRunner(std::shared_ptr<const CpuWeights> weights, const cpu::Ops& ops,
                     std::shared_ptr<cpu::ThreadPool> pool)
    : m_weights(std::move(weights)),
      m_ops(ops),
      m_pool(std::move(pool)),
      m_barrier(m_pool->size()),
      m_traces(m_weights->config.layers) {}

/// Scratch memory grows to the largest chunk seen and is then kept.
void CpuRunner::reserve(std::size_t count) {
  if (count <= m_capacity) return;
  const CpuLayout& layout = m_weights->layout;
  m_capacity = std::min(kMaxChunk, std::max<std::size_t>(count, 2 * m_capacity));
  for (LayerTrace& trace : m_traces) {
    trace.uz = Rows(m_capacity, 2 * layout.inner);
    trace.convolved = Rows(m_capacity, layout.inner);
    trace.delta = Rows(m_capacity, layout.inner);
    trace.deltaBC = Rows(m_capacity, layout.xProj);
  }
  m_residual = Rows(m_capacity, layout.model);
  m_normalized = Rows(m_capacity, layout.model);
  m_gated = Rows(m_capacity, layout.inner);
  m_logits = Rows(m_capacity, layout.vocabulary);
  m_tapGroups = {};
}

void CpuRunner::advance(const State& from, State& to, TokenView tokens,
                        const ChunkRequest& request) {
  const ModelConfig& config = m_weights->config;
  assert(from.shape() == StateShape(config) && to.shape() == from.shape());
  checkChunk(config, tokens, kMaxChunk);
  reserve(tokens.size());
  if (request.taps.enabled && m_tapGroups.empty()) {
    const std::size_t inner = m_weights->layout.inner;
    m_stateSquared = Rows(m_capacity, inner);
    m_meanDecay = Rows(m_capacity, inner);
    m_tapGroups = AlignedArray<float>(config.layers * m_capacity * inner / kBlockRows * kTapKinds);
  }
  prepareForThreads(from, to);
  Step step{from, to, tokens, request};
  m_pool->run([&](std::size_t member) { runMember(step, member); });
  if (step.stopped) throw Stopped();
  m_lastCount = tokens.size();
  m_lastLogits = request.logits;
  to.setPosition(from.position() + tokens.size());
  collectTaps(request, tokens.size());
}

void CpuRunner::runMember(Step& step, std::size_t member) {
  const Range tokens = share(step.count(), member, m_pool->size());
  for (std::size_t i = tokens.begin; i < tokens.end; ++i)
    m_weights->embedding.row(step.tokens[i], m_residual.row(i));
  for (std::size_t layer = 0; layer < m_weights->layers.size(); ++layer) {
    if (member == 0 && step.request.stop.stop_requested()) step.stopped = true;
    normalize(m_weights->layers[layer].norm, tokens.begin, tokens.end - tokens.begin);
    m_barrier.wait();
    if (step.stopped) return;
    runLayer(step, layer, member);
  }
  runHead(step, member);
}

void CpuRunner::normalize(const NormWeights& norm, std::size_t first, std::size_t count) {
  for (std::size_t i = first; i < first + count; ++i) {
    m_ops.norm({.input = m_residual.row(i),
                .output = m_normalized.row(i),
                .size = m_weights->config.dModel,
                .weight = norm.weight.data(),
                .bias = norm.bias.empty() ? nullptr : norm.bias.data(),
                .epsilon = static_cast<float>(m_weights->config.normEpsilon)});
  }
}

Range CpuRunner::channelRange(std::size_t member) const {
  const Range blocks = share(m_weights->layout.inner / kBlockRows, member, m_pool->size());
  return {blocks.begin * kBlockRows, blocks.end * kBlockRows};
}

/// A member keeps its channels from in_proj through the convolution and from dt_proj through the
/// scan, so that only x_proj and out_proj, which mix channels, need a barrier before them.
void CpuRunner::runLayer(Step& step, std::size_t layer, std::size_t member) {
  const CpuLayer& weights = m_weights->layers[layer];
  const CpuLayout& layout = m_weights->layout;
  LayerTrace& trace = m_traces[layer];
  const std::size_t count = step.count();
  const Range channels = channelRange(member);

  const auto product = [&](const cpu::PackedMatrix& matrix, Range rows, const Rows& in, Rows& out,
                           const AlignedArray<float>& bias, bool accumulate = false) {
    m_ops.matmul({.weights = &matrix,
                  .blockBegin = rows.begin / kBlockRows,
                  .blockEnd = rows.end / kBlockRows,
                  .input = in.row(0),
                  .inputStride = in.stride,
                  .output = out.row(0),
                  .outputStride = out.stride,
                  .bias = bias.empty() ? nullptr : bias.data(),
                  .count = count,
                  .accumulate = accumulate});
  };
  const auto blockShare = [&](std::size_t rows) {
    const Range blocks = share(rows / kBlockRows, member, m_pool->size());
    return Range{blocks.begin * kBlockRows, blocks.end * kBlockRows};
  };
  const AlignedArray<float> none;

  product(weights.inProj, channels, m_normalized, trace.uz, weights.inBias);
  product(weights.inProj, {layout.inner + channels.begin, layout.inner + channels.end},
          m_normalized, trace.uz, weights.inBias);
  m_ops.convolve({.input = trace.uz.row(0),
                  .inputStride = trace.uz.stride,
                  .history = step.from.convolution(layer),
                  .output = trace.convolved.row(0),
                  .outputStride = trace.convolved.stride,
                  .weight = weights.conv.data(),
                  .bias = weights.convBias.empty() ? nullptr : weights.convBias.data(),
                  .channels = layout.inner,
                  .taps = m_weights->config.dConv,
                  .channelBegin = channels.begin,
                  .channelEnd = channels.end,
                  .count = count});
  moveConvolution(step.from.convolution(layer), step.to.convolution(layer), trace, count, channels);
  m_barrier.wait();
  product(weights.xProj, blockShare(layout.xProj), trace.convolved, trace.deltaBC, none);
  m_barrier.wait();
  product(weights.dtProj, channels, trace.deltaBC, trace.delta, weights.dtBias);
  for (std::size_t i = 0; i < count; ++i)
    m_ops.softplus(trace.delta.row(i) + channels.begin, channels.end - channels.begin);
  scanChannels(step, layer, channels);
  m_barrier.wait();
  product(weights.outProj, blockShare(layout.model), m_gated, m_residual, weights.outBias, true);
  m_barrier.wait();
}

cpu::ScanArgs CpuRunner::scanArgs(std::size_t layer, const State& from, State& to,
                                  std::size_t count, Range channels) {
  const CpuLayout& layout = m_weights->layout;
  const LayerTrace& trace = m_traces[layer];
  return {.delta = trace.delta.row(0),
          .input = trace.convolved.row(0),
          .stride = trace.delta.stride,
          .gate = trace.uz.row(0) + layout.inner,
          .gateStride = trace.uz.stride,
          .b = trace.deltaBC.row(0) + layout.bOffset,
          .c = trace.deltaBC.row(0) + layout.cOffset,
          .bcStride = trace.deltaBC.stride,
          .aLog2e = m_weights->layers[layer].aLog2e.data(),
          .d = m_weights->layers[layer].d.data(),
          .stateIn = from.hidden(layer),
          .stateOut = to.hidden(layer),
          .states = m_weights->config.dState,
          .channelBegin = channels.begin,
          .channelEnd = channels.end,
          .count = count};
}

void CpuRunner::scanChannels(Step& step, std::size_t layer, Range channels) {
  const CpuLayout& layout = m_weights->layout;
  cpu::ScanArgs args = scanArgs(layer, step.from, step.to, step.count(), channels);
  args.output = m_gated.row(0);
  if (!step.request.taps.enabled) return m_ops.scan(args);
  args.stateSquared = m_stateSquared.row(0);
  args.meanDecay = m_meanDecay.row(0);
  m_ops.scan(args);
  const std::size_t groups = layout.inner / kBlockRows;
  m_ops.reduceTaps({.delta = args.delta,
                    .stateSquared = args.stateSquared,
                    .meanDecay = args.meanDecay,
                    .stride = args.stride,
                    .channels = m_weights->config.dInner,
                    .output = m_tapGroups.data() + layer * m_capacity * groups * kTapKinds,
                    .groups = groups,
                    .channelBegin = channels.begin,
                    .channelEnd = channels.end,
                    .count = step.count()});
}

/// The convolution's memory after `kept` tokens: the last taps-1 of the inputs before and in them.
void CpuRunner::moveConvolution(const float* before, float* after, const LayerTrace& trace,
                                std::size_t kept, Range channels) const {
  const std::size_t inner = m_weights->layout.inner;
  const std::size_t inputs = m_weights->config.dConv - 1;
  const std::size_t size = (channels.end - channels.begin) * sizeof(float);
  for (std::size_t i = 0; i < inputs; ++i) {
    const std::size_t position = kept + i;  // counted from the oldest input in `before`
    const float* source =
        position < inputs ? before + position * inner : trace.uz.row(position - inputs);
    std::memmove(after + i * inner + channels.begin, source + channels.begin, size);
  }
}

void CpuRunner::runHead(Step& step, std::size_t member) {
  if (step.request.logits == LogitsWanted::None || step.count() == 0) return;
  const bool all = step.request.logits == LogitsWanted::All;
  const std::size_t first = all ? 0 : step.count() - 1;
  const std::size_t count = step.count() - first;
  const Range tokens = share(count, member, m_pool->size());
  normalize(m_weights->finalNorm, first + tokens.begin, tokens.end - tokens.begin);
  m_barrier.wait();
  const Range blocks = share(m_weights->head.blocks(), member, m_pool->size());
  m_ops.matmul({.weights = &m_weights->head,
                .blockBegin = blocks.begin,
                .blockEnd = blocks.end,
                .input = m_normalized.row(first),
                .inputStride = m_normalized.stride,
                .output = m_logits.row(0),
                .outputStride = m_logits.stride,
                .count = count});
}

std::span<const float> CpuRunner::logits(std::size_t index) const {
  assert(m_lastLogits != LogitsWanted::None && m_lastCount > 0);
  if (m_lastLogits == LogitsWanted::Last) index = 0;
  assert(m_lastLogits == LogitsWanted::Last || index < m_lastCount);
  return {m_logits.row(index), m_weights->config.vocabSize};
}

void CpuRunner::rewind(const State& from, State& to, std::size_t kept) {
  assert(kept <= m_lastCount && &from != &to);
  if (kept == 0) {
    to = from;
    return;
  }
  prepareForThreads(from, to);
  m_pool->run([&](std::size_t member) {
    const Range channels = channelRange(member);
    for (std::size_t layer = 0; layer < m_weights->layers.size(); ++layer) {
      m_ops.scan(scanArgs(layer, from, to, kept, channels));
      moveConvolution(from.convolution(layer), to.convolution(layer), m_traces[layer], kept,
                      channels);
    }
  });
  to.setPosition(from.position() + kept);
}

void CpuRunner::collectTaps(const ChunkRequest& request, std::size_t count) {
  m_taps = {};
  if (!request.taps.enabled) return;
  const ModelConfig& config = m_weights->config;
  const std::size_t groups = m_weights->layout.inner / kBlockRows;
  m_taps.count = count;
  m_taps.layers = config.layers;
  m_taps.layer = std::min(request.taps.layer, config.layers - 1);
  m_taps.bins = tapBins(config.dInner, request.taps.bins);
  m_taps.byLayer.resize(count * kTapKinds * config.layers);
  m_taps.byChannel.resize(count * kTapKinds * m_taps.bins);
  const float* sums = m_tapGroups.data();
  const auto sumAt = [&](std::size_t layer, std::size_t t, std::size_t group, std::size_t kind) {
    return sums[((layer * m_capacity + t) * groups + group) * kTapKinds + kind];
  };
  // A bin or layer mean is the sum of its groups over the number of real channels in them.
  const auto mean = [&](std::size_t layer, std::size_t t, std::size_t kind, Range range) {
    float sum = 0;
    for (std::size_t group = range.begin; group < range.end; ++group)
      sum += sumAt(layer, t, group, kind);
    const std::size_t channels =
        std::min(range.end * kBlockRows, config.dInner) - range.begin * kBlockRows;
    return sum / static_cast<float>(channels);
  };
  for (std::size_t t = 0; t < count; ++t) {
    for (std::size_t kind = 0; kind < kTapKinds; ++kind) {
      for (std::size_t layer = 0; layer < config.layers; ++layer)
        m_taps.byLayer[(t * kTapKinds + kind) * config.layers + layer] =
            mean(layer, t, kind, {0, groups});
      for (std::size_t bin = 0; bin < m_taps.bins; ++bin)
        m_taps.byChannel[(t * kTapKinds + kind) * m_taps.bins + bin] =
            mean(m_taps.layer, t, kind, share(groups, bin, m_taps.bins));
    }
  }
}

}  // namespace mb
