// Weights on their way to a device: checked, and rounded as they will be kept.
#pragma once

#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/error.h"
#include "engine/model/model.h"
#include "kernels/bfloat16.h"

namespace mb {

/// Reads the tensors under a prefix, such as those of one layer. Throws FormatError naming file and
/// tensor for values that are not finite, and Stopped.
class WeightReader {
 public:
  WeightReader(const WeightSource& source, std::string prefix, WeightPrecision precision,
               std::stop_token stop)
      : m_source(source), m_prefix(std::move(prefix)), m_precision(precision), m_stop(stop) {}

  WeightPrecision precision() const { return m_precision; }

  /// Calls use(row, values) for every row of a matrix, rounded to the precision.
  template <class Use>
  void rows(const std::string& name, std::size_t count, std::size_t width, const Use& use) const {
    const Tensor tensor = m_source.tensor(m_prefix + name, {count, width});
    std::vector<float> values(width);
    for (std::size_t row = 0; row < count; ++row) {
      if (m_stop.stop_requested()) throw Stopped();
      tensor.read(row * width, values);
      if (m_precision == WeightPrecision::BFloat16)
        for (float& value : values) value = bfloat16ToFloat(floatToBfloat16(value));
      expectFinite(tensor, row * width, values);
      use(row, std::span<const float>(values));
    }
  }

  /// All values of a tensor, unrounded.
  std::vector<float> values(const std::string& name, const Shape& shape) const;

  /// A · log2(e) = -exp(A_log) · log2(e), [e, n].
  std::vector<float> decayRates(const ModelConfig& config) const;

 private:
  const WeightSource& m_source;
  std::string m_prefix;
  WeightPrecision m_precision;
  std::stop_token m_stop;
};

}  // namespace mb
