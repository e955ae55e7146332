#include "engine/cuda/cuda_model.h"

#include <algorithm>
#include <cuda_runtime_api.h>
#include <functional>
#include <utility>

#include "engine/cuda/cuda_runner.h"
#include "engine/cuda/on_device.h"
#include "engine/error.h"
#include "engine/model/weight_reader.h"
#include "kernels/cuda/chunk.h"
#include "kernels/cuda/devices.h"

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

std::uint64_t CudaModel::waits() const {
  return m_stream->waits();
}

double measureCudaBandwidth(int device) {
  return onDevice(device, [] { return cuda::measureReadBandwidth(); });
}

}  // namespace mb
