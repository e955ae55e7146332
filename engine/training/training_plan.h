// What is to be trained, on which texts, for how long: what a run is started with, and its files
// read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <stop_token>
#include <vector>

#include "engine/model/devices.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/training/recipe.h"
#include "engine/training/trainer.h"
#include "engine/training/verifier_text.h"
#include "engine/types.h"

namespace mb {

/// When something is done again: after so many steps or so many seconds, whichever comes first.
/// Zero never. Reports by the clock come less often where they would take over a tenth of the time.
struct Rhythm {
  std::uint64_t steps = 0;
  double seconds = 0;
};

struct TrainingPlan {
  std::vector<std::filesystem::path> files;  ///< texts that are joined; also .xz or .zst
  /// The file is a verifier's text, of which only what it wrote itself counts.
  std::optional<WritingOptions> written;
  const Recipe* recipe = nullptr;    ///< to train on instead of files
  std::size_t examples = 100;        ///< of the recipe, to measure accuracy with
  std::filesystem::path validation;  ///< text to validate with, or empty
  double heldOut = 0;                ///< share of the texts' end to validate with instead
  std::filesystem::path model;       ///< to go on from; empty begins anew
  ModelConfig shape;                 ///< of a new model; no vocabulary: the tokenizer's
  std::filesystem::path tokenizer;   ///< of a new subword model, or for the model's own
  std::filesystem::path folder;      ///< of the run
  bool resume = false;               ///< goes on with the run in the folder
  TrainingOptions options;
  double minutes = 0;  ///< most; 0 for no limit
  /// Takes as many steps as will fit into the minutes, by the time that the first ones take here.
  bool fitSteps = false;
  Rhythm checkpoints{.steps = 100};
  Rhythm validations{.steps = 100};
  Rhythm samples;
  bool reportAtStart = false;            ///< validates, and writes a sample, before the first step
  std::size_t validationTokens = 65536;  ///< most
  std::size_t sampleTokens = 160;
  Bytes samplePrompt;       ///< empty takes the beginning of the validation text
  std::size_t threads = 0;  ///< of the CPU; 0 takes all
  DeviceOptions device;     ///< that trains
  std::size_t memory = 0;   ///< bytes of a device to stay within if possible; 0: all
};

/// The plan as run.json holds it.
nlohmann::json describe(const TrainingPlan& plan);
/// The plan that goes on with the run in a folder, whatever became of the model it began with.
/// Throws FileError, or FormatError when run.json is not what describe() makes.
TrainingPlan planToResume(const std::filesystem::path& folder);

/// A plan's files.
struct TrainingMaterial {
  ModelConfig config;
  std::filesystem::path tokenizerFile;         ///< empty for bytes
  std::unique_ptr<const Tokenizer> tokenizer;  ///< null for bytes
  std::vector<Token> text;                     ///< none for a recipe
  std::vector<std::uint8_t> counts;  ///< of the text's tokens, those that do; empty when all do
  std::vector<Token> validation;
  double bytesPerToken = 1;            ///< of the text
  double validationBytesPerToken = 1;  ///< of what is predicted in the validation text

  /// The bytes that tokens stand for.
  Bytes bytesOf(TokenView tokens) const;
};

/// Throws FileError, FormatError, Stopped, or RequestError when model, tokenizer and text do not
/// fit each other.
TrainingMaterial readMaterial(const TrainingPlan& plan, std::stop_token stop);

/// What the trainer reads. The material must outlive it. Throws RequestError when it is too short.
std::unique_ptr<const DataSource> sourceOf(const TrainingPlan& plan,
                                           const TrainingMaterial& material);

}  // namespace mb
