#include "engine/model/weight_reader.h"

#include <cmath>
#include <numbers>

namespace mb {

std::vector<float> WeightReader::values(const std::string& name, const Shape& shape) const {
  const Tensor tensor = m_source.tensor(m_prefix + name, shape);
  std::vector<float> values(elementCount(shape));
  tensor.read(0, values);
  expectFinite(tensor, 0, values);
  return values;
}

std::vector<float> WeightReader::decayRates(const ModelConfig& config) const {
  const std::string name = "mixer.A_log";
  const Shape shape = {config.dInner, config.dState};
  std::vector<float> rates = values(name, shape);
  for (std::size_t i = 0; i < rates.size(); ++i) {
    const float logarithm = rates[i];
    rates[i] = static_cast<float>(-std::exp(static_cast<double>(logarithm)) * std::numbers::log2e);
    if (!std::isfinite(rates[i])) {
      throw FormatError(m_source.tensor(m_prefix + name, shape).file, "tensor " + m_prefix + name,
                        "decay rates exp(A_log) in range",
                        std::to_string(logarithm) + " at element " + std::to_string(i));
    }
  }
  return rates;
}

}  // namespace mb
