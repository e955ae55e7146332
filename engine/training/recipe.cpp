#include "engine/training/recipe.h"

#include <algorithm>
#include <array>

#include "engine/error.h"
#include "engine/model/mix.h"

namespace mb {

namespace {

constexpr std::size_t kVocabulary = 16;
constexpr std::size_t kRemembered = 16;  ///< tokens to copy
constexpr Token kNoise = 0;
constexpr Token kMark = 15;
constexpr Token kTrigger = 15;

/// Numbers one after the other.
class Draw {
 public:
  explicit Draw(std::uint64_t number) : m_number(number) {}
  std::uint64_t below(std::uint64_t end) { return mix(m_number, m_at++) % end; }
  Token token(Token first, Token last) {
    return first + static_cast<Token>(below(static_cast<std::uint64_t>(last - first) + 1));
  }

 private:
  std::uint64_t m_number;
  std::uint64_t m_at = 0;
};

/// Every choice of places is as probable as any other: Knuth, volume 2, algorithm 3.4.2S.
void copySelectively(std::size_t length, std::uint64_t number, Lesson& example) {
  Draw draw(number);
  example.inputs.assign(length, kNoise);
  example.targets.assign(length, kNoTarget);
  std::size_t left = kRemembered;
  for (std::size_t i = 0; i < length && left > 0; ++i) {
    if (draw.below(length - i) >= left) continue;
    example.inputs[i] = draw.token(kNoise + 1, kMark - 1);
    example.targets.push_back(example.inputs[i]);
    --left;
  }
  example.inputs.resize(length + kRemembered, kMark);
}

void induce(std::size_t length, std::uint64_t number, Lesson& example) {
  Draw draw(number);
  example.inputs.resize(length);
  for (Token& token : example.inputs) token = draw.token(0, kTrigger - 1);
  const std::size_t first = draw.below(length - 2);
  example.inputs[first] = kTrigger;
  example.inputs.back() = kTrigger;
  example.targets.assign(length, kNoTarget);
  example.targets.back() = example.inputs[first + 1];
}

ModelConfig shapeOfThePaper() {
  ModelConfig config;
  config.vocabSize = kVocabulary;
  config.dModel = 64;
  config.dInner = 128;
  config.dtRank = 4;
  config.layers = 2;
  return config;
}

TrainingOptions optionsOf(std::size_t length, std::size_t streams, std::uint64_t steps,
                          double learningRate) {
  TrainingOptions options;
  options.segment = length;
  options.streams = streams;
  options.steps = steps;
  options.learningRate = learningRate;
  options.finalShare = 1;  // constant
  options.weightDecay = 0;
  options.carryState = false;
  return options;
}

std::vector<std::size_t> powersOfTwo(std::size_t least, std::size_t most) {
  std::vector<std::size_t> powers;
  for (std::size_t power = least; power <= most; power *= 2) powers.push_back(power);
  return powers;
}

}  // namespace

std::span<const Recipe> recipes() {
  static const std::array<Recipe, 2> all = {Recipe{.name = "selective-copying",
                                                   .title = "selective copying",
                                                   .config = shapeOfThePaper(),
                                                   .options = optionsOf(4096, 64, 400'000, 1e-4),
                                                   .leastLength = kRemembered,
                                                   .testLengths = {4096},
                                                   .make = copySelectively},
                                            Recipe{.name = "induction-heads",
                                                   .title = "induction heads",
                                                   .config = shapeOfThePaper(),
                                                   .options = optionsOf(256, 8, 204'800, 1e-3),
                                                   .leastLength = 3,
                                                   .testLengths = powersOfTwo(64, 1 << 20),
                                                   .make = induce}};
  return all;
}

const Recipe& findRecipe(std::string_view name) {
  const auto found = std::ranges::find(recipes(), name, &Recipe::name);
  if (found != recipes().end()) return *found;
  std::string names;
  for (const Recipe& recipe : recipes())
    names += (names.empty() ? "" : " or ") + std::string(recipe.name);
  throw RequestError("recipe: expected " + names + ", found " + std::string(name));
}

void expectVocabulary(const ModelConfig& config, const Recipe& recipe) {
  if (config.vocabSize != recipe.config.vocabSize)
    throw RequestError("model for " + std::string(recipe.title) + ": expected a vocabulary of " +
                       std::to_string(recipe.config.vocabSize) + ", found " +
                       std::to_string(config.vocabSize));
}

RecipeSource::RecipeSource(const Recipe& recipe, const TrainingOptions& options)
    : m_recipe(recipe), m_length(options.segment), m_seed(options.seed) {
  if (m_length < recipe.leastLength)
    throw RequestError("length of an example of " + std::string(recipe.title) +
                       ": expected at least " + std::to_string(recipe.leastLength) +
                       " tokens, found " + std::to_string(m_length));
}

void RecipeSource::next(std::uint64_t&, std::uint64_t index, Lesson& lesson) const {
  m_recipe.make(m_length, mix(m_seed, index), lesson);
  lesson.beginsAnew = true;
}

std::size_t RecipeSource::lessonTokens() const {
  Lesson example;
  m_recipe.make(m_length, 0, example);
  return example.inputs.size();
}

std::uint64_t RecipeSource::hash() const {
  std::uint64_t hash = m_length;
  for (const char letter : m_recipe.name) hash = mix(hash, static_cast<std::uint64_t>(letter));
  return hash;
}

}  // namespace mb
