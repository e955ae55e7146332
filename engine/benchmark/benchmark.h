// Timing of a model's operations beside the floor that memory sets.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/decoding/generator.h"
#include "engine/decoding/subword_drafter.h"
#include "engine/model/model.h"
#include "kernels/cpu/thread_pool.h"

namespace mb {

/// Rates of repeated runs, in bytes (tokens for a subword model) a second.
struct Samples {
  std::vector<double> values;
  double median() const;
  double least() const;
  double most() const;
};

struct BenchmarkResult {
  std::string name;
  std::string unit = "bytes/s";
  Samples rate;
  /// What reading the weights once per pass allows at the memory bandwidth measured in the same
  /// run; 0 where there is none. Weights that stay in the processor's cache can beat it.
  double floor = 0;
};

struct BenchmarkOptions {
  std::size_t repeats = 5;
  double secondsPerSample = 0.4;
  std::size_t prefillLength = 512;
  std::size_t verifyLength = 16;
  TapRequest taps;  ///< of decode and prefill
};

/// Repeats `work`, which processes `tokens` tokens, for the sample time; one sample a repeat.
Samples sampleRate(const BenchmarkOptions& options, std::size_t tokens,
                   const std::function<void()>& work);

/// One token at a time from a warm state.
BenchmarkResult benchmarkDecode(const Model& model, double bandwidth, const BenchmarkOptions&);
/// A prompt of prefillLength tokens in the runner's longest reads; logits after the last only.
BenchmarkResult benchmarkPrefill(const Model& model, double bandwidth, const BenchmarkOptions&);
/// verifyLength tokens in one pass from a saved state, logits after each.
BenchmarkResult benchmarkVerify(const Model& model, double bandwidth, const BenchmarkOptions&);

struct SpeculationBenchmark {
  Samples plain;  ///< plain decoding of the same bytes, alternating with the speculative runs
  Samples speculative;
  Samples ratio;             ///< pair by pair
  SpeculationTotals totals;  ///< of the last run
  std::uint64_t waits = 0;   ///< of the host for a device, in the last run
};
/// Writes `bytes` bytes after each prompt plainly and speculatively, in turn. A sample is over all
/// prompts, and so are the totals, those of the last one.
SpeculationBenchmark benchmarkSpeculation(std::shared_ptr<const Model> verifier,
                                          std::shared_ptr<SubwordDrafter> drafter,
                                          std::span<const ByteView> prompts, std::size_t bytes,
                                          const GenerationSettings& settings,
                                          const BenchmarkOptions& options);

}  // namespace mb
