#include "engine/cuda/cuda_training_device.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/cuda/on_device.h"
#include "engine/training/gradient.h"
#include "kernels/cuda/devices.h"
#include "kernels/cuda/training/learner.h"

namespace mb {

using cuda::training::Held;

namespace {

cuda::training::Extents extentsOf(const ModelConfig& config) {
  const auto narrow = [](std::size_t value) { return static_cast<std::uint32_t>(value); };
  return {.model = narrow(config.dModel),
          .inner = narrow(config.dInner),
          .states = narrow(config.dState),
          .taps = narrow(config.dConv),
          .rank = narrow(config.dtRank),
          .layers = narrow(config.layers),
          .vocabulary = narrow(config.vocabSize),
          .epsilon = static_cast<float>(config.normEpsilon),
          .convBias = config.convBias,
          .tiedHead = config.tiedHead};
}

void checkShape(const ModelConfig& config) {
  const auto atMost = [](const char* what, std::size_t value, std::size_t most) {
    if (value > most)
      throw RequestError(std::string("training on CUDA takes at most ") + std::to_string(most) +
                         " " + what + ", this model has " + std::to_string(value));
  };
  atMost("states a channel", config.dState, cuda::training::kMostTrainedStates);
  atMost("taps of the convolution", config.dConv, cuda::training::kMostTrainedTaps);
}

/// What is free, but for some that CUDA takes itself.
std::size_t freeMemory(int device) {
  constexpr std::size_t kReserve = std::size_t{512} << 20;
  const std::size_t free = cuda::memoryUse(device).freeBytes;
  return free - std::min(free, kReserve);
}

}  // namespace

std::string CudaTrainingDevice::problemOf(int device) {
  return onDevice(device, [&]() -> std::string {
    const cuda::DeviceDescription found = cuda::describeDevice(device);
    if (found.major >= 8) return {};  // bfloat16 products, and shared memory for the scan
    return found.name + " has compute capability " + std::to_string(found.major) + "." +
           std::to_string(found.minor) + ", training needs 8.0";
  });
}

CudaTrainingDevice::CudaTrainingDevice(const ParameterLayout& layout,
                                       std::span<const float> parameters, const Options& options)
    : m_layout(layout), m_options(options) {
  checkShape(layout.config());
  m_plan = std::make_unique<const cuda::training::Plan>(extentsOf(layout.config()));
  placeAll();
  onDevice(options.device, [&] {
    m_name = cuda::describeDevice(options.device).name;
    m_learner = cuda::training::Learner::make(
        *m_plan,
        {.streams = static_cast<std::uint32_t>(options.streams),
         .tokens = static_cast<std::uint32_t>(options.segment),
         .memory = options.memory > 0 ? options.memory : freeMemory(options.device),
         .averages = options.averages},
        options.precision == WeightPrecision::BFloat16);
    m_learner->upload(Held::Masters, toDevice(parameters));
    if (options.averages) m_learner->upload(Held::Average, toDevice(parameters));
  });
}

CudaTrainingDevice::~CudaTrainingDevice() = default;

std::string CudaTrainingDevice::name() const {
  return m_name + " (CUDA)";
}

std::size_t CudaTrainingDevice::memoryBytes() const {
  return m_learner->memoryBytes();
}

// ---- where the weights lie

void CudaTrainingDevice::place(std::size_t host, std::size_t device, std::size_t rows,
                               std::size_t columns, std::size_t stride) {
  m_placements.push_back({host, device, rows, columns, stride});
}

void CudaTrainingDevice::placeAll() {
  const ModelConfig& c = m_layout.config();
  const auto words = [&](std::size_t host, const cuda::training::Tensor& to) {
    place(host, to.offset, c.vocabSize, c.dModel, to.columns);
  };
  words(m_layout.embedding(), m_plan->embedding);
  if (!c.tiedHead) words(m_layout.head(), m_plan->head);
  place(m_layout.finalNorm(), m_plan->finalNorm.offset, 1, c.dModel, c.dModel);
  for (std::size_t i = 0; i < c.layers; ++i) placeLayer(i);
}

void CudaTrainingDevice::placeLayer(std::size_t index) {
  const ModelConfig& c = m_layout.config();
  const LayerParameters& from = m_layout.layer(index);
  const cuda::training::LayerTensors& to = m_plan->layers[index];
  const auto vector = [&](std::size_t host, const cuda::training::Tensor& tensor,
                          std::size_t size) { place(host, tensor.offset, 1, size, size); };
  /// Some rows of a matrix, with those before them padded to `row`.
  const auto rows = [&](std::size_t host, const cuda::training::Tensor& tensor, std::size_t first,
                        std::size_t row, std::size_t count, std::size_t columns) {
    place(host + first * columns, tensor.offset + row * tensor.columns, count, columns,
          tensor.columns);
  };
  const std::size_t padded = m_plan->extents.rankPadded();
  vector(from.norm, to.norm, c.dModel);
  rows(from.inProj, to.inProj, 0, 0, c.dInner, c.dModel);
  rows(from.inProj, to.inProj, c.dInner, m_plan->extents.innerPadded(), c.dInner, c.dModel);
  rows(from.conv, to.conv, 0, 0, c.dInner, c.dConv);
  if (c.convBias) vector(from.convBias, to.convBias, c.dInner);
  rows(from.xProj, to.xProj, 0, 0, c.dtRank, c.dInner);
  rows(from.xProj, to.xProj, c.dtRank, padded, c.dState, c.dInner);
  rows(from.xProj, to.xProj, c.dtRank + c.dState, padded + m_plan->extents.statesPadded(), c.dState,
       c.dInner);
  rows(from.dtProj, to.dtProj, 0, 0, c.dInner, c.dtRank);
  vector(from.dtBias, to.dtBias, c.dInner);
  rows(from.decay, to.decay, 0, 0, c.dInner, c.dState);
  vector(from.skip, to.skip, c.dInner);
  rows(from.outProj, to.outProj, 0, 0, c.dModel, c.dInner);
}

std::vector<float> CudaTrainingDevice::toHost(std::span<const float> device) const {
  std::vector<float> host(m_layout.size());
  for (const Placement& p : m_placements)
    for (std::size_t row = 0; row < p.rows; ++row)
      std::copy_n(device.data() + p.device + row * p.stride, p.columns,
                  host.data() + p.host + row * p.columns);
  return host;
}

std::vector<float> CudaTrainingDevice::toDevice(std::span<const float> host) const {
  std::vector<float> device(m_plan->size);
  for (const Placement& p : m_placements)
    for (std::size_t row = 0; row < p.rows; ++row)
      std::copy_n(host.data() + p.host + row * p.columns, p.columns,
                  device.data() + p.device + row * p.stride);
  return device;
}

std::size_t CudaTrainingDevice::deviceStateSize() const {
  return m_layout.config().layers * m_options.streams * m_plan->extents.stateSize();
}

/// Calls copy(stream, offset in its state on the host, offset on the device, values).
template <class Copy>
void CudaTrainingDevice::eachStateRow(const Copy& copy) const {
  const ModelConfig& c = m_layout.config();
  const std::size_t inner = m_plan->extents.innerPadded();
  const std::size_t size = m_plan->extents.stateSize();
  for (std::size_t layer = 0; layer < c.layers; ++layer) {
    for (std::size_t stream = 0; stream < m_options.streams; ++stream) {
      std::size_t host = layer * c.dInner * (c.dConv - 1 + c.dState);
      std::size_t device = (layer * m_options.streams + stream) * size;
      for (std::size_t i = 0; i + 1 < c.dConv; ++i, host += c.dInner, device += inner)
        copy(stream, host, device, c.dInner);
      for (std::size_t i = 0; i < c.dInner; ++i) {
        copy(stream, host, device, c.dState);
        host += c.dState;
        device += m_plan->extents.statesPadded();
      }
    }
  }
}

/// [streams][emptyState().size()]
std::vector<float> CudaTrainingDevice::statesToHost(std::span<const float> device) const {
  const std::size_t size = emptyState<float>(m_layout.config()).size();
  std::vector<float> host(m_options.streams * size);
  eachStateRow([&](std::size_t stream, std::size_t to, std::size_t from, std::size_t count) {
    std::copy_n(device.data() + from, count, host.data() + stream * size + to);
  });
  return host;
}

// ---- training

double CudaTrainingDevice::learn(std::span<const SegmentTokens> segments, float scale,
                                 std::stop_token stop) {
  const std::size_t streams = m_options.streams;
  const std::size_t parts = segments.size() / streams;
  return onDevice(m_options.device, [&] {
    const auto pace = [&] {
      if (stop.stop_requested()) throw Stopped();
    };
    m_learner->begin();
    std::vector<Token> inputs, targets;
    std::vector<std::uint8_t> fresh(streams);
    for (std::size_t part = 0; part < parts; ++part) {
      inputs.clear();
      targets.clear();
      for (std::size_t i = 0; i < streams; ++i) {
        const SegmentTokens& segment = segments[i * parts + part];
        inputs.insert(inputs.end(), segment.inputs.begin(), segment.inputs.end());
        targets.insert(targets.end(), segment.targets.begin(), segment.targets.end());
        fresh[i] = segment.fresh ? 1 : 0;
      }
      pace();
      m_learner->learn({.inputs = inputs,
                        .targets = targets,
                        .fresh = fresh,
                        .streams = static_cast<std::uint32_t>(streams),
                        .tokens = static_cast<std::uint32_t>(inputs.size() / streams),
                        .scale = scale},
                       pace);
    }
    const auto learned = m_learner->finish();
    m_gradientNorm = learned.gradientNorm;
    return learned.nats * static_cast<double>(scale);
  });
}

void CudaTrainingDevice::update(const AdamWStep& step) {
  const double count = static_cast<double>(step.count);
  m_parameters.clear();
  m_average.clear();
  onDevice(m_options.device, [&] {
    m_learner->update(
        {.rate = static_cast<float>(step.learningRate / (1 - std::pow(step.beta1, count))),
         .correction = static_cast<float>(1 / (1 - std::pow(step.beta2, count))),
         .beta1 = static_cast<float>(step.beta1),
         .beta2 = static_cast<float>(step.beta2),
         .epsilon = static_cast<float>(step.epsilon),
         .keep = static_cast<float>(1 - step.learningRate * step.weightDecay),
         .factor = static_cast<float>(step.factor),
         .averaged = static_cast<float>(step.averaged)});
  });
}

double CudaTrainingDevice::readText(TokenView text, std::size_t segment, std::stop_token stop) {
  double nats = 0;
  for (std::size_t first = 0; first + 1 < text.size(); first += segment) {
    if (stop.stop_requested()) throw Stopped();
    const std::size_t count = std::min(segment, text.size() - 1 - first);
    const std::uint8_t fresh = first == 0 ? 1 : 0;
    nats += m_learner->evaluate({.inputs = text.subspan(first, count),
                                 .targets = text.subspan(first + 1, count),
                                 .fresh = {&fresh, 1},
                                 .streams = 1,
                                 .tokens = static_cast<std::uint32_t>(count)});
  }
  return nats;
}

/// The average takes the weights' place for so long.
double CudaTrainingDevice::lossOf(TokenView text, std::size_t segment, std::stop_token stop) {
  return onDevice(m_options.device, [&] {
    if (!m_options.averages) return readText(text, segment, std::move(stop));
    m_learner->exchangeAverage();
    try {
      const double nats = readText(text, segment, std::move(stop));
      m_learner->exchangeAverage();
      return nats;
    } catch (const Stopped&) {
      m_learner->exchangeAverage();
      throw;
    }
  });
}

// ---- what it holds

std::vector<float> CudaTrainingDevice::fetch(Held what) const {
  std::vector<float> device(m_plan->size);
  onDevice(m_options.device, [&] { m_learner->download(what, device); });
  return toHost(device);
}

std::span<const float> CudaTrainingDevice::parameters() const {
  if (m_parameters.empty()) m_parameters = fetch(Held::Masters);
  return m_parameters;
}

std::span<const float> CudaTrainingDevice::kept() const {
  if (!m_options.averages) return parameters();
  if (m_average.empty()) m_average = fetch(Held::Average);
  return m_average;
}

TrainedState CudaTrainingDevice::state() const {
  TrainedState state;
  std::vector<float> states(deviceStateSize());
  state.parameters = fetch(Held::Masters);
  if (m_options.averages) state.average = fetch(Held::Average);
  state.momentum = fetch(Held::Momentum);
  state.squares = fetch(Held::Squares);
  onDevice(m_options.device, [&] { m_learner->downloadStates(states); });
  const std::vector<float> all = statesToHost(states);
  const std::size_t size = all.size() / m_options.streams;
  for (auto at = all.begin(); at != all.end(); at += static_cast<std::ptrdiff_t>(size))
    state.states.emplace_back(at, at + static_cast<std::ptrdiff_t>(size));
  return state;
}

void CudaTrainingDevice::setState(TrainedState state) {
  m_parameters.clear();
  m_average.clear();
  std::vector<float> states(deviceStateSize());
  eachStateRow([&](std::size_t stream, std::size_t from, std::size_t to, std::size_t count) {
    std::copy_n(state.states[stream].data() + from, count, states.data() + to);
  });
  onDevice(m_options.device, [&] {
    m_learner->upload(Held::Masters, toDevice(state.parameters));
    if (m_options.averages)
      m_learner->upload(Held::Average,
                        toDevice(state.average.empty() ? state.parameters : state.average));
    m_learner->upload(Held::Momentum, toDevice(state.momentum));
    m_learner->upload(Held::Squares, toDevice(state.squares));
    m_learner->uploadStates(states);
  });
}

std::vector<float> CudaTrainingDevice::gradient() const {
  return fetch(Held::Gradient);
}

std::vector<float> CudaTrainingDevice::stateGradient() const {
  std::vector<float> device(deviceStateSize());
  onDevice(m_options.device, [&] { m_learner->downloadStateGradient(device); });
  return statesToHost(device);
}

std::vector<StageTime> CudaTrainingDevice::profile() {
  return onDevice(m_options.device, [&] {
    std::vector<StageTime> stages;
    for (auto& [stage, seconds] : m_learner->profile()) stages.push_back({stage, seconds});
    return stages;
  });
}

}  // namespace mb
