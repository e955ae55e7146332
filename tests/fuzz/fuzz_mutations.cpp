// Damages valid files in many ways and checks that the loaders take each or refuse it, and nothing
// else. Needs no clang. See README.md.
#include <CLI/CLI.hpp>
#include <cinttypes>
#include <cstdio>
#include <string>
#include <vector>

#include "tests/fuzz/campaign.h"

namespace {

using namespace mb::fuzz;

struct Arguments {
  CampaignOptions campaign;
  std::uint64_t runs = 4000;
  std::vector<std::string> targets;
  std::uint64_t only = 0;
  std::string input;
};

std::vector<const Target*> chosenTargets(const std::vector<std::string>& names) {
  std::vector<const Target*> chosen;
  for (const std::string& name : names) chosen.push_back(findTarget(name));
  if (names.empty())
    for (const Target& target : targets()) chosen.push_back(&target);
  return chosen;
}

/// The share of all runs by weight, at least one.
std::uint64_t runsOf(const Target& target, const std::vector<const Target*>& chosen,
                     std::uint64_t runs) {
  std::uint64_t weights = 0;
  for (const Target* other : chosen) weights += other->weight;
  return std::max<std::uint64_t>(1, (runs * target.weight + weights - 1) / weights);
}

void print(const Target& target, const CampaignResult& result, std::uint64_t seed) {
  std::printf("%-18s %9" PRIu64 " %9" PRIu64 " %9" PRIu64 " %8zu %8.1f %9.1f %10" PRIu64 " %6zu\n",
              std::string(target.name).c_str(), result.accepted + result.refused, result.accepted,
              result.refused, result.failures.size(), result.seconds, 1e3 * result.slowestSeconds,
              result.slowest, result.peakBytes >> 20);
  for (const Failure& failure : result.failures) {
    std::printf(
        "  FAILED: %s\n    input kept as %s; again: fuzz_mutations --target %s --seed %" PRIu64
        " --only %" PRIu64 "\n",
        failure.what.c_str(), failure.file.c_str(), std::string(target.name).c_str(), seed,
        failure.index);
  }
  std::fflush(stdout);
}

int runAll(Arguments& arguments) {
  const std::vector<const Target*> chosen = chosenTargets(arguments.targets);
  std::printf("seed %" PRIu64 "\n%-18s %9s %9s %9s %8s %8s %9s %10s %6s\n", arguments.campaign.seed,
              "target", "inputs", "accepted", "refused", "failed", "seconds", "slowest/ms",
              "its index", "MiB");
  std::uint64_t inputs = 0;
  std::size_t failures = 0;
  double seconds = 0;
  for (const Target* target : chosen) {
    arguments.campaign.runs = runsOf(*target, chosen, arguments.runs);
    const CampaignResult result = runCampaign(*target, arguments.campaign);
    print(*target, result, arguments.campaign.seed);
    inputs += result.accepted + result.refused;
    failures += result.failures.size();
    seconds += result.seconds;
  }
  std::printf("%" PRIu64 " inputs without a failure, %zu failures, %.1f s\n", inputs, failures,
              seconds);
  return failures == 0 ? 0 : 1;
}

/// Runs one input in this process, for a debugger.
int runOne(const Target& target, const Sample& sample) {
  const ScratchFolder scratch;
  std::printf("%s, %s input of %zu bytes\n", std::string(target.name).c_str(), sample.name.c_str(),
              sample.input.size());
  std::fflush(stdout);
  const Outcome outcome = tryInput(target, sample.input, scratch);
  std::printf("%s\n", outcome.accepted ? "accepted" : ("refused: " + outcome.message).c_str());
  if (outcome.problem.empty()) return 0;
  std::printf("FAILED: %s\n", outcome.problem.c_str());
  return 1;
}

std::vector<std::string> targetNames() {
  std::vector<std::string> names;
  for (const Target& target : targets()) names.emplace_back(target.name);
  return names;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Runs damaged files through the loaders");
  Arguments arguments;
  arguments.campaign.failureFolder = "fuzz-failures";
  app.add_option("--runs", arguments.runs, "Mutated inputs over all targets")
      ->capture_default_str();
  app.add_option("--seed", arguments.campaign.seed, "Same seed, same inputs")
      ->capture_default_str();
  app.add_option("--target", arguments.targets, "Only these")->check(CLI::IsMember(targetNames()));
  app.add_option("--failures", arguments.campaign.failureFolder, "Where failing inputs are kept")
      ->capture_default_str();
  app.add_option("--hang-seconds", arguments.campaign.hangSeconds, "Longer than this is a hang")
      ->capture_default_str();
  app.add_option("--most-failures", arguments.campaign.mostFailures, "Give a target up after these")
      ->capture_default_str();
  auto* only = app.add_option("--only", arguments.only, "Run this input alone, unprotected");
  auto* input = app.add_option("--input", arguments.input, "Run this file alone, unprotected");
  CLI11_PARSE(app, argc, argv);
  if (!*only && !*input) return runAll(arguments);
  if (arguments.targets.size() != 1) {
    std::fprintf(stderr, "fuzz_mutations: --only and --input need one --target\n");
    return 2;
  }
  const Target& target = *findTarget(arguments.targets.front());
  if (*input) return runOne(target, {arguments.input, readWhole(arguments.input)});
  return runOne(target, Inputs(target, arguments.campaign.seed).at(arguments.only));
}
