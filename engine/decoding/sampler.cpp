#include "engine/decoding/sampler.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/model/mix.h"
#include "kernels/cpu/ops.h"

namespace mb {

namespace {

template <class View>
View lastOf(View view, std::size_t count) {
  return view.subspan(view.size() - std::min(view.size(), count));
}

/// The first two of a race.
struct Finish {
  Token first = 0;
  double firstTime = std::numeric_limits<double>::infinity();
  double secondTime = std::numeric_limits<double>::infinity();

  void pass(Token token, double time) {
    if (time < firstTime || (time == firstTime && token < first)) {
      secondTime = std::exchange(firstTime, time);
      first = token;
    } else {
      secondTime = std::min(secondTime, time);
    }
  }
};

}  // namespace

Token argmax(std::span<const float> logits) {
  return static_cast<Token>(std::ranges::max_element(logits) - logits.begin());
}

float weigh(std::span<const float> logits, float scale, std::vector<float>& weights) {
  const cpu::Ops& ops = cpu::fastestOps();
  const float top = logits[ops.argmax(logits.data(), logits.size())];
  weights.resize(logits.size());
  return ops.exponentials(logits.data(), logits.size(), top, scale, weights.data());
}

Sampler::Outcome Sampler::race(std::span<const float> logits, std::uint64_t position,
                               ByteView recent) {
  if (m_settings.repetitionPenalty == 1) return race(logits, position, TokenView());
  const ByteView window = lastOf(recent, m_settings.repetitionWindow);
  const std::vector<Token> tokens(window.begin(), window.end());
  return race(logits, position, TokenView(tokens));
}

Sampler::Outcome Sampler::race(std::span<const float> logits, std::uint64_t position,
                               TokenView recent) {
  return raceWithKey(penalized(logits, recent), mix(m_settings.seed, position));
}

Sampler::Outcome Sampler::raceWithKey(std::span<const float> logits, std::uint64_t key) {
  if (m_settings.isGreedy()) return {.token = argmax(logits)};
  m_arrivals.resize(logits.size());
  cpu::fastestOps().arrivals(key, logits.size(), m_arrivals.data());
  Finish finish;
  if (keepsAll(logits.size())) {
    weigh(logits, static_cast<float>(std::min(1 / m_settings.temperature, 1e30)), m_weights);
    for (std::size_t i = 0; i < m_weights.size(); ++i)
      finish.pass(static_cast<Token>(i), m_arrivals[i] / m_weights[i]);
  } else {
    sortByWeight(logits);
    restrict();
    for (const auto& [token, weight] : m_choices)
      finish.pass(token, m_arrivals[static_cast<std::size_t>(token)] / weight);
  }
  return {finish.first, finish.secondTime / finish.firstTime};
}

Drawing Sampler::drawing(std::uint64_t position, std::size_t count) const {
  Drawing drawing{m_settings.temperature, m_settings.topK, m_settings.topP, m_settings.minP, {}};
  if (m_settings.repetitionPenalty != 1) return drawing;
  for (std::size_t i = 0; i < count; ++i)
    drawing.keys.push_back(mix(m_settings.seed, position + i));
  return drawing;
}

bool Sampler::keepsAll(std::size_t tokens) const {
  const bool allOfTopK = m_settings.topK == 0 || m_settings.topK >= tokens;
  return allOfTopK && m_settings.topP >= 1 && m_settings.minP <= 0;
}

std::span<const float> Sampler::penalized(std::span<const float> logits, TokenView recent) {
  if (m_settings.repetitionPenalty == 1 || recent.empty()) return logits;
  m_penalized.assign(logits.begin(), logits.end());
  std::vector<Token> tokens(lastOf(recent, m_settings.repetitionWindow).begin(), recent.end());
  std::ranges::sort(tokens);
  tokens.erase(std::ranges::unique(tokens).begin(), tokens.end());
  const float penalty = static_cast<float>(m_settings.repetitionPenalty);
  for (const Token token : tokens) {
    float& logit = m_penalized[static_cast<std::size_t>(token)];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
  return m_penalized;
}

/// Unnormalised probabilities at the temperature, most probable first; only the top k are sorted.
void Sampler::sortByWeight(std::span<const float> logits) {
  m_choices.clear();
  for (std::size_t i = 0; i < logits.size(); ++i)
    m_choices.push_back({static_cast<Token>(i), logits[i]});
  const std::size_t kept =
      m_settings.topK == 0 ? m_choices.size() : std::min(m_settings.topK, m_choices.size());
  if (kept < m_choices.size()) {
    std::ranges::nth_element(m_choices, m_choices.begin() + static_cast<std::ptrdiff_t>(kept),
                             comesBefore);
    m_choices.resize(kept);
  }
  std::ranges::sort(m_choices, comesBefore);
  const double top = m_choices.front().weight;
  for (Choice& choice : m_choices)
    choice.weight = std::exp((choice.weight - top) / m_settings.temperature);
}

/// Cuts the sorted choices by top-p and min-p. At least one stays.
void Sampler::restrict() {
  std::size_t kept = m_choices.size();
  if (m_settings.topP < 1) {
    double total = 0;
    for (const Choice& choice : m_choices) total += choice.weight;
    double covered = 0;
    for (kept = 0; kept < m_choices.size() && covered < m_settings.topP * total; ++kept)
      covered += m_choices[kept].weight;
  }
  while (kept > 1 && m_choices[kept - 1].weight < m_settings.minP * m_choices[0].weight) --kept;
  m_choices.resize(std::max<std::size_t>(kept, 1));
}

}  // namespace mb
