#include "engine/cpu/cpu_weights.h"

#include <atomic>
#include <exception>
#include <functional>
#include <mutex>

#include "engine/model/weight_reader.h"
#include "kernels/bfloat16.h"

namespace mb {

namespace {

using cpu::PackedMatrix;
using cpu::WeightType;

WeightType packedType(WeightPrecision precision) {
  return precision == WeightPrecision::BFloat16 ? WeightType::BFloat16 : WeightType::Float32;
}

/// Reads tensors into the layouts of the CPU.
class Reader : public WeightReader {
 public:
  using WeightReader::WeightReader;

  /// A matrix whose row r is packed at rowAt(r); rows in between stay zero.
  PackedMatrix matrix(const std::string& name, std::size_t count, std::size_t width,
                      std::size_t packedRows,
                      const std::function<std::size_t(std::size_t)>& rowAt) const {
    PackedMatrix packed(packedRows, width, packedType(precision()));
    rows(name, count, width, [&](std::size_t row, std::span<const float> values) {
      packed.setRow(rowAt(row), values);
    });
    return packed;
  }
  PackedMatrix matrix(const std::string& name, std::size_t count, std::size_t width) const {
    return matrix(name, count, width, count, [](std::size_t row) { return row; });
  }

  /// A vector whose element i is stored at at(i).
  AlignedArray<float> vector(const std::string& name, std::size_t count, std::size_t storedSize,
                             const std::function<std::size_t(std::size_t)>& at) const {
    const std::vector<float> values = this->values(name, {count});
    AlignedArray<float> stored(storedSize);
    for (std::size_t i = 0; i < count; ++i) stored[at(i)] = values[i];
    return stored;
  }
  AlignedArray<float> vector(const std::string& name, std::size_t count) const {
    return vector(name, count, roundUp(count, kBlockRows), [](std::size_t i) { return i; });
  }

  NormWeights norm(const std::string& name, const ModelConfig& config) const {
    NormWeights norm;
    norm.weight = vector(name + ".weight", config.dModel);
    if (config.norm == NormKind::Layer) norm.bias = vector(name + ".bias", config.dModel);
    return norm;
  }

  /// conv1d.weight [e, 1, k] as [k][stride], tap by tap.
  AlignedArray<float> convolution(const ModelConfig& config, std::size_t stride) const {
    const std::size_t taps = config.dConv;
    const std::vector<float> values = this->values("mixer.conv1d.weight", {config.dInner, 1, taps});
    AlignedArray<float> result(taps * stride);
    for (std::size_t i = 0; i < values.size(); ++i)
      result[i % taps * stride + i / taps] = values[i];
    return result;
  }

