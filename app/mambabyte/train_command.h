// What training and distilling from the command line share.
#pragma once

#include <string>

#include "app/mambabyte/command.h"
#include "engine/training/training_plan.h"

namespace mb::cli {

struct TrainArguments {
  TrainingPlan plan;
  std::string shape = "14M";
  std::size_t width = 0;
  std::size_t layers = 0;
  std::string schedule = "cosine";
  std::string samplePrompt;
  bool forget = false;
  DeviceArguments device;
  double memory = 0;                   ///< GB
  const CLI::Option* steps = nullptr;  ///< --steps, which may not be given
};

/// Options of the model, the optimiser and the run.
void addTrainingOptions(CLI::App& command, TrainArguments& arguments);

/// Trains; says on standard output what came of it. Throws what the engine throws.
int train(const TrainArguments& arguments);

}  // namespace mb::cli
