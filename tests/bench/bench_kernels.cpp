// The CPU's vector operations on one thread, at the shapes of real models.
#include <cmath>
#include <random>
#include <string>

#include "kernels/cpu/ops.h"
#include "kernels/memory.h"
#include "tests/bench/bench_support.h"

namespace mb::bench {

namespace {

using benchmark::State;
using cpu::PackedMatrix;
using cpu::WeightType;
using Floats = AlignedArray<float>;

Floats randomFloats(std::size_t count, float low, float high) {
  std::mt19937 engine(3);
  std::uniform_real_distribution<float> distribution(low, high);
  Floats values(count);
  for (float& value : values.span()) value = distribution(engine);
  return values;
}

// ---- matrix product

struct MatrixShape {
  const char* name;
  std::size_t rows;
  std::size_t columns;
};

/// A: the bundled verifier (14M), B: 130M subword, C: 353M, D: 972M.
constexpr MatrixShape kMatrices[] = {
    {"A.in_proj", 2048, 512},   {"A.x_proj", 64, 1024},   {"A.dt_proj", 1024, 32},
    {"A.out_proj", 512, 1024},  {"A.head", 256, 512},     {"B.in_proj", 3072, 768},
    {"B.out_proj", 768, 1536},  {"B.head", 50280, 768},   {"C.in_proj", 4096, 1024},
    {"C.out_proj", 1024, 2048}, {"D.in_proj", 7168, 1792}};

PackedMatrix randomMatrix(const MatrixShape& shape, WeightType type) {
  PackedMatrix matrix(shape.rows, shape.columns, type);
  const Floats values = randomFloats(shape.columns, -1, 1);
  for (std::size_t row = 0; row < shape.rows; ++row) matrix.setRow(row, values.span());
  return matrix;
}

/// Products by turns with as many copies of a matrix as it takes to read them from memory, or with
/// one that stays in the cache.
void matmul(State& state, const MatrixShape& shape, WeightType type, bool fromMemory) {
  constexpr std::size_t kBeyondCaches = 128 << 20;
  const auto count = static_cast<std::size_t>(state.range(0));
  std::vector<PackedMatrix> copies(1, randomMatrix(shape, type));
  while (fromMemory && copies.size() * copies[0].bytes() < kBeyondCaches)
    copies.push_back(copies[0]);
  const std::size_t inputStride = copies[0].paddedColumns() + kBlockRows;
  const std::size_t outputStride = copies[0].blocks() * kBlockRows + kBlockRows;
  const Floats input = randomFloats(count * inputStride, -1, 1);
  Floats output(count * outputStride);
  cpu::MatmulArgs args;
  args.blockEnd = copies[0].blocks();
  args.input = input.data();
  args.inputStride = inputStride;
  args.output = output.data();
  args.outputStride = outputStride;
  args.count = count;
  std::size_t turn = 0;
  for (auto _ : state) {
    args.weights = &copies[turn++ % copies.size()];
    simdLevel().ops->matmul(args);
    benchmark::ClobberMemory();
  }
  const double products = static_cast<double>(shape.rows * shape.columns * count);
  state.counters["FLOP/s"] = perSecond(2 * products);
  state.counters["B/s"] = perSecond(static_cast<double>(copies[0].bytes()));
}

void registerMatmul() {
  for (const MatrixShape& shape : kMatrices) {
    for (const WeightType type : {WeightType::BFloat16, WeightType::Float32}) {
      for (const bool fromMemory : {false, true}) {
        const std::string name = std::string("matmul/") + shape.name +
                                 (type == WeightType::BFloat16 ? "/bf16" : "/f32") +
                                 (fromMemory ? "/memory" : "/cached");
        benchmark::RegisterBenchmark(name.c_str(), matmul, shape, type, fromMemory)
            ->RangeMultiplier(2)
            ->Range(1, 32)
            ->UseRealTime();
      }
    }
  }
}

// ---- selective scan and convolution

constexpr std::size_t kStates = 16;

enum class ScanKind : unsigned char { Full, Replay, Taps };

/// Arguments: channels, bytes of the chunk.
void scan(State& state, ScanKind kind) {
  const auto channels = static_cast<std::size_t>(state.range(0));
  const auto count = static_cast<std::size_t>(state.range(1));
  const std::size_t stride = channels + kBlockRows;
  const Floats delta = randomFloats(count * stride, 0.001f, 0.1f);
  const Floats input = randomFloats(count * stride, -1, 1);
  const Floats gate = randomFloats(count * stride, -1, 1);
  const Floats bc = randomFloats(count * 2 * kStates, -1, 1);
  const Floats a = randomFloats(channels * kStates, -16, -1);
  const Floats d = randomFloats(channels, -1, 1);
  Floats hidden(channels * kStates);
  Floats output(count * stride);
  Floats squared(count * stride);
  Floats decay(count * stride);
  cpu::ScanArgs args;
  args.delta = delta.data();
  args.input = input.data();
  args.stride = stride;
  args.gate = gate.data();
  args.gateStride = stride;
  args.b = bc.data();
  args.c = bc.data() + kStates;
  args.bcStride = 2 * kStates;
  args.aLog2e = a.data();
  args.d = d.data();
  args.stateIn = hidden.data();
  args.stateOut = hidden.data();
  args.output = kind == ScanKind::Replay ? nullptr : output.data();
  args.stateSquared = kind == ScanKind::Taps ? squared.data() : nullptr;
  args.meanDecay = kind == ScanKind::Taps ? decay.data() : nullptr;
  args.states = kStates;
  args.channelEnd = channels;
  args.count = count;
  for (auto _ : state) {
    simdLevel().ops->scan(args);
    benchmark::ClobberMemory();
  }
  state.counters["byte/s"] = perSecond(static_cast<double>(count));
  state.counters["update/s"] = perSecond(static_cast<double>(count * channels * kStates));
}

/// Arguments: channels, bytes of the chunk.
void convolve(State& state) {
  constexpr std::size_t kTaps = 4;
  const auto channels = static_cast<std::size_t>(state.range(0));
  const auto count = static_cast<std::size_t>(state.range(1));
  const std::size_t stride = channels + kBlockRows;
  const Floats input = randomFloats(count * stride, -1, 1);
  const Floats history = randomFloats((kTaps - 1) * channels, -1, 1);
  const Floats weight = randomFloats(kTaps * channels, -1, 1);
  const Floats bias = randomFloats(channels, -1, 1);
  Floats output(count * stride);
  cpu::ConvArgs args;
  args.input = input.data();
  args.inputStride = stride;
  args.history = history.data();
  args.output = output.data();
  args.outputStride = stride;
  args.weight = weight.data();
  args.bias = bias.data();
  args.channels = channels;
  args.taps = kTaps;
  args.channelEnd = channels;
  args.count = count;
  for (auto _ : state) {
    simdLevel().ops->convolve(args);
    benchmark::ClobberMemory();
  }
  state.counters["byte/s"] = perSecond(static_cast<double>(count));
}

void registerRecurrence() {
  const std::vector<std::vector<std::int64_t>> sizes = {{1024, 1536, 2048, 3584}, {1, 16, 64}};
  benchmark::RegisterBenchmark("scan", scan, ScanKind::Full)->ArgsProduct(sizes);
  benchmark::RegisterBenchmark("scan_replay", scan, ScanKind::Replay)->ArgsProduct(sizes);
  benchmark::RegisterBenchmark("scan_taps", scan, ScanKind::Taps)->ArgsProduct(sizes);
  benchmark::RegisterBenchmark("convolve", convolve)->ArgsProduct(sizes);
}

// ---- vectors

void norm(State& state, bool centered) {
  const auto size = static_cast<std::size_t>(state.range(0));
  const Floats input = randomFloats(size, -1, 1);
  const Floats weight = randomFloats(size, -1, 1);
  const Floats bias = randomFloats(size, -1, 1);
  Floats output(size);
  cpu::NormArgs args;
  args.input = input.data();
  args.output = output.data();
  args.size = size;
  args.weight = weight.data();
  args.bias = centered ? bias.data() : nullptr;
  args.epsilon = 1e-5f;
  for (auto _ : state) {
    simdLevel().ops->norm(args);
    benchmark::ClobberMemory();
  }
  state.counters["B/s"] = perSecond(static_cast<double>(size * sizeof(float)));
}

void softplus(State& state) {
  Floats values = randomFloats(static_cast<std::size_t>(state.range(0)), -8, 2);
  for (auto _ : state) {
    simdLevel().ops->softplus(values.data(), values.size());
    benchmark::ClobberMemory();
  }
}

void exponentials(State& state) {
  const Floats values = randomFloats(static_cast<std::size_t>(state.range(0)), -8, 2);
  Floats weights(values.size());
  for (auto _ : state)
    benchmark::DoNotOptimize(
        simdLevel().ops->exponentials(values.data(), values.size(), 2, 1, weights.data()));
}

void argmax(State& state) {
  const Floats values = randomFloats(static_cast<std::size_t>(state.range(0)), -8, 2);
  for (auto _ : state)
    benchmark::DoNotOptimize(simdLevel().ops->argmax(values.data(), values.size()));
}

void registerVectors() {
  const std::vector<std::vector<std::int64_t>> widths = {{512, 768, 1024, 1792}};
  benchmark::RegisterBenchmark("norm_rms", norm, false)->ArgsProduct(widths);
  benchmark::RegisterBenchmark("norm_layer", norm, true)->ArgsProduct(widths);
  benchmark::RegisterBenchmark("softplus", softplus)->Arg(1024)->Arg(2048);
  benchmark::RegisterBenchmark("exponentials", exponentials)->Arg(256)->Arg(4096)->Arg(50280);
  benchmark::RegisterBenchmark("argmax", argmax)->Arg(256)->Arg(4096)->Arg(50280);
}

}  // namespace

void registerKernels() {
  registerMatmul();
  registerRecurrence();
  registerVectors();
}

}  // namespace mb::bench
