#include "engine/cuda/cuda_model.h"

#include <algorithm>
#include <cassert>
#include <cuda_runtime_api.h>
#include <functional>
#include <utility>

#include "engine/cuda/on_device.h"
#include "engine/error.h"
#include "engine/model/weight_reader.h"
#include "kernels/cuda/chunk.h"
#include "kernels/cuda/devices.h"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/taps.h"

namespace mb {

namespace {

using cuda::check;
using cuda::DeviceArray;
using cuda::Matrix;
using cuda::PinnedArray;

cuda::Dimensions dimensionsOf(const ModelConfig& config, WeightPrecision precision) {
  const auto narrow = [](std::size_t value) { return static_cast<std::uint32_t>(value); };
  return {.model = narrow(config.dModel),
          .inner = narrow(config.dInner),
          .states = narrow(config.dState),
          .taps = narrow(config.dConv),
          .dtRank = narrow(config.dtRank),
          .layers = narrow(config.layers),
          .vocabulary = narrow(config.vocabSize),
          .planes = precision == WeightPrecision::Float32 ? 3u : 1u};
}

class CudaValues : public DeviceValues {
 public:
  CudaValues(int device, std::size_t size) : m_device(device), m_values(size) {}
  CudaValues(const CudaValues& other) : CudaValues(other.m_device, other.m_values.size()) {
    check(cudaMemcpy(m_values.data(), other.m_values.data(), m_values.bytes(),
                     cudaMemcpyDeviceToDevice),
          "copying a state");
  }

  CudaValues(CudaValues&&) = default;  // keeps the address that kernels were given

  std::unique_ptr<DeviceValues> clone() const override {
    return onDevice(m_device, [&] { return std::make_unique<CudaValues>(*this); });
  }
  void download(std::span<float> values) const override {
    onDevice(m_device, [&] {
      check(cudaMemcpy(values.data(), m_values.data(), m_values.bytes(), cudaMemcpyDeviceToHost),
            "reading a state");
    });
  }

  int device() const { return m_device; }
  DeviceArray<float>& values() { return m_values; }

 private:
  int m_device;
  DeviceArray<float> m_values;
};

/// The state's values on this device, if it has them there.
CudaValues* valuesOn(int device, const State& state) {
  auto* values = dynamic_cast<CudaValues*>(state.onDevice());
  return values && values->device() == device ? values : nullptr;
}

const float* readable(int device, const State& state) {
  if (CudaValues* values = valuesOn(device, state)) return values->values().data();
  auto made = std::make_unique<CudaValues>(device, state.shape().size());
  if (!state.isUntouched()) made->values().upload(state.values().data(), state.shape().size());
  const float* data = made->values().data();
  state.keepOnDevice(std::move(made));
  return data;
}

float* writable(int device, State& state) {
  std::unique_ptr<CudaValues> values;
  if (CudaValues* present = valuesOn(device, state)) {
    values = std::make_unique<CudaValues>(std::move(*present));
  } else {
    values = std::make_unique<CudaValues>(device, state.shape().size());
  }
  float* data = values->values().data();
  state.moveToDevice(std::move(values));
  return data;
}

// ---- loading

/// Brings one model's weights onto the device, matrix by matrix.
class Loader {
 public:
  Loader(const WeightSource& source, WeightPrecision precision, std::stop_token stop,
         cuda::DeviceWeights& weights)
      : m_source(source),
        m_config(source.config()),
        m_precision(precision),
        m_stop(stop),
        m_weights(weights),
        m_layout(weights.layout) {
    const auto& c = m_config;
    const std::size_t most = std::max(
        {2 * c.dInner * c.dModel, c.vocabSize * c.dModel, (c.dtRank + 2 * c.dState) * c.dInner});
    m_rows = PinnedArray<float>(most);
    m_matrix = DeviceArray<float>(most);
  }

