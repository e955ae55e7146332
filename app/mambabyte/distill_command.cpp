// mambabyte distill: trains a drafter to write what a verifier would.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/mambabyte/train_command.h"
#include "engine/decoding/subword_drafter.h"
#include "engine/error.h"
#include "engine/evaluation/acceptance.h"
#include "engine/text_file.h"

namespace mb::cli {

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kSaveInterval = std::chrono::seconds(30);

struct Arguments {
  std::string verifier;
  std::vector<std::string> files;
  WritingOptions writing;
  GenerationSettings generation;
  AcceptanceOptions acceptance;
  bool countsText = false;
  TrainArguments training;
};

/// The verifier; on the CPU once for each thread, which writes more than one with all of them.
std::vector<std::shared_ptr<const Model>> openAuthors(const Arguments& arguments,
                                                      std::stop_token stop) {
  ModelLoader loader(arguments.training.device.options());
  const auto verifier = loader.open(modelFolder(arguments.verifier, "books"), stop);
  sayWhenGivenUp(loader);
  std::vector<std::shared_ptr<const Model>> authors;
  for (std::size_t i = 0; i < loader.pool()->size(); ++i)
    if (auto author = verifier->onOwnThread()) authors.push_back(std::move(author));
  if (authors.empty()) authors.push_back(verifier);
  return authors;
}

Bytes readAll(const std::vector<std::string>& files, std::stop_token stop) {
  Bytes text;
  for (const std::string& name : files) {
    const Bytes more = readText(name, stop);
    if (more.empty()) throw FormatError(name, "text", "at least one byte", "none");
    text.insert(text.end(), more.begin(), more.end());
  }
  return text;
}

/// Lets the verifier write what is missing of its text; keeps what there is should it be stopped.
std::filesystem::path letWrite(const Arguments& arguments, std::stop_token stop) {
  const Bytes text = readAll(arguments.files, stop);
  const auto authors = openAuthors(arguments, stop);
  const VerifierTextFile file(arguments.training.plan.folder, arguments.writing,
                              {{"files", arguments.files},
                               {"text_bytes", text.size()},
                               {"verifier", hashOfFiles(authors[0]->info().files)}});
  Bytes written = file.load();
  Progress progress("written");
  Clock::time_point saved = Clock::now();
  try {
    writeOn(
        written, text, arguments.writing, authors,
        [&](std::uint64_t done, std::uint64_t total) {
          progress.show(done, total);
          if (Clock::now() - saved < kSaveInterval) return;
          file.save(written);
          saved = Clock::now();
        },
        stop);
  } catch (const Stopped&) {
    file.save(written);
    throw;
  }
  file.save(written);
  return file.path();
}

/// How much of what the drafter in a folder proposes the verifier accepts.
SpeculationTotals acceptanceOf(const Arguments& arguments, const std::filesystem::path& drafter,
                               std::stop_token stop) {
  ModelLoader loader(arguments.training.device.options());
  const Bytes text = readText(arguments.training.plan.validation, stop);
  Progress progress("measured", "prompts");
  return measureAcceptance(
      loader.open(modelFolder(arguments.verifier, "books"), stop),
      openDrafter(loader, drafter, stop), text, arguments.generation, arguments.acceptance,
      [&](std::uint64_t done, std::uint64_t total) { progress.show(done, total); }, stop);
}

void print(const char* when, const SpeculationTotals& totals) {
  std::printf("acceptance_%s %.5f\nbytes_per_round_%s %.4f\n", when, totals.acceptance(), when,
              totals.bytesPerRound());
  std::fflush(stdout);
}

int distill(Arguments& arguments) {
  const std::stop_token stop = interruption();
  if (arguments.training.plan.model.empty() && arguments.training.plan.tokenizer.empty())
    throw RequestError("a drafter is a subword model: give --model, or --tokenizer for a new one");
  const bool measures = !arguments.training.plan.validation.empty();
  if (!arguments.writing.temperatures.empty())
    arguments.writing.sampler.temperature = arguments.writing.temperatures.front();
  arguments.generation.speculation = Speculation::Exact;
  arguments.generation.sampler = arguments.writing.sampler;
  if (measures && !arguments.training.plan.model.empty())
    print("before", acceptanceOf(arguments, arguments.training.plan.model, stop));
  arguments.training.plan.files = {letWrite(arguments, stop).string()};
  if (!arguments.countsText) arguments.training.plan.written = arguments.writing;
  const int status = train(arguments.training);
  if (measures)
    print("after",
          acceptanceOf(arguments,
                       std::filesystem::path(arguments.training.plan.folder) / "checkpoint", stop));
  return status;
}

}  // namespace

Run addDistill(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  TrainArguments& training = arguments->training;
  WritingOptions& writing = arguments->writing;
  CLI::App& command = *app.add_subcommand(
      "distill", "Train a drafter on what a verifier writes behind stretches of a text");
  command.add_option("--verifier", arguments->verifier, "Byte model; default the bundled one");
  command
      .add_option("--file", arguments->files,
                  "Text that the verifier goes on from, also .xz or .zst; several are joined")
      ->required();
  command.add_option("--validation", training.plan.validation,
                     "Text whose places are prompts to measure acceptance at, before and after");
  const auto count = [&](const char* name, auto& value, const char* what) {
    command.add_option(name, value, what)->check(AtLeast(1))->capture_default_str();
  };
  count("--bytes", writing.bytes, "That the verifier writes, in all");
  count("--read", writing.read, "Bytes of the text before each of its stretches");
  count("--write", writing.write, "Bytes of a stretch");
  count("--prompts", arguments->acceptance.prompts, "To measure acceptance with");
  command.add_option("--draft-tokens", arguments->generation.draftTokens, "m, to measure with")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command
      .add_option("--temperature", writing.temperatures,
                  "That the verifier draws with; 0, the default, is greedy. With several it takes "
                  "turns, and acceptance is measured at the first")
      ->check(Between(0.0, 100.0));
  command.add_flag("--count-text", arguments->countsText,
                   "The text's tokens count as those of the verifier do");
  addTrainingOptions(command, training);
  return [arguments] { return distill(*arguments); };
}

}  // namespace mb::cli
