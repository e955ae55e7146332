#include "engine/training/data_source.h"

#include <algorithm>
#include <cassert>
#include <numbers>
#include <numeric>
#include <string>

#include "engine/error.h"
#include "engine/model/mix.h"
#include "engine/training/trainer.h"

namespace mb {

namespace {

/// Steps of that many places come by each of `count` places once, and those of any few steps lie
/// far apart: by the golden ratio.
std::uint64_t strideThrough(std::uint64_t count) {
  auto stride = static_cast<std::uint64_t>(static_cast<double>(count) * (std::numbers::phi - 1));
  while (std::gcd(stride, count) > 1) ++stride;
  return stride;
}

}  // namespace

TextSource::TextSource(TokenView text, std::size_t vocabulary, const TrainingOptions& options)
    : m_text(text),
      m_segment(options.segment),
      m_streams(options.streams),
      m_accumulate(options.accumulate),
      m_carryState(options.carryState),
      m_run(options.carryState ? options.run : 0),
      m_seed(options.seed) {
  if (text.size() <= m_segment)
    throw RequestError("text to train on: expected at least " + std::to_string(m_segment + 1) +
                       " tokens, a segment and what follows, found " + std::to_string(text.size()));
  for (const Token token : text)
    if (token < 0 || static_cast<std::size_t>(token) >= vocabulary)
      throw RequestError("token of the text: expected one below the vocabulary's " +
                         std::to_string(vocabulary) + ", found " + std::to_string(token));
  m_run = std::min(m_run, (text.size() - 1) / m_segment);
  m_runs = m_run > 0 ? (text.size() - 1) / (m_run * m_segment) : 0;
  m_stride = strideThrough(m_runs);
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

/// Streams change places one after the other, not all in the same step.
TextSource::Place TextSource::placeInRun(std::uint64_t index) const {
  const std::uint64_t stream = index / m_accumulate % m_streams;
  const std::uint64_t lesson =
      index / (m_accumulate * m_streams) * m_accumulate + index % m_accumulate;
  const std::uint64_t moved = lesson + stream * m_run / m_streams;
  const std::uint64_t run = moved / m_run * m_streams + stream;
  const std::uint64_t pass = run / m_runs;
  const std::uint64_t slot = (run % m_runs * m_stride + mix(m_seed, pass) % m_runs) % m_runs;
  const std::uint64_t spare = m_text.size() - m_runs * m_run * m_segment;
  const std::uint64_t begin = slot * m_run * m_segment + mix(~m_seed, pass) % spare;
  return {begin + moved % m_run * m_segment, lesson == 0 || moved % m_run == 0};
}

/// Of a stream that stands at `place`.
TextSource::Place TextSource::placeAfter(std::uint64_t place, std::uint64_t index) const {
  const std::uint64_t places = m_text.size() - m_segment;
  if (!m_carryState) return {mix(m_seed, index) % places, true};
  if (place < places) return {place, false};
  // The last bytes, too few for a segment, get their turn.
  return {mix(m_seed, index) % std::min<std::uint64_t>(places, m_segment), true};
}

void TextSource::next(std::uint64_t& place, std::uint64_t index, Lesson& lesson) const {
  const Place at = m_run > 0 ? placeInRun(index) : placeAfter(place, index);
  place = at.first;
  lesson.beginsAnew = at.beginsAnew;
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