  void load() {
    m_weights.layerNorm = m_config.norm == NormKind::Layer;
    m_weights.outBias = m_config.projectionBias;
    m_weights.epsilon = static_cast<float>(m_config.normEpsilon);
    for (std::size_t layer = 0; layer < m_config.layers; ++layer) loadLayer(layer);
    const WeightReader reader(m_source, "", m_precision, m_stop);
    m_weights.parameters.upload(
        padded(reader.values("backbone.norm_f.weight", {m_config.dModel})).data(),
        m_layout.paddedModel, m_config.layers * m_layout.layerSize);

    const std::size_t width = m_config.dModel;
    readRows(reader, "backbone.embeddings.weight", m_config.vocabSize, width);
    keepEmbedding();
    if (!m_config.tiedHead) readRows(reader, "lm_head.weight", m_config.vocabSize, width);
    pack(Matrix::Head, 0, m_config.vocabSize, width);
    if (m_config.norm == NormKind::Layer) {
      const auto keep = [&](const char* norm) {
        const std::vector<float> product = timesNorm(reader, norm, m_config.vocabSize);
        DeviceArray<float> kept(product.size());
        kept.upload(product.data(), product.size());
        return kept;
      };
      m_weights.headBias = keep("backbone.norm_f.bias");
      m_weights.headMean = keep("backbone.norm_f.weight");
    }
  }

 private:
  std::vector<float> padded(std::vector<float> values) const {
    values.resize(m_layout.paddedModel);
    return values;
  }

  /// The matrix in m_rows times the weight or bias of the LayerNorm before it.
  std::vector<float> timesNorm(const WeightReader& reader, const std::string& name,
                               std::size_t rows) const {
    const std::vector<float> norm = reader.values(name, {m_config.dModel});
    std::vector<float> result(rows);
    for (std::size_t row = 0; row < rows; ++row) {
      double sum = 0;
      for (std::size_t i = 0; i < norm.size(); ++i)
        sum += static_cast<double>(m_rows.data()[row * norm.size() + i]) *
               static_cast<double>(norm[i]);
      result[row] = static_cast<float>(sum);
    }
    return result;
  }

  void readRows(const WeightReader& reader, const std::string& name, std::size_t count,
                std::size_t width) {
    reader.rows(name, count, width, [&](std::size_t row, std::span<const float> values) {
      std::ranges::copy(values, m_rows.data() + row * width);
    });
  }

  void pack(Matrix matrix, std::size_t layer, std::size_t count, std::size_t width) {
    m_matrix.upload(m_rows.data(), count * width);
    cuda::packTiles(m_weights, matrix, static_cast<std::uint32_t>(layer), m_matrix.data(),
                    static_cast<std::uint32_t>(width), m_stream);
  }

