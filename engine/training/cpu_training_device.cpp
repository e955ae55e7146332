#include "engine/training/cpu_training_device.h"

#include <algorithm>
#include <cblas.h>
#include <cmath>
#include <utility>

#include "engine/error.h"

namespace mb {

CpuTrainingDevice::CpuTrainingDevice(const ParameterLayout& layout, std::vector<float> parameters,
                                     std::size_t streams, cpu::ThreadPool& pool)
    : m_layout(layout), m_pool(pool), m_norms(pool.size()) {
  openblas_set_num_threads(1);  // streams are what threads share
  m_held.parameters = std::move(parameters);
  m_held.momentum.resize(layout.size());
  m_held.squares.resize(layout.size());
  m_held.states.assign(streams, emptyState<float>(layout.config()));
  m_reached = m_held.states;
  m_stateGradients = m_held.states;
  for (std::size_t i = 0; i < std::min(pool.size(), streams); ++i) {
    m_backprops.emplace_back(layout);
    m_gradients.emplace_back(layout.size());
  }
}

std::string CpuTrainingDevice::name() const {
  return "CPU, " + std::to_string(m_pool.size()) + (m_pool.size() == 1 ? " thread" : " threads");
}

double CpuTrainingDevice::run(const SegmentTokens& segment, std::size_t stream, std::size_t member,
                              bool first, float scale, std::stop_token stop) {
  std::vector<float>& state = m_reached[stream];
  if (segment.fresh) std::ranges::fill(state, 0.0f);
  return static_cast<double>(m_backprops[member].run(
      m_held.parameters,
      {.inputs = segment.inputs,
       .targets = segment.targets,
       .stateIn = state,
       .stateOut = state,
       .gradient = m_gradients[member],
       .stateGradient = first ? std::span<float>(m_stateGradients[stream]) : std::span<float>()},
      scale, std::move(stop)));
}

double CpuTrainingDevice::learn(std::span<const SegmentTokens> segments, float scale,
                                std::stop_token stop) {
  const std::size_t members = m_backprops.size();
  const std::size_t streams = m_reached.size();
  const std::size_t parts = segments.size() / streams;
  std::vector<double> losses(members);
  m_reached = m_held.states;
  for (auto& gradient : m_gradients) std::ranges::fill(gradient, 0.0f);
  m_pool.run([&](std::size_t member) {
    if (member >= members) return;
    const cpu::Range own = cpu::share(streams, member, members);
    try {
      for (std::size_t i = own.begin; i < own.end; ++i)
        for (std::size_t part = 0; part < parts; ++part)
          losses[member] += run(segments[i * parts + part], i, member, part == 0, scale, stop);
    } catch (const Stopped&) {  // the others see it for themselves
    }
  });
  if (stop.stop_requested()) throw Stopped();
  addGradients();
  double loss = 0;
  for (const double part : losses) loss += part;
  return loss;
}

/// Adds the members' gradients to the first one, in their order.
void CpuTrainingDevice::addGradients() {
  std::ranges::fill(m_norms, 0.0);
  m_pool.run([&](std::size_t member) {
    const cpu::Range own = cpu::share(m_layout.size(), member, m_pool.size());
    for (std::size_t i = own.begin; i < own.end; ++i) {
      float sum = m_gradients[0][i];
      for (std::size_t other = 1; other < m_gradients.size(); ++other) sum += m_gradients[other][i];
      m_gradients[0][i] = sum;
      m_norms[member] += static_cast<double>(sum) * static_cast<double>(sum);
    }
  });
}

double CpuTrainingDevice::gradientNorm() {
  double sum = 0;
  for (const double part : m_norms) sum += part;
  return std::sqrt(sum);
}

void CpuTrainingDevice::update(const AdamWStep& step) {
  const double count = static_cast<double>(step.count);
  const auto rate = static_cast<float>(step.learningRate / (1 - std::pow(step.beta1, count)));
  const auto correction = static_cast<float>(1 / (1 - std::pow(step.beta2, count)));
  const auto beta1 = static_cast<float>(step.beta1);
  const auto beta2 = static_cast<float>(step.beta2);
  const auto epsilon = static_cast<float>(step.epsilon);
  const auto clip = static_cast<float>(step.factor);
  const auto averaged = static_cast<float>(step.averaged);
  if (averaged > 0 && m_held.average.empty()) m_held.average = m_held.parameters;
  const auto& parameters = m_layout.parameters();
  m_pool.run([&](std::size_t member) {
    const cpu::Range own = cpu::share(parameters.size(), member, m_pool.size());
    for (std::size_t p = own.begin; p < own.end; ++p) {
      const Parameter& parameter = parameters[p];
      const auto keep =
          static_cast<float>(1 - (parameter.decays ? step.learningRate * step.weightDecay : 0.0));
      for (std::size_t i = parameter.offset; i < parameter.offset + parameter.size; ++i) {
        const float gradient = m_gradients[0][i] * clip;
        float& m = m_held.momentum[i];
        float& v = m_held.squares[i];
        m = beta1 * m + (1 - beta1) * gradient;
        v = beta2 * v + (1 - beta2) * gradient * gradient;
        m_held.parameters[i] =
            keep * m_held.parameters[i] - rate * m / (std::sqrt(v * correction) + epsilon);
        if (averaged > 0)
          m_held.average[i] = averaged * m_held.average[i] + (1 - averaged) * m_held.parameters[i];
      }
    }
  });
  std::swap(m_held.states, m_reached);
}

double CpuTrainingDevice::lossOf(TokenView text, std::size_t segment, std::stop_token stop) {
  std::vector<float> state = emptyState<float>(m_layout.config());
  double nats = 0;
  for (std::size_t first = 0; first + 1 < text.size(); first += segment) {
    const std::size_t count = std::min(segment, text.size() - 1 - first);
    nats += static_cast<double>(m_backprops[0].run(kept(),
                                                   {.inputs = text.subspan(first, count),
                                                    .targets = text.subspan(first + 1, count),
                                                    .stateIn = state,
                                                    .stateOut = state,
                                                    .gradient = {}},
                                                   1, stop));
  }
  return nats;
}

void CpuTrainingDevice::setState(TrainedState state) {
  m_held = std::move(state);
}

std::vector<float> CpuTrainingDevice::stateGradient() const {
  std::vector<float> all;
  for (const auto& one : m_stateGradients) all.insert(all.end(), one.begin(), one.end());
  return all;
}

}  // namespace mb
