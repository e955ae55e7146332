// What a run is made of, on the bundled models and all threads: decode, prefill, verify, rewind,
// snapshots.
#include <algorithm>

#include "tests/bench/bench_support.h"

namespace mb::bench {

namespace {

using ModelGetter = std::shared_ptr<const Model> (*)();

/// One token at a time from a warm state.
void decode(benchmark::State& state, ModelGetter getModel) {
  const auto model = getModel();
  const auto runner = model->newRunner();
  State at = model->newState();
  State next = at;
  const std::vector<Token> tokens = randomTokens(*model, 64);
  std::size_t turn = 0;
  for (auto _ : state) {
    runner->advance(at, next, {&tokens[turn++ % tokens.size()], 1}, {LogitsWanted::Last, {}, {}});
    std::swap(at, next);
  }
  state.counters["byte/s"] = perSecond(1);
  state.counters["of_floor"] = shareOfFloor(model->info().weightBytes);
}

/// A prompt in the runner's largest chunks; logits after the last byte only.
void prefill(benchmark::State& state, ModelGetter getModel) {
  const auto model = getModel();
  const auto runner = model->newRunner();
  const std::vector<Token> tokens = randomTokens(*model, static_cast<std::size_t>(state.range(0)));
  State at = model->newState();
  for (auto _ : state) {
    for (std::size_t first = 0; first < tokens.size(); first += runner->maxChunk()) {
      const std::size_t size = std::min(runner->maxChunk(), tokens.size() - first);
      const bool last = first + size == tokens.size();
      runner->advance(at, at, TokenView(tokens).subspan(first, size),
                      {last ? LogitsWanted::Last : LogitsWanted::None, {}, {}});
    }
  }
  state.counters["byte/s"] = perSecond(static_cast<double>(tokens.size()));
}

/// A draft in one pass from a saved state, logits after each byte.
void verify(benchmark::State& state) {
  const auto model = verifier();
  const auto runner = model->newRunner();
  const State at = model->newState();
  State next = at;
  const std::vector<Token> tokens = randomTokens(*model, static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) runner->advance(at, next, tokens, {});
  state.counters["byte/s"] = perSecond(static_cast<double>(tokens.size()));
  state.counters["of_floor"] = shareOfFloor(model->info().weightBytes);
}

/// The same with somebody looking inside.
void verifyWithTaps(benchmark::State& state) {
  const auto model = verifier();
  const auto runner = model->newRunner();
  const State at = model->newState();
  State next = at;
  const std::vector<Token> tokens = randomTokens(*model, static_cast<std::size_t>(state.range(0)));
  ChunkRequest request;
  request.taps.enabled = true;
  for (auto _ : state) runner->advance(at, next, tokens, request);
  state.counters["byte/s"] = perSecond(static_cast<double>(tokens.size()));
}

/// Back to the first `range(0)` of 16 verified bytes.
void rewindTo(benchmark::State& state) {
  const auto model = verifier();
  const auto runner = model->newRunner();
  const State at = model->newState();
  State next = at;
  runner->advance(at, next, randomTokens(*model, 16), {});
  for (auto _ : state) runner->rewind(at, next, static_cast<std::size_t>(state.range(0)));
}

/// A snapshot is a copy.
void copyState(benchmark::State& state, ModelGetter getModel) {
  const State at = getModel()->newState();
  State copy = at;
  for (auto _ : state) {
    copy = at;
    benchmark::DoNotOptimize(copy.hidden(0));
    benchmark::ClobberMemory();
  }
  state.counters["B/s"] = perSecond(static_cast<double>(at.bytes()));
}

}  // namespace

void registerModel() {
  using benchmark::RegisterBenchmark;
  RegisterBenchmark("model/decode", decode, verifier)->UseRealTime();
  RegisterBenchmark("model/decode_draft", decode, draftModel)->UseRealTime();
  RegisterBenchmark("model/prefill", prefill, verifier)->Arg(512)->UseRealTime();
  RegisterBenchmark("model/prefill_draft", prefill, draftModel)->Arg(512)->UseRealTime();
  RegisterBenchmark("model/verify", verify)->RangeMultiplier(2)->Range(1, 32)->UseRealTime();
  RegisterBenchmark("model/verify_with_taps", verifyWithTaps)->Arg(16)->UseRealTime();
  RegisterBenchmark("model/rewind", rewindTo)->Arg(1)->Arg(8)->Arg(15)->UseRealTime();
  RegisterBenchmark("model/copy_state", copyState, verifier)->UseRealTime();
}

}  // namespace mb::bench
