// mambabyte eval: bits per byte and word perplexity of a file, or accuracy at a recipe.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/mambabyte/command.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/error.h"
#include "engine/evaluation/evaluation.h"
#include "engine/evaluation/recipe_accuracy.h"
#include "engine/export/run_export.h"

namespace mb::cli {

namespace {

struct Arguments {
  std::string model;
  std::string file;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint64_t context = 0;
  bool byPosition = false;
  const Recipe* recipe = nullptr;  ///< instead of a file
  std::vector<std::size_t> lengths;
  std::size_t examples = 100;
  std::uint64_t seed = 0;
  std::string json;
  DeviceArguments device;
};

ByteView rangeOf(const MappedFile& file, const Arguments& arguments) {
  const std::uint64_t size = file.bytes().size();
  if (arguments.offset >= size || arguments.bytes > size - arguments.offset) {
    throw FormatError(arguments.file, "range", "bytes within the file's " + std::to_string(size),
                      "offset " + std::to_string(arguments.offset) + ", " +
                          std::to_string(arguments.bytes) + " bytes");
  }
  const auto* data = reinterpret_cast<const Byte*>(file.bytes().data());
  return ByteView(data + arguments.offset,
                  arguments.bytes ? arguments.bytes : size - arguments.offset);
}

nlohmann::json describe(const std::vector<PositionBucket>& positions) {
  nlohmann::json json = nlohmann::json::array();
  for (const PositionBucket& bucket : positions)
    json.push_back({{"begin", bucket.begin},
                    {"end", bucket.end},
                    {"bytes", bucket.sum.bytes()},
                    {"bits_per_byte", bucket.sum.bitsPerByte()},
                    {"standard_error", bucket.sum.standardError()}});
  return json;
}

void print(const std::vector<PositionBucket>& positions) {
  for (const PositionBucket& bucket : positions)
    std::printf("bits_per_byte_to_%llu %.5f\n", static_cast<unsigned long long>(bucket.end),
                bucket.sum.bitsPerByte());
}

int evaluateFile(const Arguments& arguments) {
  const std::stop_token stop = interruption();
  const MappedFile file(arguments.file);
  const ByteView text = rangeOf(file, arguments);
  ModelLoader loader(arguments.device.options());
  const auto model = loader.open(modelFolder(arguments.model, "books"), stop);
  sayWhenGivenUp(loader);
  std::unique_ptr<const Tokenizer> tokenizer;
  if (!model->config().isByteLevel() && !model->info().tokenizer.empty())
    tokenizer = std::make_unique<const Tokenizer>(model->info().tokenizer);
  Evaluation result;
  {
    Progress progress("scored");
    result = evaluate(
        *model, tokenizer.get(), text,
        [&](std::uint64_t done, std::uint64_t total) { progress.show(done, total); }, stop,
        arguments.context);
  }
  std::printf(
      "bits_per_byte %.5f\nstandard_error %.5f\nword_perplexity %.3f\nbytes %llu\n"
      "bytes_per_second %.1f\n",
      result.bitsPerByte, result.standardError, result.wordPerplexity,
      static_cast<unsigned long long>(result.bytes), result.bytesPerSecond());
  if (arguments.byPosition) print(result.positions);
  writeJson(arguments.json, {{"bits_per_byte", result.bitsPerByte},
                             {"standard_error", result.standardError},
                             {"word_perplexity", result.wordPerplexity},
                             {"bytes", result.bytes},
                             {"words", result.words},
                             {"seconds", result.seconds},
                             {"bytes_per_second", result.bytesPerSecond()},
                             {"by_position", describe(result.positions)},
                             {"manifest",
                              {{"version", programVersion()},
                               {"model", describeModel(described(*model))},
                               {"file", arguments.file},
                               {"offset", arguments.offset},
                               {"context", arguments.context},
                               {"range_bytes", text.size()}}}});
  return 0;
}

int examine(const Arguments& arguments) {
  const std::stop_token stop = interruption();
  const Recipe& recipe = *arguments.recipe;
  ModelLoader loader(arguments.device.options());
  const auto model = loader.open(modelFolder(arguments.model, "books"), stop);
  sayWhenGivenUp(loader);
  nlohmann::json lengths = nlohmann::json::array();
  for (const std::size_t length :
       arguments.lengths.empty() ? recipe.testLengths : arguments.lengths) {
    Progress progress("read", "tokens");
    const Accuracy accuracy = measureAccuracy(
        *model, recipe, length, arguments.examples, arguments.seed,
        [&](std::uint64_t done, std::uint64_t total) { progress.show(done, total); }, stop);
    std::printf("accuracy_%zu %.5f\n", length, accuracy.share());
    std::fflush(stdout);
    lengths.push_back({{"length", length}, {"asked", accuracy.asked}, {"right", accuracy.right}});
  }
  writeJson(arguments.json, {{"recipe", recipe.name},
                             {"accuracy", lengths},
                             {"manifest",
                              {{"version", programVersion()},
                               {"model", describeModel(described(*model))},
                               {"examples", arguments.examples},
                               {"seed", arguments.seed}}}});
  return 0;
}

}  // namespace

Run addEval(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *app.add_subcommand(
      "eval",
      "Bits per byte of a file, the state carried through; its first byte is not scored. Or "
      "accuracy at a recipe of train");
  command.add_option("--model", arguments->model, "Model folder; default the bundled model");
  CLI::App& data = *command.add_option_group("data")->require_option(1);
  auto* file = data.add_option("--file", arguments->file, "File to score");
  auto* recipe =
      addRecipeOption(data, "Recipe to measure accuracy at",
                      [arguments](const Recipe& chosen) { arguments->recipe = &chosen; });
  command
      .add_option("--context", arguments->context,
                  "Bytes after which the state is emptied; default never")
      ->check(AtLeast(2))
      ->needs(file);
  command
      .add_flag("--by-position", arguments->byPosition,
                "Also bits per byte up to 64, 128, 256 … bytes behind an empty state")
      ->needs(file);
  command.add_option("--length", arguments->lengths, "Of an example; default those of the paper")
      ->check(AtLeast(1))
      ->needs(recipe);
  command.add_option("--examples", arguments->examples, "Examples of each length")
      ->check(AtLeast(1))
      ->needs(recipe)
      ->capture_default_str();
  command.add_option("--seed", arguments->seed, "Of the examples, which differ from train's")
      ->check(AtLeast(0))
      ->needs(recipe)
      ->capture_default_str();
  command.add_option("--offset", arguments->offset, "First byte of the range")
      ->needs(file)
      ->check(AtLeast(0))
      ->capture_default_str();
  command.add_option("--bytes", arguments->bytes, "Length of the range; default to the end")
      ->needs(file)
      ->check(AtLeast(1));
  command.add_option("--json", arguments->json, "File for the result and its manifest");
  arguments->device.addTo(command);
  return [arguments] { return arguments->recipe ? examine(*arguments) : evaluateFile(*arguments); };
}

}  // namespace mb::cli
