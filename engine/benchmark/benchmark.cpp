#include "engine/benchmark/benchmark.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>

#include "engine/decoding/sampler.h"
#include "engine/evaluation/acceptance.h"
#include "engine/model/mix.h"

namespace mb {

namespace {

using Clock = std::chrono::steady_clock;

double secondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::vector<Token> randomTokens(const Model& model, std::size_t count) {
  std::vector<Token> tokens(count);
  for (std::size_t i = 0; i < count; ++i)
    tokens[i] = static_cast<Token>(mix(7, i) % model.config().vocabSize);
  return tokens;
}

BenchmarkResult resultOf(const char* name, const Model& model, Samples rate, double bandwidth,
                         std::size_t tokensPerPass) {
  BenchmarkResult result;
  result.name = name;
  if (!model.config().isByteLevel()) result.unit = "tokens/s";
  result.rate = std::move(rate);
  result.floor = bandwidth / static_cast<double>(model.info().weightBytes) *
                 static_cast<double>(tokensPerPass);
  return result;
}

struct Writing {
  double bytesPerSecond = 0;
  std::uint64_t waits = 0;  ///< of the host for a device
};

/// Writes behind the prompts, which have been read by then. `waits` counts on.
Writing writeBehind(Session& session, std::span<const ByteView> prompts, std::size_t bytes,
                    const GenerationSettings& settings, SessionListener& listener,
                    const std::function<std::uint64_t()>& waits) {
  double seconds = 0;
  Writing writing;
  for (const ByteView prompt : prompts) {
    session.replace(0, session.text().size(), prompt);
    session.prepare(settings, listener, {});
    const std::uint64_t before = waits();
    const auto start = Clock::now();
    session.generate(bytes, settings, listener, {});
    seconds += secondsSince(start);
    writing.waits += waits() - before;
  }
  writing.bytesPerSecond = static_cast<double>(bytes * prompts.size()) / seconds;
  return writing;
}

}  // namespace

double Samples::median() const {
  if (values.empty()) return 0;
  std::vector<double> sorted = values;
  std::ranges::sort(sorted);
  return sorted[sorted.size() / 2];
}
double Samples::least() const {
  return values.empty() ? 0 : *std::ranges::min_element(values);
}
double Samples::most() const {
  return values.empty() ? 0 : *std::ranges::max_element(values);
}

Samples sampleRate(const BenchmarkOptions& options, std::size_t tokens,
                   const std::function<void()>& work) {
  work();
  Samples samples;
  for (std::size_t i = 0; i < options.repeats; ++i) {
    std::size_t count = 0;
    const auto start = Clock::now();
    do {
      work();
      ++count;
    } while (secondsSince(start) < options.secondsPerSample);
    samples.values.push_back(static_cast<double>(count * tokens) / secondsSince(start));
  }
  return samples;
}

BenchmarkResult benchmarkDecode(const Model& model, double bandwidth,
                                const BenchmarkOptions& options) {
  constexpr std::size_t kDrawn = 31;  // as many as plain decoding lets a runner draw
  const auto runner = model.newRunner();
  State state = model.newState();
  State next = state;
  Token token = randomTokens(model, 1).front();
  const Drawing greedy{.keys = std::vector<std::uint64_t>(kDrawn)};
  std::size_t tokens = 0;  // of one pass
  const auto pass = [&] {
    const TokenView drawn = runner->advanceDrawing(state, {&next, 1}, token, greedy,
                                                   {LogitsWanted::All, options.taps, {}});
    tokens = drawn.size() + 1;
    token = argmax(runner->logits(drawn.size()));
    std::swap(state, next);
  };
  pass();
  const Samples rate = sampleRate(options, tokens, pass);
  return resultOf("decode", model, rate, bandwidth, 1);
}

BenchmarkResult benchmarkPrefill(const Model& model, double bandwidth,
                                 const BenchmarkOptions& options) {
  const auto runner = model.newRunner();
  const std::vector<Token> tokens = randomTokens(model, options.prefillLength);
  const std::size_t most =
      std::min(options.taps.enabled ? runner->maxTappedRead() : runner->maxRead(), tokens.size());
  const Samples rate = sampleRate(options, tokens.size(), [&] {
    State state = model.newState();
    for (std::size_t first = 0; first < tokens.size(); first += most) {
      const std::size_t size = std::min(most, tokens.size() - first);
      const bool last = first + size == tokens.size();
      runner->advance(state, state, TokenView(tokens).subspan(first, size),
                      {last ? LogitsWanted::Last : LogitsWanted::None, options.taps, {}});
    }
  });
  return resultOf("prefill", model, rate, bandwidth, most);
}

BenchmarkResult benchmarkVerify(const Model& model, double bandwidth,
                                const BenchmarkOptions& options) {
  const auto runner = model.newRunner();
  const State state = model.newState();
  State next = state;
  const std::vector<Token> tokens = randomTokens(model, options.verifyLength);
  const Samples rate =
      sampleRate(options, tokens.size(), [&] { runner->advance(state, next, tokens, {}); });
  return resultOf("verify", model, rate, bandwidth, tokens.size());
}

SpeculationBenchmark benchmarkSpeculation(std::shared_ptr<const Model> verifier,
                                          std::shared_ptr<SubwordDrafter> drafter,
                                          std::span<const ByteView> prompts, std::size_t bytes,
                                          const GenerationSettings& settings,
                                          const BenchmarkOptions& options) {
  GenerationSettings plain = settings;
  plain.speculation = Speculation::Off;
  Session session(verifier, drafter);
  const auto waits = [&] { return verifier->waits() + drafter->model().waits(); };
  const auto write = [&](std::span<const ByteView> behind, const GenerationSettings& how,
                         RoundCounter& rounds) {
    return writeBehind(session, behind, bytes, how, rounds, waits);
  };
  RoundCounter ignored;
  SpeculationBenchmark result;
  write(prompts.first(1), settings, ignored);  // warm up
  for (std::size_t i = 0; i < options.repeats; ++i) {
    RoundCounter rounds;
    result.plain.values.push_back(write(prompts, plain, ignored).bytesPerSecond);
    const Writing speculative = write(prompts, settings, rounds);
    result.speculative.values.push_back(speculative.bytesPerSecond);
    result.waits = speculative.waits;
    result.ratio.values.push_back(result.speculative.values.back() / result.plain.values.back());
    result.totals = rounds.totals();
  }
  return result;
}

}  // namespace mb
