// mambabyte bench: rates beside the floor that memory sets, measured in the same run.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/mambabyte/command.h"
#include "engine/benchmark/benchmark.h"
#include "engine/benchmark/training_benchmark.h"
#include "engine/decoding/subword_drafter.h"
#include "engine/error.h"
#include "engine/evaluation/acceptance.h"
#include "engine/export/run_export.h"
#include "engine/model/random_weights.h"
#include "engine/text_file.h"

namespace mb::cli {

namespace {

constexpr const char* kPrompt =
    "It was a dark and stormy night; the rain fell in torrents, and the wind swept up the "
    "streets. ";

struct Arguments {
  std::string what = "all";
  std::string model;
  std::string shape;
  std::string draft;
  std::size_t bytes = 400;
  std::string file;
  AcceptanceOptions acceptance;
  GenerationSettings settings;
  std::string speculate = "exact";
  BenchmarkOptions options;
  std::string json;
  DeviceArguments device;
  TrainingDeviceOptions training{.streams = 64, .segment = 2048};
  double memory = 0;
  bool stages = false;

  bool wants(const std::string& name) const { return what == "all" || what == name; }
};

nlohmann::json describe(const Samples& samples) {
  return {{"median", samples.median()},
          {"min", samples.least()},
          {"max", samples.most()},
          {"samples", samples.values}};
}

nlohmann::json print(const BenchmarkResult& result) {
  const double ratio = result.floor > 0 ? result.rate.median() / result.floor : 0;
  std::printf("%-10s %10.1f %s  (min %.1f, max %.1f, %zu runs)  floor %.1f, ratio %.2f\n",
              result.name.c_str(), result.rate.median(), result.unit.c_str(), result.rate.least(),
              result.rate.most(), result.rate.values.size(), result.floor, ratio);
  std::fflush(stdout);
  nlohmann::json json = describe(result.rate);
  json["unit"] = result.unit;
  json["bytes_per_second"] = result.rate.median();
  json["floor_bytes_per_second"] = result.floor;
  json["ratio_to_floor"] = ratio;
  return json;
}

nlohmann::json runSpeculation(const Arguments& arguments, ModelLoader& loader,
                              std::shared_ptr<const Model> verifier) {
  const auto drafter =
      openDrafter(loader, modelFolder(arguments.draft, "books-draft"), interruption());
  GenerationSettings settings = arguments.settings;
  settings.speculation = arguments.speculate == "topb" ? Speculation::TopBeta : Speculation::Exact;
  const Bytes text =
      arguments.file.empty() ? toBytes(kPrompt) : readText(arguments.file, interruption());
  const std::vector<ByteView> prompts =
      arguments.file.empty() ? std::vector<ByteView>{text} : promptsIn(text, arguments.acceptance);
  const SpeculationBenchmark result = benchmarkSpeculation(
      std::move(verifier), drafter, prompts, arguments.bytes, settings, arguments.options);
  std::printf(
      "%-10s %10.1f bytes/s  (min %.1f, max %.1f, %zu runs)  plain %.1f, ratio %.2f; "
      "accepted %.1f %%, %.2f bytes a round\n",
      "speculate", result.speculative.median(), result.speculative.least(),
      result.speculative.most(), result.speculative.values.size(), result.plain.median(),
      result.ratio.median(), 100 * result.totals.acceptance(), result.totals.bytesPerRound());
  const double rounds = static_cast<double>(result.totals.rounds);
  const double waits = rounds > 0 ? static_cast<double>(result.waits) / rounds : 0;
  if (waits > 0) std::printf("%-10s %10.2f waits for the device a round\n", "", waits);
  nlohmann::json json = describe(result.speculative);
  json["bytes_per_second"] = result.speculative.median();
  json["plain_bytes_per_second"] = result.plain.median();
  json["ratio_to_plain"] = result.ratio.median();
  json["waits_per_round"] = waits;
  json["totals"] =
      describeTotals(result.totals, arguments.bytes * prompts.size(), result.totals.times.total);
  json["settings"] = describeSettings(settings);
  return json;
}

/// What of the device's memory is in use now beyond `before`, beside the weights.
void printMemory(const DeviceMemory& before, const DeviceMemory& now, std::size_t weightBytes) {
  const auto megabytes = [](std::size_t bytes) { return static_cast<double>(bytes) * 1e-6; };
  std::printf("%-10s %10.1f MB of the device beyond the %.1f MB of its weights\n", "memory",
              megabytes(now.used) - megabytes(before.used) - megabytes(weightBytes),
              megabytes(weightBytes));
}

int benchTraining(const Arguments& arguments) {
  const std::string shape = arguments.shape.empty() ? "14M" : arguments.shape;
  TrainingDeviceOptions options = arguments.training;
  options.device = arguments.device.options();
  options.memory = static_cast<std::size_t>(arguments.memory * 1e9);
  const TrainingBenchmark result = benchmarkTraining(*namedShape(shape), options, arguments.stages,
                                                     arguments.options, interruption());
  std::printf("%s on %s, %zu streams of %zu tokens a step\n", shape.c_str(), result.device.c_str(),
              options.streams, options.segment);
  std::printf("%-10s %10.4f MB/s  (min %.4f, max %.4f, %zu runs)  device memory %.2f GB\n", "train",
              result.rate.median() * 1e-6, result.rate.least() * 1e-6, result.rate.most() * 1e-6,
              result.rate.values.size(), static_cast<double>(result.memory) * 1e-9);
  nlohmann::json json = describe(result.rate);
  json["unit"] = "tokens/s";
  json["device_memory_bytes"] = result.memory;
  for (const StageTime& stage : result.stages) {
    std::printf("  %-18s %9.3f ms\n", stage.stage.c_str(), 1e3 * stage.seconds);
    json["stage_seconds"][stage.stage] = stage.seconds;
  }
  writeJson(arguments.json,
            {{"manifest", {{"version", programVersion()}, {"shape", shape}}}, {"train", json}});
  return 0;
}

int bench(const Arguments& arguments) {
  if (arguments.what == "train") return benchTraining(arguments);
  ModelLoader loader(arguments.device.options());
  const std::stop_token stop = interruption();
  const std::optional<DeviceMemory> before = memoryOfCudaDevice(loader.cudaDevice());
  const auto model = arguments.shape.empty()
                         ? loader.open(modelFolder(arguments.model, "books"), stop)
                         : loader.openShape(arguments.shape, stop);
  const double bandwidth = loader.measureMemoryBandwidth();
  std::printf("%s on %s, weights %s, %.1f MB a step; memory read %.1f GB/s\n",
              model->info().name.c_str(), model->info().device.c_str(),
              nameOf(model->info().precision).c_str(),
              static_cast<double>(model->info().weightBytes) * 1e-6, bandwidth * 1e-9);
  nlohmann::json json = {
      {"manifest", {{"version", programVersion()}, {"model", describeModel(described(*model))}}},
      {"memory_read_bytes_per_second", bandwidth}};
  if (arguments.wants("decode"))
    json["decode"] = print(benchmarkDecode(*model, bandwidth, arguments.options));
  if (arguments.wants("prefill"))
    json["prefill"] = print(benchmarkPrefill(*model, bandwidth, arguments.options));
  if (arguments.wants("verify"))
    json["verify"] = print(benchmarkVerify(*model, bandwidth, arguments.options));
  const bool canSpeculate = model->config().isByteLevel() && arguments.shape.empty();
  if (arguments.what == "speculate" && !canSpeculate)
    throw RequestError("speculation is measured on real byte models; give --model, not --shape");
  if (arguments.wants("speculate") && canSpeculate)
    json["speculate"] = runSpeculation(arguments, loader, model);
  const std::optional<DeviceMemory> now = memoryOfCudaDevice(loader.cudaDevice());
  if (loader.kind() == DeviceKind::Cuda && before && now)
    printMemory(*before, *now, model->info().weightBytes);
  writeJson(arguments.json, json);
  return 0;
}

}  // namespace

Run addBench(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command =
      *app.add_subcommand("bench", "Measure decode, prefill, verify, speculate, train");
  command
      .add_option("what", arguments->what,
                  "decode, prefill, verify, speculate, train, or all but that")
      ->check(CLI::IsMember({"decode", "prefill", "verify", "speculate", "train", "all"}))
      ->capture_default_str();
  auto* model = command.add_option("--model", arguments->model, "Model folder; default bundled");
  command.add_option("--shape", arguments->shape, "Random weights of a published shape")
      ->check(CLI::IsMember({"4M", "14M", "20M", "130M", "353M", "972M", "1.6B"}))
      ->excludes(model);
  command.add_option("--draft", arguments->draft, "Drafter folder for speculate");
  command.add_option("--speculate", arguments->speculate, "exact or topb")
      ->check(CLI::IsMember({"exact", "topb"}))
      ->capture_default_str();
  command.add_option("--draft-tokens", arguments->settings.draftTokens, "m")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command.add_option("--draft-confidence", arguments->settings.leastConfidence, "See generate")
      ->check(Between(0.0, 1.0))
      ->capture_default_str();
  command.add_flag("!--whole-drafts", arguments->settings.cutsDrafts, "See generate");
  command.add_option("--temperature", arguments->settings.sampler.temperature, "See generate")
      ->check(Between(0.0, 100.0))
      ->capture_default_str();
  command.add_option("--file", arguments->file, "Text to take the prompts of speculate from");
  command
      .add_option("--prompts", arguments->acceptance.prompts, "Places of that text, evenly spread")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command
      .add_option("--bytes", arguments->bytes, "Bytes to write for speculate behind each prompt")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command.add_option("--prompt-length", arguments->options.prefillLength, "Bytes of prefill")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command.add_option("--verify-length", arguments->options.verifyLength, "Bytes of verify")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command.add_flag("--taps", arguments->options.taps.enabled,
                   "Report Δ, ‖s‖ and Ā in decode and prefill");
  command.add_option("--batch", arguments->training.streams, "Streams of train")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command
      .add_option("--length", arguments->training.segment, "Tokens of a stream in a step of train")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command
      .add_option("--memory", arguments->memory,
                  "GB of device memory that train should stay within")
      ->check(Between(0.0, 1e6));
  command.add_flag("--stages", arguments->stages, "What the stages of a step of train take");
  command.add_option("--repeat", arguments->options.repeats, "Samples, at least 5")
      ->check(CLI::Range(5, 1000))
      ->capture_default_str();
  command.add_option("--json", arguments->json, "File for all figures");
  arguments->device.addTo(command);
  return [arguments] { return bench(*arguments); };
}

}  // namespace mb::cli
