#include "engine/evaluation/recipe_accuracy.h"

#include <algorithm>

#include "engine/decoding/sampler.h"

namespace mb {

namespace {

/// Reads an example from its beginning, with logits only where an answer is asked for.
class Examiner {
 public:
  Examiner(const Model& model, const AccuracyProgress& progress, std::uint64_t total,
           std::stop_token stop)
      : m_model(model),
        m_runner(model.newRunner()),
        m_progress(progress),
        m_total(total),
        m_stop(std::move(stop)) {}

  void read(const Lesson& example) {
    State state = m_model.newState();
    const TokenView inputs(example.inputs);
    for (std::size_t first = 0; first < inputs.size(); first += m_runner->maxRead()) {
      const std::size_t size = std::min(m_runner->maxRead(), inputs.size() - first);
      const TokenView targets = TokenView(example.targets).subspan(first, size);
      const bool asks = std::ranges::any_of(targets, [](Token t) { return t != kNoTarget; });
      m_runner->advance(state, state, inputs.subspan(first, size),
                        {asks ? LogitsWanted::All : LogitsWanted::None, {}, m_stop});
      for (std::size_t i = 0; i < size; ++i) compare(i, targets[i]);
      m_done += size;
      if (m_progress) m_progress(m_done, m_total);
    }
  }
  const Accuracy& accuracy() const { return m_accuracy; }

 private:
  void compare(std::size_t i, Token target) {
    if (target == kNoTarget) return;
    ++m_accuracy.asked;
    m_accuracy.right += argmax(m_runner->logits(i)) == target;
  }

  const Model& m_model;
  std::unique_ptr<Runner> m_runner;
  const AccuracyProgress& m_progress;
  std::uint64_t m_total;
  std::uint64_t m_done = 0;
  std::stop_token m_stop;
  Accuracy m_accuracy;
};

}  // namespace

Accuracy measureAccuracy(const Model& model, const Recipe& recipe, std::size_t length,
                         std::size_t examples, std::uint64_t seed, const AccuracyProgress& progress,
                         std::stop_token stop) {
  expectVocabulary(model.config(), recipe);
  TrainingOptions options;
  options.segment = length;
  options.seed = ~seed;
  const RecipeSource source(recipe, options);
  Examiner examiner(model, progress, examples * length, std::move(stop));
  Lesson example;
  std::uint64_t place = 0;
  for (std::size_t i = 0; i < examples; ++i) {
    source.next(place, i, example);
    examiner.read(example);
  }
  return examiner.accuracy();
}

}  // namespace mb
