// Counter-based random numbers: a value is a pure function of its seed and its position, so that
// drawing out of order, or twice, gives the same number.
#pragma once

#include <cstdint>

namespace mb {

/// Two rounds of the splitmix64 finaliser over seed and counter.
inline std::uint64_t mix(std::uint64_t seed, std::uint64_t counter) {
  const auto finalize = [](std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  };
  return finalize(finalize(seed + 0x9e3779b97f4a7c15u) + counter * 0x9e3779b97f4a7c15u);
}

/// Uniform in [0, 1) with 53 random bits.
inline double uniform01(std::uint64_t seed, std::uint64_t counter) {
  return static_cast<double>(mix(seed, counter) >> 11) * 0x1p-53;
}

}  // namespace mb
