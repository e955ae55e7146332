#include "engine/decoding/sampler.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "engine/model/mix.h"
#include "kernels/cpu/ops.h"

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

double probabilityOfLargest(std::span<const float> logits) {
  const cpu::Ops& ops = cpu::fastestOps();
  const float top = logits[ops.argmax(logits.data(), logits.size())];
  std::vector<float> weights(logits.size());
  return 1.0 / ops.exponentials(logits.data(), logits.size(), top, 1, weights.data());
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
  const double chance = uniform01(m_settings.seed, position);
  if (keepsAll(adjusted.size())) return drawFromAll(adjusted, chance);
  weigh(adjusted);
  restrict();
  double total = 0;
  for (const Choice& choice : m_choices) total += choice.weight;
  double point = chance * total;
  for (const Choice& choice : m_choices) {
    point -= choice.weight;
    if (point < 0) return choice.token;
  }
  return m_choices.back().token;
}

bool Sampler::keepsAll(std::size_t tokens) const {
  const bool allOfTopK = m_settings.topK == 0 || m_settings.topK >= tokens;
  return allOfTopK && m_settings.topP >= 1 && m_settings.minP <= 0;
}

/// Most probable first, as when they are sorted; but few have to be for most draws.
Token Sampler::drawFromAll(std::span<const float> logits, double chance) {
  const cpu::Ops& ops = cpu::fastestOps();
  const float top = logits[ops.argmax(logits.data(), logits.size())];
  const auto scale = static_cast<float>(std::min(1 / m_settings.temperature, 1e30));
  m_weights.resize(logits.size());
  const float total = ops.exponentials(logits.data(), logits.size(), top, scale, m_weights.data());
  m_choices.clear();
  for (std::size_t i = 0; i < logits.size(); ++i)
    m_choices.push_back({static_cast<Token>(i), m_weights[i]});
  const auto behind = [](const Choice& a, const Choice& b) { return comesBefore(b, a); };
  std::ranges::make_heap(m_choices, behind);
  double point = chance * static_cast<double>(total);
  for (auto end = m_choices.end(); end != m_choices.begin(); --end) {
    std::ranges::pop_heap(m_choices.begin(), end, behind);
    const Choice& next = *std::prev(end);
    point -= next.weight;
    if (point < 0) return next.token;
  }
  return m_choices.front().token;
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