  void loadLayer(std::size_t layer) {
    const auto& c = m_config;
    const WeightReader reader(m_source, "backbone.layers." + std::to_string(layer) + ".",
                              m_precision, m_stop);
    const auto matrix = [&](Matrix which, const char* name, std::size_t rows, std::size_t width) {
      readRows(reader, name, rows, width);
      pack(which, layer, rows, width);
    };
    cuda::ChannelParameters channels;
    matrix(Matrix::InProj, "mixer.in_proj.weight", 2 * c.dInner, c.dModel);
    if (c.norm == NormKind::Layer) {
      channels.inBias = timesNorm(reader, "norm.bias", 2 * c.dInner);
      channels.inMean = timesNorm(reader, "norm.weight", 2 * c.dInner);
    }
    matrix(Matrix::XProj, "mixer.x_proj.weight", c.dtRank + 2 * c.dState, c.dInner);
    matrix(Matrix::DtProj, "mixer.dt_proj.weight", c.dInner, c.dtRank);
    matrix(Matrix::OutProj, "mixer.out_proj.weight", c.dModel, c.dInner);

    std::vector<float> parameters(m_layout.layerSize);
    std::ranges::copy(reader.values("norm.weight", {c.dModel}), parameters.begin() + m_layout.norm);
    channels.conv = reader.values("mixer.conv1d.weight", {c.dInner, 1, c.dConv});
    channels.dtBias = reader.values("mixer.dt_proj.bias", {c.dInner});
    channels.skip = reader.values("mixer.D", {c.dInner});
    channels.decay = reader.decayRates(c);
    if (c.convBias) channels.convBias = reader.values("mixer.conv1d.bias", {c.dInner});
    if (c.projectionBias) {
      std::vector<float> bias = reader.values("mixer.in_proj.bias", {2 * c.dInner});
      channels.inBias.resize(bias.size());
      std::ranges::transform(bias, channels.inBias, channels.inBias.begin(), std::plus());
      std::ranges::copy(reader.values("mixer.out_proj.bias", {c.dModel}),
                        parameters.begin() + m_layout.outBias);
    }
    cuda::packRecords(m_weights, static_cast<std::uint32_t>(layer), channels);
    for (std::size_t i = 0; i < channels.decay.size(); ++i)
      parameters[m_layout.decay + blockOffset(i / c.dState, c.dState) + i % c.dState * kBlockRows] =
          channels.decay[i];
    m_weights.parameters.upload(parameters.data(), parameters.size(), layer * m_layout.layerSize);
  }

  /// Keeps what m_rows holds, in as many bfloat16 parts as the weights have.
  void keepEmbedding() {
    const std::size_t width = m_config.dModel;
    const std::size_t stride = m_layout.paddedModel;
    std::vector<std::uint16_t> part(m_config.vocabSize * stride);
    std::vector<float> rest(m_rows.data(), m_rows.data() + m_config.vocabSize * width);
    for (std::size_t plane = 0; plane < m_weights.plan.dimensions().planes; ++plane) {
      for (std::size_t i = 0; i < rest.size(); ++i) {
        std::uint16_t& kept = part[i / width * stride + i % width];
        kept = floatToBfloat16(rest[i]);
        rest[i] -= bfloat16ToFloat(kept);
      }
      m_weights.embedding.upload(part.data(), part.size(), plane * part.size());
    }
  }

  const WeightSource& m_source;
  const ModelConfig& m_config;
  WeightPrecision m_precision;
  std::stop_token m_stop;
  cuda::DeviceWeights& m_weights;
  const cuda::ParameterLayout& m_layout;
  cuda::Stream m_stream;
  PinnedArray<float> m_rows;    ///< one matrix, row by row
  DeviceArray<float> m_matrix;  ///< the same on the device
};

// ---- running

/// Memory for reading long texts: what a tenth of the weights and 64 MiB leave beside the traces of
/// chunks and a state.
std::size_t prefillBudget(const cuda::DeviceWeights& weights, const cuda::Workspace& workspace,
                          const ModelConfig& config) {
  const std::size_t most = weights.bytes() / 10 + (64u << 20);
  const std::size_t taken = 3 * workspace.traceInput.bytes() + StateShape(config).bytes();
  return most > taken ? most - taken : 0;
}

class CudaRunner : public Runner {
 public:
  CudaRunner(std::shared_ptr<const cuda::DeviceWeights> weights,
             std::shared_ptr<const cuda::Stream> stream, const ModelConfig& config, int device)
      : m_weights(std::move(weights)),
        m_stream(std::move(stream)),
        m_config(config),
        m_device(device),
        m_most(cuda::mostTokens(*m_weights)),
        m_workspace(*m_weights, m_most),
        m_readCapacity(
            cuda::Prefill::capacityOf(*m_weights, prefillBudget(*m_weights, m_workspace, config))) {
    if (!cuda::Prefill::canTap(*m_weights)) return;
    const std::size_t budget = prefillBudget(*m_weights, m_workspace, config);
    m_tappedCapacity = cuda::Prefill::capacityOf(
        *m_weights, budget - std::min(budget, tapValues() * sizeof(float)),
        meansOfToken() * sizeof(float));
  }

