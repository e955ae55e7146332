// mambabyte tokenizer train: learns a tokenizer.json from text files.
#include <cstdio>

#include "app/mambabyte/command.h"
#include "engine/error.h"
#include "engine/file_io.h"
#include "engine/text_file.h"
#include "engine/tokenizer/bpe_trainer.h"

namespace mb::cli {

namespace {

using Clock = std::chrono::steady_clock;

struct Arguments {
  std::vector<std::string> files;
  std::string out;
  BpeTraining training{.vocabularySize = 4096};
  bool force = false;
};

/// What can be refused before the work is.
void expectPlaceFor(const Arguments& arguments) {
  expectWritable(arguments.out);
  if (!arguments.force && std::filesystem::is_regular_file(arguments.out))
    throw FileError(arguments.out, "exists already; --force replaces it");
}

std::vector<Bytes> readAll(const std::vector<std::string>& names, std::stop_token stop) {
  std::vector<Bytes> texts;
  for (const std::string& name : names) {
    texts.push_back(readText(name, stop));
    if (texts.back().empty())
      throw FormatError(name, "content", "text to learn from", "an empty file");
  }
  return texts;
}

void count(BpeTrainer& trainer, const std::vector<Bytes>& texts, std::stop_token stop) {
  std::uint64_t total = 0;
  for (const Bytes& text : texts) total += text.size();
  std::uint64_t before = 0;
  Progress progress("counted");
  for (const Bytes& text : texts) {
    trainer.add(
        text, [&](std::uint64_t done, std::uint64_t) { progress.show(before + done, total); },
        stop);
    before += text.size();
  }
}

BpeVocabulary learn(const BpeTrainer& trainer, std::stop_token stop) {
  Progress progress("learned", "tokens");
  return trainer.learn([&](std::uint64_t done, std::uint64_t total) { progress.show(done, total); },
                       stop);
}

void sayWhenFewer(std::size_t tokens, const BpeTraining& training) {
  if (tokens == training.vocabularySize) return;
  std::fprintf(stderr,
               "mambabyte: the text is enough for %zu tokens, not for %zu: no other pair within "
               "%zu bytes occurs %zu times\n",
               tokens, training.vocabularySize, training.longestToken, training.leastCount);
}

int train(const Arguments& arguments) {
  const std::stop_token stop = interruption();
  const Clock::time_point start = Clock::now();
  expectPlaceFor(arguments);
  BpeTrainer trainer(arguments.training);
  count(trainer, readAll(arguments.files, stop), stop);
  const BpeVocabulary vocabulary = learn(trainer, stop);
  writeFileAtomically(arguments.out, tokenizerJsonText(vocabulary));
  const std::chrono::duration<double> seconds = Clock::now() - start;
  sayWhenFewer(vocabulary.tokens.size(), arguments.training);
  std::printf(
      "tokens %zu\nbytes %llu\nbytes_per_token %.4f\nseconds %.3f\n", vocabulary.tokens.size(),
      static_cast<unsigned long long>(vocabulary.textBytes),
      static_cast<double>(vocabulary.textBytes) / static_cast<double>(vocabulary.textTokens),
      seconds.count());
  return 0;
}

void addTrainOptions(CLI::App& command, Arguments& arguments) {
  command.add_option("--file", arguments.files, "Text to learn from; may be given again")
      ->required()
      ->allow_extra_args(false);
  command.add_option("--out", arguments.out, "The tokenizer.json to write")->required();
  command.add_option("--vocabulary", arguments.training.vocabularySize, "Tokens wanted")
      ->check(CLI::Range(BpeTraining::kSmallestVocabulary, BpeTraining::kLargestVocabulary))
      ->capture_default_str();
  command.add_option("--least-count", arguments.training.leastCount, "Occurrences a token needs")
      ->check(AtLeast(1))
      ->capture_default_str();
  command
      .add_option("--longest-token", arguments.training.longestToken, "Bytes of a token at most")
      ->check(AtLeast(2))
      ->capture_default_str();
  command.add_flag("--force", arguments.force, "Replace the output if it exists");
}

}  // namespace

Run addTokenizer(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *app.add_subcommand("tokenizer", "Make tokenizers");
  command.require_subcommand(1);
  addTrainOptions(*command.add_subcommand(
                      "train", "Learn a byte-level BPE vocabulary, split as GPT-2 splits text"),
                  *arguments);
  return [arguments] { return train(*arguments); };
}

}  // namespace mb::cli
