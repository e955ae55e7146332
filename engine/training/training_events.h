// What happens in a training run, for whoever watches it.
#pragma once

#include <cstdint>
#include <optional>
#include <variant>

#include "engine/training/trainer.h"
#include "engine/types.h"

namespace mb {

/// The run is ready to take steps.
struct TrainingStarted {
  std::size_t parameters = 0;
  std::size_t tokens = 0;  ///< of the text
  std::size_t validationTokens = 0;
  std::size_t threads = 0;
  std::string device = {};  ///< that trains, and why that one
  double bytesPerToken = 1;
  std::uint64_t step = 0;   ///< done already
  std::uint64_t steps = 0;  ///< in all; 0 while they are to be fitted into the time
  std::optional<double> validationBits = {};  ///< a token, of a run that goes on
};

/// How many steps fit into the time, by what the first ones took.
struct TrainingFitted {
  std::uint64_t steps = 0;
  double secondsPerStep = 0;
  double passes = 0;  ///< over the text
};

struct TrainingStepped {
  TrainingStep step;
  double bitsPerByte = 0;
  double seconds = 0;  ///< since the run began, pauses left out
  double tokensPerSecond = 0;
  double bytesPerSecond = 0;
  double secondsLeft = 0;
};

struct TrainingValidated {
  std::uint64_t step = 0;
  double bits = 0;  ///< a token
  double bitsPerByte = 0;
};

/// Of a recipe.
struct TrainingExamined {
  std::uint64_t step = 0;
  double accuracy = 0;  ///< share of the answers that are right
};

struct TrainingSampled {
  std::uint64_t step = 0;
  Bytes text;                   ///< prompt included
  std::size_t promptBytes = 0;  ///< of it
};

using TrainingEvent = std::variant<TrainingStarted, TrainingFitted, TrainingStepped,
                                   TrainingValidated, TrainingExamined, TrainingSampled>;

}  // namespace mb
