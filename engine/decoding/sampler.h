// Drawing the next token from logits, reproducibly.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "engine/model/model.h"
#include "engine/types.h"

namespace mb {

struct SamplerSettings {
  double temperature = 0;  ///< 0 is greedy
  std::size_t topK = 0;    ///< keep the k most probable; 0 keeps all
  double topP = 1;         ///< keep the smallest set with this probability
  double minP = 0;         ///< keep what has at least minP × the largest probability
  double repetitionPenalty =
      1;  ///< divides positive logits of recent tokens, multiplies negative ones
  std::size_t repetitionWindow = 64;
  std::uint64_t seed = 0;

  bool isGreedy() const { return temperature <= 0; }
  bool operator==(const SamplerSettings&) const = default;
};

/// Applies, in this order: repetition penalty, temperature, top-k, top-p, min-p. A draw is a pure
/// function of settings, logits, recent tokens and position: the random numbers of a position do
/// not depend on what was drawn before, so speculative and plain decoding draw alike.
///
/// Every token that is left has an exponentially distributed number E of its own at each position,
/// and the one with the smallest E / weight is drawn: a race, which each wins with a probability in
/// proportion to its weight. (With Gumbel numbers -log E it is the Gumbel-max trick.) Whoever draws
/// from similar logits at the same position thus mostly draws the same: two distributions at a
/// total variation distance D agree with a probability of at least (1 - D) / (1 + D), without
/// knowing of each other (Daliri, Musco, Suresh: Coupling without Communication and
/// Drafter-Invariant Speculative Decoding, 2024, arXiv:2408.07978).
class Sampler {
 public:
  explicit Sampler(const SamplerSettings& settings) : m_settings(settings) {}

  const SamplerSettings& settings() const { return m_settings; }

  struct Outcome {
    Token token = 0;
    /// How many times as long the second took: what a ratio of two weights has to be off by, at
    /// least, to make another token win. Infinite when there was no race.
    double lead = std::numeric_limits<double>::infinity();
  };

  /// The token at text position `position`. `recent` holds the tokens before it; only the last
  /// repetitionWindow count, and only when the penalty is not 1. Ties go to the lower token.
  Token draw(std::span<const float> logits, std::uint64_t position, TokenView recent) {
    return race(logits, position, recent).token;
  }
  Token draw(std::span<const float> logits, std::uint64_t position, ByteView recent) {
    return race(logits, position, recent).token;
  }
  Outcome race(std::span<const float> logits, std::uint64_t position, TokenView recent);
  Outcome race(std::span<const float> logits, std::uint64_t position, ByteView recent);
  /// The same with the random numbers of a key, as runners have them (see Drawing), and without
  /// regard to what came before.
  Outcome raceWithKey(std::span<const float> logits, std::uint64_t key);

  /// How a runner is to draw the `count` tokens from text position `position` on by itself. Without
  /// keys when the penalty is not 1: of what was written before a runner knows nothing.
  Drawing drawing(std::uint64_t position, std::size_t count) const;

 private:
  struct Choice {
    Token token = 0;
    double weight = 0;
  };
  /// Of equal ones the lower token.
  static bool comesBefore(const Choice& a, const Choice& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
  }
  std::span<const float> penalized(std::span<const float> logits, TokenView recent);
  bool keepsAll(std::size_t tokens) const;
  void sortByWeight(std::span<const float> logits);
  void restrict();

  SamplerSettings m_settings;
  std::vector<float> m_penalized;
  std::vector<float> m_weights;
  std::vector<float> m_arrivals;  ///< E of every token at the position
  std::vector<Choice> m_choices;  ///< most probable first
};

/// Index of the largest value, the first one when several are.
Token argmax(std::span<const float> logits);

/// weights[i] = exp((logits[i] - the largest) · scale), one for each logit, of which there is at
/// least one. Returns their sum.
float weigh(std::span<const float> logits, float scale, std::vector<float>& weights);

}  // namespace mb
