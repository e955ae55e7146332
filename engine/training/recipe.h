// Tasks of the Mamba paper (arXiv 2312.00752, section 4.1 and appendix E.1) that show what a model
// remembers: made from a seed, as many examples as are asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/checkpoint/model_config.h"
#include "engine/training/data_source.h"
#include "engine/training/trainer.h"

namespace mb {

/// What an example is is a pure function of its length and a number; an example's targets are
/// kNoTarget but where the model has to answer.
struct Recipe {
  std::string_view name;
  std::string_view title;  ///< for people
  ModelConfig config;      ///< of the model that the paper trains
  /// As the paper has it, but for a short warm-up; `segment` is the length of an example. The
  /// state is never carried.
  TrainingOptions options;
  std::size_t leastLength = 0;
  std::vector<std::size_t> testLengths;  ///< what to measure accuracy at
  void (*make)(std::size_t length, std::uint64_t number, Lesson& example) = nullptr;
};

/// "selective-copying": among `length` tokens, all others noise, lie 16 to remember; they are to be
/// told in order at the 16 marks that follow. Vocabulary: noise 0, data 1 to 14, mark 15.
///
/// "induction-heads": `length` random tokens of 0 to 14, a trigger 15 somewhere among them and
/// another at the end; what followed the first is to be told after the last.
std::span<const Recipe> recipes();
/// Throws RequestError that names the recipes there are.
const Recipe& findRecipe(std::string_view name);

/// Throws RequestError when a model has another vocabulary than the recipe.
void expectVocabulary(const ModelConfig& config, const Recipe& recipe);

/// Endless examples of a recipe, of options.segment tokens; `recipe` must outlive it.
class RecipeSource : public DataSource {
 public:
  /// Throws RequestError for a length that the recipe does not take.
  RecipeSource(const Recipe& recipe, const TrainingOptions& options);

  std::uint64_t firstPlace(std::size_t) const override { return 0; }
  void next(std::uint64_t& place, std::uint64_t index, Lesson& lesson) const override;
  std::size_t lessonTokens() const override;
  std::uint64_t hash() const override;

 private:
  const Recipe& m_recipe;
  std::size_t m_length;
  std::uint64_t m_seed;
};

}  // namespace mb