  std::size_t maxChunk() const override { return m_most; }
  std::size_t maxRead() const override { return std::max(m_most, m_readCapacity.tokens); }
  std::size_t maxTappedRead() const override { return std::max(m_most, m_tappedCapacity.tokens); }

  void advance(const State& from, State& to, TokenView tokens,
               const ChunkRequest& request) override {
    assert(from.shape() == StateShape(m_config) && to.shape() == from.shape());
    checkChunk(m_config, tokens, request.taps.enabled ? maxTappedRead() : maxRead());
    if (request.stop.stop_requested()) throw Stopped();
    start(tokens, request);
    if (tokens.empty()) {
      if (&from != &to) to = from;
      return;
    }
    onDevice(m_device, [&] {
      tokens.size() <= m_most ? run(from, to, tokens, request) : read(from, to, tokens, request);
    });
    to.setPosition(from.position() + tokens.size());
  }

  TokenView advanceDrawing(const State& from, std::span<State> to, Token first,
                           const Drawing& drawing, const ChunkRequest& request) override {
    const std::size_t draws = std::min<std::size_t>(drawing.points.size(), m_most - 1);
    cuda::ChunkRun chunk{.tokens = {&first, 1}};
    chunk.logits = true;
    chunk.draws = static_cast<std::uint32_t>(draws);
    chunk.drawing.temperature = drawing.temperature;
    chunk.drawing.topK = static_cast<std::uint32_t>(std::min(drawing.topK, m_config.vocabSize));
    chunk.drawing.topP = drawing.topP;
    chunk.drawing.minP = drawing.minP;
    std::copy_n(drawing.points.begin(), draws, chunk.drawing.points);
    if (draws == 0 || request.logits == LogitsWanted::None ||
        !cuda::canDraw(*m_weights, m_workspace, chunk.drawing))
      return Runner::advanceDrawing(from, to, first, drawing, request);
    checkChunk(m_config, {&first, 1}, 1);
    if (request.stop.stop_requested()) throw Stopped();
    start({&first, 1}, request);
    to = to.first(std::min(to.size(), draws + 1));
    onDevice(m_device, [&] {
      chunk.stateIn = readable(m_device, from);
      std::vector<float*> states;
      for (State& state : to) states.push_back(writable(m_device, state));
      chunk.statesOut = states;
      launch(chunk, request.taps, chunk.draws + 1);
    });
    const std::int32_t* drawn = std::as_const(m_workspace).drawn.data();
    m_lastTokens.insert(m_lastTokens.end(), drawn, drawn + draws);
    m_traced = false;
    for (std::size_t i = 0; i < to.size(); ++i) to[i].setPosition(from.position() + i + 1);
    to.back().setPosition(from.position() + draws + 1);
    return TokenView(m_lastTokens).subspan(1);
  }

  void rewind(const State& from, State& to, std::size_t kept) override {
    assert(kept <= m_lastTokens.size() && m_lastTokens.size() <= m_most && &from != &to);
    if (kept == 0) {
      to = from;
      return;
    }
    onDevice(m_device, [&] {
      const float* start = readable(m_device, from);
      if (m_traced) {
        cuda::replay(*m_weights, m_workspace, static_cast<std::uint32_t>(kept), start,
                     writable(m_device, to), *m_stream);
      } else {  // single tokens leave nothing to replay
        cuda::runChunk(*m_weights, m_workspace,
                       {.tokens = TokenView(m_lastTokens).first(kept),
                        .stateIn = start,
                        .stateOut = writable(m_device, to)},
                       *m_stream);
      }
    });
    to.setPosition(from.position() + kept);
  }

