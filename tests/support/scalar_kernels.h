// The slow twin of every CPU kernel: plain loops in double precision, straight from MODEL.md.
#pragma once

#include <cstddef>
#include <vector>

namespace mb::scalar {

using Values = std::vector<double>;

/// y[row] = sum_c w[row][c] x[c]
Values product(const Values& weights, std::size_t rows, const Values& x);
Values norm(const Values& x, const Values& weight, const Values& bias, double epsilon, bool center);
double silu(double x);
double softplus(double x);

/// One channel through a chunk. inputs: the taps-1 before the chunk, then the chunk.
Values convolve(const Values& inputs, const Values& weight, double bias);

struct Scan {
  Values y;             ///< [count]
  Values state;         ///< [states] after the chunk
  Values stateSquared;  ///< [count]
  Values meanDecay;     ///< [count]
};
/// One channel: a [states], b and c [count][states].
Scan scan(const Values& delta, const Values& u, const Values& z, const std::vector<Values>& b,
          const std::vector<Values>& c, const Values& a, double d, Values state);

}  // namespace mb::scalar
