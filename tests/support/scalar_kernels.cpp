#include "tests/support/scalar_kernels.h"

#include <cmath>

namespace mb::scalar {

Values product(const Values& weights, std::size_t rows, const Values& x) {
  Values y(rows);
  for (std::size_t row = 0; row < rows; ++row)
    for (std::size_t c = 0; c < x.size(); ++c) y[row] += weights[row * x.size() + c] * x[c];
  return y;
}

Values norm(const Values& x, const Values& weight, const Values& bias, double epsilon,
            bool center) {
  const double size = static_cast<double>(x.size());
  double mean = 0;
  if (center)
    for (const double v : x) mean += v / size;
  double variance = 0;
  for (const double v : x) variance += (v - mean) * (v - mean) / size;
  Values y;
  for (std::size_t i = 0; i < x.size(); ++i)
    y.push_back((x[i] - mean) / std::sqrt(variance + epsilon) * weight[i] +
                (bias.empty() ? 0 : bias[i]));
  return y;
}

double silu(double x) {
  return x / (1 + std::exp(-x));
}
double softplus(double x) {
  return x > 30 ? x : std::log1p(std::exp(x));
}

Values convolve(const Values& inputs, const Values& weight, double bias) {
  Values y;
  for (std::size_t t = 0; t + weight.size() <= inputs.size(); ++t) {
    double sum = bias;
    for (std::size_t j = 0; j < weight.size(); ++j) sum += weight[j] * inputs[t + j];
    y.push_back(silu(sum));
  }
  return y;
}

Scan scan(const Values& delta, const Values& u, const Values& z, const std::vector<Values>& b,
          const std::vector<Values>& c, const Values& a, double d, Values state) {
  Scan result;
  for (std::size_t t = 0; t < delta.size(); ++t) {
    double y = d * u[t];
    double squared = 0;
    double decays = 0;
    for (std::size_t n = 0; n < a.size(); ++n) {
      const double decay = std::exp(delta[t] * a[n]);
      state[n] = decay * state[n] + delta[t] * u[t] * b[t][n];
      y += state[n] * c[t][n];
      squared += state[n] * state[n];
      decays += decay;
    }
    result.y.push_back(y * silu(z[t]));
    result.stateSquared.push_back(squared);
    result.meanDecay.push_back(decays / static_cast<double>(a.size()));
  }
  result.state = state;
  return result;
}

}  // namespace mb::scalar