  std::span<const float> logits(std::size_t index) const override {
    assert(m_lastLogits != LogitsWanted::None && !m_lastTokens.empty());
    if (m_lastTokens.size() > m_most) {
      if (m_lastLogits == LogitsWanted::Last) index = 0;
      return {m_prefill->logits() + index * m_config.vocabSize, m_config.vocabSize};
    }
    if (m_lastLogits == LogitsWanted::Last) index = m_lastTokens.size() - 1;
    return {m_workspace.logits.data() + index * m_config.vocabSize, m_config.vocabSize};
  }

  const TapBlock& taps() const override { return m_taps; }

 private:
  void start(TokenView tokens, const ChunkRequest& request) {
    m_lastTokens.assign(tokens.begin(), tokens.end());
    m_lastLogits = request.logits;
    m_taps = {};
  }

  void run(const State& from, State& to, TokenView tokens, const ChunkRequest& request) {
    cuda::ChunkRun chunk{.tokens = tokens, .stateIn = readable(m_device, from)};
    chunk.stateOut = writable(m_device, to);
    chunk.logits = request.logits != LogitsWanted::None;
    chunk.trace = tokens.size() > 1;
    m_traced = chunk.trace;
    launch(chunk, request.taps, static_cast<std::uint32_t>(tokens.size()));
  }

  /// Runs a chunk that leaves `count` tokens, and fetches their taps.
  void launch(cuda::ChunkRun& chunk, const TapRequest& taps, std::uint32_t count) {
    chunk.taps = taps.enabled;
    if (chunk.taps) reserveTaps(m_most);
    cuda::runChunk(*m_weights, m_workspace, chunk, *m_stream);
    if (chunk.taps) {
      cuda::reduceTaps(*m_weights, m_workspace, count, tapMeans(taps, count), *m_stream);
      fetchTaps(taps, count);
    }
    m_stream->wait();
    if (chunk.taps) keepTaps(taps, count);
  }

  void read(const State& from, State& to, TokenView tokens, const ChunkRequest& request) {
    using Logits = cuda::Prefill::Logits;
    const bool tapped = request.taps.enabled;
    const auto count = static_cast<std::uint32_t>(tokens.size());
    if (tapped) reserveTaps(m_tappedCapacity.tokens);
    if (!m_prefill) m_prefill = std::make_unique<cuda::Prefill>(*m_weights, m_readCapacity);
    cuda::Prefill::Run run{.tokens = tokens, .stateIn = readable(m_device, from)};
    run.stateOut = writable(m_device, to);
    run.logits = request.logits == LogitsWanted::None   ? Logits::None
                 : request.logits == LogitsWanted::Last ? Logits::Last
                                                        : Logits::All;
    if (tapped) run.taps = tapMeans(request.taps, count);
    m_prefill->run(run, *m_stream);
    if (tapped) fetchTaps(request.taps, count);
    m_stream->wait();
    if (tapped) keepTaps(request.taps, count);
  }

  /// Of all channels of a chunk's tokens.
  std::size_t tapValues() const {
    return m_config.layers * m_most * kTapKinds * m_weights->layout.paddedInner;
  }
  /// Most means of a token.
  std::size_t meansOfToken() const {
    return kTapKinds * (m_config.layers + tapBins(m_config.dInner, ~0u));
  }

  /// Takes the memory for taps of so many tokens, which is left out of that for reading long texts
  /// from when taps are first wanted.
  void reserveTaps(std::size_t tokens) {
    if (m_workspace.taps.size() == 0) {
      if (m_tappedCapacity.tokens > 0) {
        m_prefill.reset();
        m_readCapacity = m_tappedCapacity;
      }
      m_workspace.taps = DeviceArray<float>(tapValues());
    }
    if (m_hostTaps.size() >= tokens * meansOfToken()) return;
    m_hostTaps = {};
    m_tapMeans = {};
    m_tapMeans = DeviceArray<float>(tokens * meansOfToken());
    m_hostTaps = PinnedArray<float>(tokens * meansOfToken());
  }

  std::size_t layerMeans(std::uint32_t count) const { return count * kTapKinds * m_config.layers; }

