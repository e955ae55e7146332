// What a trainer reads: lessons for streams side by side, from a text or made on the spot.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/types.h"

namespace mb {

struct TrainingOptions;

/// A target that does not count.
inline constexpr Token kNoTarget = -1;

/// Tokens that a stream reads in one pass.
struct Lesson {
  std::vector<Token> inputs;
  std::vector<Token> targets;  ///< what should follow each input; kNoTarget where nothing counts
  bool beginsAnew = false;     ///< with an empty state, not with that of the lesson before
};

/// Const and thread-safe: what a lesson says depends on nothing but the arguments.
class DataSource {
 public:
  virtual ~DataSource() = default;
  /// Where a stream stands before its first lesson.
  virtual std::uint64_t firstPlace(std::size_t stream) const = 0;
  /// Sets `lesson` to the next of a stream that stands at `place`, and moves that on. `index`
  /// counts the lessons of the run.
  virtual void next(std::uint64_t& place, std::uint64_t index, Lesson& lesson) const = 0;
  /// Inputs of every lesson.
  virtual std::size_t lessonTokens() const = 0;
  /// Tells the source from others, so that a run goes on with the same.
  virtual std::uint64_t hash() const = 0;
};

/// Segments of a text. With options.carryState each stream reads on from its own place: to the
/// text's end, or for options.run segments, and then goes on elsewhere. A pass over the text reads
/// each of its runs once, those that follow each other far apart. Otherwise every segment begins
/// anywhere.
class TextSource : public DataSource {
 public:
  /// Throws RequestError for a text of fewer tokens than one segment and its target, or tokens
  /// outside the vocabulary. The text must outlive the source.
  TextSource(TokenView text, std::size_t vocabulary, const TrainingOptions& options);
  /// Of the targets only those count whose entry in `counts` is not 0; one entry a token.
  TextSource(TokenView text, std::vector<std::uint8_t> counts, std::size_t vocabulary,
             const TrainingOptions& options);

  std::uint64_t firstPlace(std::size_t stream) const override;
  void next(std::uint64_t& place, std::uint64_t index, Lesson& lesson) const override;
  std::size_t lessonTokens() const override { return m_segment; }
  std::uint64_t hash() const override;

 private:
  struct Place {
    std::uint64_t first = 0;  ///< token
    bool beginsAnew = false;
  };
  Place placeInRun(std::uint64_t index) const;
  Place placeAfter(std::uint64_t place, std::uint64_t index) const;

  TokenView m_text;
  std::vector<std::uint8_t> m_counts;  ///< or empty, when all do
  std::size_t m_segment;
  std::size_t m_streams;
  std::size_t m_accumulate;
  bool m_carryState;
  std::size_t m_run;       ///< segments, or 0
  std::uint64_t m_runs;    ///< of a pass over the text
  std::uint64_t m_stride;  ///< from a run to the one that is read next
  std::uint64_t m_seed;
};

}  // namespace mb
