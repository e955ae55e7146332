#include "engine/training/data_source.h"

#include <algorithm>
#include <cassert>
#include <string>

#include "engine/error.h"
#include "engine/model/mix.h"
#include "engine/training/trainer.h"

namespace mb {

TextSource::TextSource(TokenView text, std::size_t vocabulary, const TrainingOptions& options)
    : m_text(text),
      m_segment(options.segment),
      m_streams(options.streams),
      m_carryState(options.carryState),
      m_seed(options.seed) {
  if (text.size() <= m_segment)
    throw RequestError("text to train on: expected at least " + std::to_string(m_segment + 1) +
                       " tokens, a segment and what follows, found " + std::to_string(text.size()));
  for (const Token token : text)
    if (token < 0 || static_cast<std::size_t>(token) >= vocabulary)
      throw RequestError("token of the text: expected one below the vocabulary's " +
                         std::to_string(vocabulary) + ", found " + std::to_string(token));
}

TextSource::TextSource(TokenView text, std::vector<std::uint8_t> counts, std::size_t vocabulary,
                       const TrainingOptions& options)
    : TextSource(text, vocabulary, options) {
  assert(counts.size() == text.size());
  m_counts = std::move(counts);
}

std::uint64_t TextSource::firstPlace(std::size_t stream) const {
  return stream * (m_text.size() - 1) / m_streams;
}

void TextSource::next(std::uint64_t& place, std::uint64_t index, Lesson& lesson) const {
  const std::uint64_t places = m_text.size() - m_segment;
  lesson.beginsAnew = !m_carryState || place >= places;
  if (!m_carryState)
    place = mix(m_seed, index) % places;
  else if (place >= places)  // the last bytes, too few for a segment, get their turn
    place = mix(m_seed, index) % std::min<std::uint64_t>(places, m_segment);
  const TokenView inputs = m_text.subspan(place, m_segment);
  const TokenView targets = m_text.subspan(place + 1, m_segment);
  lesson.inputs.assign(inputs.begin(), inputs.end());
  lesson.targets.assign(targets.begin(), targets.end());
  if (!m_counts.empty())
    for (std::size_t i = 0; i < m_segment; ++i)
      if (!m_counts[place + 1 + i]) lesson.targets[i] = kNoTarget;
  place += m_segment;
}

std::uint64_t TextSource::hash() const {
  std::uint64_t hash = m_text.size();
  for (const Token token : m_text) hash = mix(hash, static_cast<std::uint64_t>(token));
  for (const std::uint8_t counts : m_counts) hash = mix(hash, counts);
  return hash;
}

}  // namespace mb
