#include "engine/benchmark/training_benchmark.h"

#include "engine/model/mix.h"

namespace mb {

TrainingBenchmark benchmarkTraining(const ModelConfig& config, const TrainingDeviceOptions& options,
                                    bool stages, const BenchmarkOptions& benchmark,
                                    std::stop_token stop) {
  const ParameterLayout layout(config);
  cpu::ThreadPool pool(options.device.threads);
  const ChosenTrainingDevice chosen =
      makeTrainingDevice(layout, initialParameters(layout, 1), options, pool);
  TrainingDevice& device = *chosen.device;
  std::vector<Token> tokens(options.streams * options.segment + 1);
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<Token>(mix(7, i) % config.vocabSize);
  std::vector<SegmentTokens> segments;
  for (std::size_t i = 0; i < options.streams; ++i) {
    const std::size_t first = i * options.segment;
    segments.push_back({TokenView(tokens).subspan(first, options.segment),
                        TokenView(tokens).subspan(first + 1, options.segment), false});
  }
  AdamWStep adam{.count = 0,
                 .learningRate = 1e-4,
                 .weightDecay = 0.1,
                 .beta1 = 0.9,
                 .beta2 = 0.95,
                 .epsilon = 1e-8};
  const std::size_t count = tokens.size() - 1;
  const auto step = [&] {
    device.learn(segments, 1 / static_cast<float>(count), stop);
    adam.factor = 1 / std::max(1.0, device.gradientNorm());
    ++adam.count;
    device.update(adam);
  };
  TrainingBenchmark result;
  result.device = device.name() + " (" + chosen.reason + ")";
  result.rate = sampleRate(benchmark, count, step);
  result.memory = device.memoryBytes();
  if (stages) {
    device.profile();
    step();
    result.stages = device.profile();
  }
  return result;
}

}  // namespace mb
