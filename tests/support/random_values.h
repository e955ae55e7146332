// Reproducible test data.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "engine/types.h"
#include "kernels/memory.h"

namespace mb::test {

class Random {
 public:
  explicit Random(std::uint32_t seed) : m_engine(seed) {}

  float uniform(float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(m_engine);
  }
  std::size_t below(std::size_t end) {
    return std::uniform_int_distribution<std::size_t>(0, end - 1)(m_engine);
  }
  void fill(AlignedArray<float>& values, float low, float high) {
    for (float& value : values.span()) value = uniform(low, high);
  }
  std::vector<float> floats(std::size_t count, float low, float high) {
    std::vector<float> result(count);
    for (float& value : result) value = uniform(low, high);
    return result;
  }
  Bytes bytes(std::size_t count) {
    Bytes result(count);
    for (Byte& byte : result) byte = static_cast<Byte>(below(256));
    return result;
  }
  std::vector<Token> tokens(std::size_t count, std::size_t vocabulary) {
    std::vector<Token> result(count);
    for (Token& token : result) token = static_cast<Token>(below(vocabulary));
    return result;
  }

 private:
  std::mt19937 m_engine;
};

/// ‖a - b‖ / ‖b‖, 1 when only one is zero; NaN never compares as small.
template <class A, class B>
double relativeError(const A& a, const B& b) {
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double x = static_cast<double>(a[i]);
    const double y = static_cast<double>(b[i]);
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  if (norm == 0) return difference == 0 ? 0 : 1;
  return std::sqrt(difference / norm);
}

}  // namespace mb::test
