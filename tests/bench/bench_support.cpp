#include "tests/bench/bench_support.h"

#include <stdexcept>

#include "engine/benchmark/benchmark.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/model/devices.h"
#include "engine/model/mix.h"

namespace mb::bench {

namespace {

Options& options() {
  static Options options;
  return options;
}

ModelLoader& loader() {
  static ModelLoader kLoader = [] {
    DeviceOptions device;
    device.simd = options().simd;
    device.threads = options().threads;
    return ModelLoader(device);
  }();
  return kLoader;
}

std::filesystem::path bundled(const std::string& name) {
  return std::filesystem::path(MB_BENCH_MODELS) / name;
}

}  // namespace

void configure(const Options& chosen) {
  options() = chosen;
}

const cpu::SimdLevel& simdLevel() {
  static const cpu::SimdLevel kLevel = [] {
    for (const cpu::SimdLevel& level : cpu::availableSimdLevels())
      if (options().simd.empty() || level.name == options().simd) return level;
    throw std::invalid_argument("this processor has no instruction set " + options().simd);
  }();
  return kLevel;
}

std::size_t threadCount() {
  return loader().pool()->size();
}

std::shared_ptr<const Model> verifier() {
  static const auto kModel = loader().open(bundled("books"));
  return kModel;
}

std::shared_ptr<const Model> draftModel() {
  static const auto kModel = loader().open(bundled("books-draft"));
  return kModel;
}

std::shared_ptr<SubwordDrafter> drafter() {
  static const auto kDrafter = std::make_shared<SubwordDrafter>(
      draftModel(), std::make_shared<const Tokenizer>(draftModel()->info().tokenizer));
  return kDrafter;
}

double memoryBandwidth() {
  static const double kBandwidth = loader().measureMemoryBandwidth();
  return kBandwidth;
}

benchmark::Counter perSecond(double amount) {
  return {amount, benchmark::Counter::kIsIterationInvariantRate};
}

benchmark::Counter shareOfFloor(std::size_t weightBytes) {
  return perSecond(static_cast<double>(weightBytes) / memoryBandwidth());
}

const Bytes& sampleText() {
  static const Bytes kText = toBytes(
      readTextFile(std::filesystem::path(MB_BENCH_DATA) / "books-valid-200000.txt", 1 << 20));
  return kText;
}

std::vector<Token> randomTokens(const Model& model, std::size_t count) {
  std::vector<Token> tokens(count);
  for (std::size_t i = 0; i < count; ++i)
    tokens[i] = static_cast<Token>(mix(7, i) % model.config().vocabSize);
  return tokens;
}

}  // namespace mb::bench
