// What the benchmarks share: one team of threads, the bundled models, the memory bandwidth.
#pragma once

#include <benchmark/benchmark.h>
#include <memory>
#include <string>
#include <vector>

#include "engine/decoding/subword_drafter.h"
#include "engine/model/model.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/thread_pool.h"

namespace mb::bench {

/// From the command line, before anything is registered.
struct Options {
  std::string simd;         ///< empty takes the fastest
  std::size_t threads = 0;  ///< 0 takes all
};
void configure(const Options& options);

/// The instruction set that was chosen.
const cpu::SimdLevel& simdLevel();
std::size_t threadCount();

/// Models are opened when they are first asked for.
std::shared_ptr<const Model> verifier();
std::shared_ptr<const Model> draftModel();
std::shared_ptr<SubwordDrafter> drafter();

/// Bytes a second that all threads read from memory, measured once in this run.
double memoryBandwidth();

/// Rate counters of `amount` an iteration.
benchmark::Counter perSecond(double amount);
/// How close a pass over `weightBytes` comes to reading them once from memory; 1 is the floor,
/// weights that stay in the cache can beat it.
benchmark::Counter shareOfFloor(std::size_t weightBytes);

/// Book text that no model was trained on.
const Bytes& sampleText();
/// Tokens without a pattern.
std::vector<Token> randomTokens(const Model& model, std::size_t count);

void registerKernels();
void registerModel();
void registerDecoding();

}  // namespace mb::bench