  /// A · log2(e) in blocks [stride / 16][n][16].
  AlignedArray<float> decayRates(const ModelConfig& config, std::size_t stride) const {
    const std::size_t states = config.dState;
    const std::vector<float> rates = WeightReader::decayRates(config);
    AlignedArray<float> result(states * stride);
    for (std::size_t i = 0; i < rates.size(); ++i)
      result[blockOffset(i / states, states) + i % states * kBlockRows] = rates[i];
    return result;
  }
};

CpuLayer readLayer(const Reader& reader, const ModelConfig& c, const CpuLayout& layout) {
  CpuLayer layer;
  const auto half = [&](std::size_t row) {
    return row < c.dInner ? row : layout.inner + row - c.dInner;
  };
  const auto section = [&](std::size_t row) {
    if (row < c.dtRank) return row;
    if (row < c.dtRank + c.dState) return layout.bOffset + row - c.dtRank;
    return layout.cOffset + row - c.dtRank - c.dState;
  };
  layer.norm = reader.norm("norm", c);
  layer.inProj =
      reader.matrix("mixer.in_proj.weight", 2 * c.dInner, c.dModel, 2 * layout.inner, half);
  layer.conv = reader.convolution(c, layout.inner);
  if (c.convBias) layer.convBias = reader.vector("mixer.conv1d.bias", c.dInner);
  layer.xProj = reader.matrix("mixer.x_proj.weight", c.dtRank + 2 * c.dState, c.dInner,
                              layout.xProj, section);
  layer.dtProj = reader.matrix("mixer.dt_proj.weight", c.dInner, c.dtRank);
  layer.dtBias = reader.vector("mixer.dt_proj.bias", c.dInner);
  layer.aLog2e = reader.decayRates(c, layout.inner);
  layer.d = reader.vector("mixer.D", c.dInner);
  layer.outProj = reader.matrix("mixer.out_proj.weight", c.dModel, c.dInner);
  if (c.projectionBias) {
    layer.inBias = reader.vector("mixer.in_proj.bias", 2 * c.dInner, 2 * layout.inner, half);
    layer.outBias = reader.vector("mixer.out_proj.bias", c.dModel);
  }
  return layer;
}

/// Runs task(i) for i < count on all threads; the first exception is passed on.
void forEach(cpu::ThreadPool& pool, std::size_t count,
             const std::function<void(std::size_t)>& task) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr failure;
  std::mutex mutex;
  pool.run([&](std::size_t) {
    for (std::size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
      try {
        task(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
        next.store(count);
      }
    }
  });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

CpuLayout::CpuLayout(const ModelConfig& config)
    : model(roundUp(config.dModel, kBlockRows)),
      inner(roundUp(config.dInner, kBlockRows)),
      vocabulary(roundUp(config.vocabSize, kBlockRows)),
      bOffset(roundUp(config.dtRank, kBlockRows)),
      cOffset(bOffset + roundUp(config.dState, kBlockRows)),
      xProj(cOffset + roundUp(config.dState, kBlockRows)) {}

EmbeddingTable::EmbeddingTable(std::size_t rows, std::size_t width, WeightPrecision precision)
    : m_width(width),
      m_bfloat16(precision == WeightPrecision::BFloat16 ? rows * width : 0),
      m_float32(precision == WeightPrecision::Float32 ? rows * width : 0) {}

void EmbeddingTable::setRow(std::size_t row, std::span<const float> values) {
  for (std::size_t i = 0; i < m_width; ++i) {
    if (m_float32.empty())
      m_bfloat16[row * m_width + i] = floatToBfloat16(values[i]);
    else
      m_float32[row * m_width + i] = values[i];
  }
}

void EmbeddingTable::row(Token token, float* out) const {
  const std::size_t start = static_cast<std::size_t>(token) * m_width;
  for (std::size_t i = 0; i < m_width; ++i)
    out[i] = m_float32.empty() ? bfloat16ToFloat(m_bfloat16[start + i]) : m_float32[start + i];
}

CpuWeights::CpuWeights(const WeightSource& source, WeightPrecision precision, cpu::ThreadPool& pool,
                       std::stop_token stop)
    : config(source.config()),
      layout(config),
      embedding(config.vocabSize, config.dModel, precision),
      layers(config.layers) {
  const std::size_t around = config.layers;  // the work item after the layers: embedding and head
  forEach(pool, config.layers + 1, [&](std::size_t item) {
    if (item != around) {
      const std::string prefix = "backbone.layers." + std::to_string(item) + ".";
      layers[item] = readLayer(Reader(source, prefix, precision, stop), config, layout);
      return;
    }
    const Reader reader(source, "", precision, stop);
    head = PackedMatrix(config.vocabSize, config.dModel, packedType(precision));
    reader.rows("backbone.embeddings.weight", config.vocabSize, config.dModel,
                [&](std::size_t row, std::span<const float> values) {
                  embedding.setRow(row, values);
                  if (config.tiedHead) head.setRow(row, values);
                });
    if (!config.tiedHead) head = reader.matrix("lm_head.weight", config.vocabSize, config.dModel);
    finalNorm = reader.norm("backbone.norm_f", config);
  });
}

std::size_t CpuWeights::bytesPerStep() const {
  std::size_t bytes = head.bytes();
  for (const CpuLayer& layer : layers) {
    bytes +=
        layer.inProj.bytes() + layer.xProj.bytes() + layer.dtProj.bytes() + layer.outProj.bytes();
    bytes += (layer.aLog2e.size() + layer.conv.size() + layer.d.size() + layer.dtBias.size()) *
             sizeof(float);
  }
  return bytes;
}

}  // namespace mb