  cuda::TapMeans tapMeans(const TapRequest& request, std::uint32_t count) {
    return {.byLayer = m_tapMeans.data(),
            .byChannel = m_tapMeans.data() + layerMeans(count),
            .layer = static_cast<std::uint32_t>(std::min(request.layer, m_config.layers - 1)),
            .bins = static_cast<std::uint32_t>(tapBins(m_config.dInner, request.bins))};
  }

  void fetchTaps(const TapRequest& request, std::uint32_t count) {
    const std::size_t bins = tapBins(m_config.dInner, request.bins);
    check(cudaMemcpyAsync(m_hostTaps.data(), m_tapMeans.data(),
                          (layerMeans(count) + count * kTapKinds * bins) * sizeof(float),
                          cudaMemcpyDeviceToHost, *m_stream),
          "fetching taps");
  }

  void keepTaps(const TapRequest& request, std::uint32_t count) {
    m_taps.count = count;
    m_taps.layers = m_config.layers;
    m_taps.layer = std::min(request.layer, m_config.layers - 1);
    m_taps.bins = tapBins(m_config.dInner, request.bins);
    const float* channels = m_hostTaps.data() + layerMeans(count);
    m_taps.byLayer.assign(std::as_const(m_hostTaps).data(), channels);
    m_taps.byChannel.assign(channels, channels + count * kTapKinds * m_taps.bins);
  }

  std::shared_ptr<const cuda::DeviceWeights> m_weights;
  std::shared_ptr<const cuda::Stream> m_stream;
  const ModelConfig& m_config;
  int m_device;
  std::uint32_t m_most;
  cuda::Workspace m_workspace;
  cuda::Prefill::Capacity m_readCapacity;
  cuda::Prefill::Capacity m_tappedCapacity;  ///< what is left beside taps; none where they are not
  std::unique_ptr<cuda::Prefill> m_prefill;  ///< since a text was first read with it
  DeviceArray<float> m_tapMeans;             ///< [tokens][3][L], then [tokens][3][bins]
  PinnedArray<float> m_hostTaps;
  std::vector<Token> m_lastTokens;  ///< of the last pass
  bool m_traced = false;            ///< it left what replay() needs
  LogitsWanted m_lastLogits = LogitsWanted::None;
  TapBlock m_taps;
};

std::size_t bytesPerStep(const cuda::DeviceWeights& weights) {
  return weights.tiles.bytes() + weights.parameters.bytes();
}

}  // namespace

CudaModel::CudaModel(const WeightSource& source, ModelInfo info, WeightPrecision precision,
                     int device, std::stop_token stop)
    : m_config(source.config()), m_info(std::move(info)), m_device(device) {
  onDevice(device, [&] {
    const cuda::DeviceDescription description = cuda::describeDevice(device);
    auto weights = std::make_shared<cuda::DeviceWeights>(dimensionsOf(m_config, precision),
                                                         description.multiprocessors);
    if (cuda::mostTokens(*weights) == 0) {
      throw DeviceError(description.name + " cannot run a model of " + info.name +
                        "'s shape: " + "at most " + std::to_string(cuda::kMostStates) +
                        " states a channel, and layers that fit its shared memory");
    }
    Loader(source, precision, stop, *weights).load();
    m_info.precision = precision;
    m_info.weightBytes = bytesPerStep(*weights);
    m_info.device = description.name;
    m_weights = std::move(weights);
    m_stream = std::make_shared<const cuda::Stream>();
  });
}

CudaModel::~CudaModel() = default;

std::unique_ptr<Runner> CudaModel::newRunner() const {
  return onDevice(m_device, [&] {
    return std::make_unique<CudaRunner>(m_weights, m_stream, m_config, m_device);
  });
}

double measureCudaBandwidth(int device) {
  return onDevice(device, [] { return cuda::measureReadBandwidth(); });
}

}  // namespace mb
