#include "engine/decoding/sampler.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "engine/model/mix.h"

namespace mb {

namespace {

template <class View>
View lastOf(View view, std::size_t count) {
  return view.subspan(view.size() - std::min(view.size(), count));
}

}  // namespace

Token argmax(std::span<const float> logits) {
  return static_cast<Token>(std::ranges::max_element(logits) - logits.begin());
}

Token Sampler::draw(std::span<const float> logits, std::uint64_t position, ByteView recent) {
  if (m_settings.repetitionPenalty == 1) return draw(logits, position, TokenView());
  const ByteView window = lastOf(recent, m_settings.repetitionWindow);
  const std::vector<Token> tokens(window.begin(), window.end());
  return draw(logits, position, TokenView(tokens));
}

Token Sampler::draw(std::span<const float> logits, std::uint64_t position, TokenView recent) {
  const std::span<const float> adjusted = penalized(logits, recent);
  if (m_settings.isGreedy()) return argmax(adjusted);
  weigh(adjusted);
  restrict();
  double total = 0;
  for (const Choice& choice : m_choices) total += choice.weight;
  double point = uniform01(m_settings.seed, position) * total;
  for (const Choice& choice : m_choices) {
    point -= choice.weight;
    if (point < 0) return choice.token;
  }
  return m_choices.back().token;
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
void Sampler::weigh(std::span<const float> logits) {
  const double top = *std::ranges::max_element(logits);
  m_choices.clear();
  for (std::size_t i = 0; i < logits.size(); ++i)
    m_choices.push_back(
        {static_cast<Token>(i), std::exp((logits[i] - top) / m_settings.temperature)});
  const std::size_t kept =
      m_settings.topK == 0 ? m_choices.size() : std::min(m_settings.topK, m_choices.size());
  const auto before = [](const Choice& a, const Choice& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
  };
  std::ranges::partial_sort(m_choices, m_choices.begin() + static_cast<std::ptrdiff_t>(kept),
                            before);
  m_choices.resize(kept);
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
