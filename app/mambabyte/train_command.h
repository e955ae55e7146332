// What training and distilling from the command line share.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "app/mambabyte/command.h"
#include "engine/training/trainer.h"
#include "engine/training/verifier_text.h"

namespace mb::cli {

struct TrainArguments {
  std::vector<std::string> files;
  const Recipe* recipe = nullptr;  ///< instead of files
  std::string validation;
  std::string out;
  std::string model;
  std::string shape = "14M";
  std::size_t width = 0;
  std::size_t layers = 0;
  std::string tokenizer;
  std::string schedule = "cosine";
  TrainingOptions options;
  double minutes = 0;
  std::uint64_t checkpointEvery = 100;
  std::uint64_t validateEvery = 100;
  std::size_t validationTokens = 65536;
  std::size_t examples = 100;
  std::size_t threads = 0;
  bool forget = false;
  bool resume = false;
  /// The files are of the verifier's text, of which only what it wrote counts.
  std::optional<WritingOptions> written;
};

/// Options of the model, the optimiser and the run.
void addTrainingOptions(CLI::App& command, TrainArguments& arguments);

/// Trains; says on standard output what came of it. Throws what the engine throws.
int train(TrainArguments& arguments);

}  // namespace mb::cli
