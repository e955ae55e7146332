// What happens around the model: scoring, sampling, the tokenizer, and whole runs with speculation.
#include <chrono>
#include <string>

#include "engine/decoding/sampler.h"
#include "engine/session/session.h"
#include "tests/bench/bench_support.h"

namespace mb::bench {

namespace {

constexpr std::size_t kPromptBytes = 512;
constexpr std::size_t kWrittenBytes = 256;

/// The verifier's logits after some text.
std::vector<float> someLogits() {
  const auto model = verifier();
  const auto runner = model->newRunner();
  State state = model->newState();
  const ByteView text = ByteView(sampleText()).first(runner->maxChunk());
  const std::vector<Token> tokens(text.begin(), text.end());
  runner->advance(state, state, tokens, {LogitsWanted::Last, {}, {}});
  const auto logits = runner->logits(0);
  return {logits.begin(), logits.end()};
}

void score(benchmark::State& state) {
  const std::vector<float> logits = someLogits();
  Byte byte = 0;
  for (auto _ : state) benchmark::DoNotOptimize(scoreByte(logits, byte++, Origin::Plain));
}

void sample(benchmark::State& state, const SamplerSettings& settings) {
  const std::vector<float> logits = someLogits();
  Sampler sampler(settings);
  std::uint64_t position = 0;
  for (auto _ : state)
    benchmark::DoNotOptimize(sampler.draw(logits, position++, ByteView(sampleText())));
}

void encode(benchmark::State& state) {
  const Tokenizer& tokenizer = drafter()->tokenizer();
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.encode(sampleText()));
  state.counters["B/s"] = perSecond(static_cast<double>(sampleText().size()));
}

void decodeTokens(benchmark::State& state) {
  const Tokenizer& tokenizer = drafter()->tokenizer();
  const std::vector<Token> tokens = tokenizer.encode(sampleText());
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.decode(tokens));
  state.counters["B/s"] = perSecond(static_cast<double>(sampleText().size()));
}

void openTokenizer(benchmark::State& state) {
  const auto file = draftModel()->info().tokenizer;
  for (auto _ : state) benchmark::DoNotOptimize(Tokenizer(file));
}

class CountRounds : public SessionListener {
 public:
  void bytesScored(std::size_t, std::span<const ByteRecord>) override {}
  void roundFinished(const RoundRecord& round) override { totals.add(round); }
  SpeculationTotals totals;
};

/// Seconds to write kWrittenBytes after the prompt; reading the prompt is not counted.
double write(Session& session, const GenerationSettings& settings, CountRounds& rounds) {
  using Clock = std::chrono::steady_clock;
  session.replace(kPromptBytes, session.text().size() - kPromptBytes, {});
  session.prepare(settings, rounds, {});
  const auto start = Clock::now();
  session.generate(kWrittenBytes, settings, rounds, {});
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// A run, and by turns the same plainly: "vs_plain" is plain time over speculative time.
void generate(benchmark::State& state, Speculation speculation) {
  Session session(verifier(), drafter());
  session.replace(0, 0, ByteView(sampleText()).first(kPromptBytes));
  GenerationSettings plain;
  GenerationSettings settings;
  settings.speculation = speculation;
  settings.draftTokens = static_cast<std::size_t>(state.range(0));
  CountRounds rounds;
  double plainSeconds = 0;
  double seconds = 0;
  for (auto _ : state) {
    CountRounds ignored;
    plainSeconds += write(session, plain, ignored);
    const double taken = write(session, settings, rounds);
    seconds += taken;
    state.SetIterationTime(taken);
  }
  const SpeculationTotals& totals = rounds.totals;
  state.counters["byte/s"] = perSecond(kWrittenBytes);
  state.counters["vs_plain"] = plainSeconds / seconds;
  state.counters["accepted"] = totals.acceptance();
  state.counters["bytes/round"] = totals.bytesPerRound();
  if (totals.rounds == 0) return;
  const double each = 1e6 / static_cast<double>(totals.rounds);
  state.counters["us/round"] = totals.times.total * each;
  state.counters["us_draft"] = totals.times.draft * each;
  state.counters["us_verify"] = totals.times.verify * each;
  state.counters["us_rollback"] = totals.times.rollback * each;
}

SamplerSettings sampling() {
  SamplerSettings settings;
  settings.temperature = 0.8;
  return settings;
}

void registerSampling() {
  using benchmark::RegisterBenchmark;
  RegisterBenchmark("score_byte", score);
  RegisterBenchmark("sample/greedy", sample, SamplerSettings());
  RegisterBenchmark("sample/temperature", sample, sampling());
  SamplerSettings restricted = sampling();
  restricted.topK = 40;
  restricted.topP = 0.95;
  RegisterBenchmark("sample/top_k_top_p", sample, restricted);
  restricted.repetitionPenalty = 1.1;
  RegisterBenchmark("sample/with_penalty", sample, restricted);
}

}  // namespace

void registerDecoding() {
  using benchmark::RegisterBenchmark;
  registerSampling();
  RegisterBenchmark("tokenizer/encode", encode);
  RegisterBenchmark("tokenizer/decode", decodeTokens);
  RegisterBenchmark("tokenizer/open", openTokenizer)->Unit(benchmark::kMillisecond);
  for (const Speculation speculation : {Speculation::Exact, Speculation::TopBeta}) {
    const std::string name = "generate/" + std::string(nameOf(speculation));
    RegisterBenchmark(name.c_str(), generate, speculation)
        ->RangeMultiplier(2)
        ->Range(1, 8)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
}

}  // namespace mb::bench
