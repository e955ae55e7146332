// How often a model tells what a recipe asks for, at lengths it may never have been trained on.
#pragma once

#include <cstdint>
#include <functional>
#include <stop_token>

#include "engine/model/model.h"
#include "engine/training/recipe.h"

namespace mb {

struct Accuracy {
  std::uint64_t asked = 0;  ///< tokens
  std::uint64_t right = 0;  ///< of them, were the most probable

  double share() const {
    return asked ? static_cast<double>(right) / static_cast<double>(asked) : 0;
  }
};

/// Called now and then with tokens read and tokens in all.
using AccuracyProgress = std::function<void(std::uint64_t done, std::uint64_t total)>;

/// Reads `examples` examples of `length` tokens, others than training with the same seed sees.
/// Throws RequestError for a length that the recipe does not take or a model of another vocabulary,
/// Stopped.
Accuracy measureAccuracy(const Model& model, const Recipe& recipe, std::size_t length,
                         std::size_t examples, std::uint64_t seed, const AccuracyProgress& progress,
                         std::stop_token stop);

}  // namespace mb
