// mambabyte train: trains a model on texts, in a folder from which the run can go on.
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "app/mambabyte/command.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/error.h"
#include "engine/export/run_export.h"
#include "engine/file_io.h"
#include "engine/model/random_weights.h"
#include "engine/text_file.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/training/trainer.h"
#include "engine/training/training_devices.h"

namespace mb::cli {

namespace {

using Clock = std::chrono::steady_clock;

struct Arguments {
  std::vector<std::string> files;
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
  DeviceArguments device;
  double memory = 0;
  bool forget = false;
  bool resume = false;
};

double secondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// The text of all files, one after the other, in the model's tokens.
std::vector<Token> readTokens(std::span<const std::string> files, const Tokenizer* tokenizer,
                              std::stop_token stop) {
  std::vector<Token> tokens;
  for (const std::string& name : files) {
    const Bytes bytes = readText(name, stop);
    if (bytes.empty()) throw FormatError(name, "text", "at least one byte", "none");
    if (tokenizer) {
      const std::vector<Token> more = tokenizer->encode(bytes, stop);
      tokens.insert(tokens.end(), more.begin(), more.end());
    } else {
      tokens.insert(tokens.end(), bytes.begin(), bytes.end());
    }
  }
  return tokens;
}

/// What is trained: a model to go on from, or a shape to begin anew.
struct Start {
  ModelConfig config;
  std::filesystem::path tokenizer;  ///< empty for bytes
  std::filesystem::path from;       ///< model folder, or empty
};

Start startOf(const Arguments& arguments) {
  Start start;
  start.tokenizer = arguments.tokenizer;
  if (!arguments.model.empty()) {
    const Checkpoint checkpoint(arguments.model);
    start.config = checkpoint.config();
    start.from = arguments.model;
    if (start.tokenizer.empty()) start.tokenizer = checkpoint.tokenizerFile();
  } else {
    start.config = *namedShape(arguments.shape);
    if (arguments.width > 0) {
      start.config.dModel = arguments.width;
      start.config.dInner = 2 * arguments.width;
      start.config.dtRank = (arguments.width + 15) / 16;
    }
    if (arguments.layers > 0) start.config.layers = arguments.layers;
    start.config.vocabSize = start.tokenizer.empty() ? kByteVocabulary : 0;  // or its tokenizer's
  }
  if (start.config.isByteLevel()) start.tokenizer.clear();
  return start;
}

std::unique_ptr<const Tokenizer> tokenizerOf(Start& start) {
  if (start.tokenizer.empty()) {
    if (start.config.isByteLevel()) return nullptr;
    throw RequestError("a subword model needs its tokenizer: give --tokenizer");
  }
  auto tokenizer = std::make_unique<const Tokenizer>(start.tokenizer);
  if (start.from.empty()) start.config.vocabSize = tokenizer->vocabularySize();
  if (tokenizer->vocabularySize() > start.config.vocabSize)
    throw RequestError("the tokenizer has " + std::to_string(tokenizer->vocabularySize()) +
                       " tokens, the model only " + std::to_string(start.config.vocabSize));
  return tokenizer;
}

/// The folder of a run: how it was started, a line for every step, and the newest checkpoint.
class RunFolder {
 public:
  RunFolder(const Arguments& arguments, std::filesystem::path tokenizer)
      : m_folder(arguments.out), m_tokenizer(std::move(tokenizer)) {
    const bool holdsRun = std::filesystem::exists(Trainer::newest(checkpoint()));
    if (holdsRun && !arguments.resume)
      throw RequestError(m_folder.string() +
                         " holds a run; give --resume to go on with it, or another --out");
    if (!holdsRun && arguments.resume)
      throw FileError(m_folder, "holds no checkpoint to go on from");
    std::error_code error;
    std::filesystem::create_directories(m_folder, error);
    if (error) throw FileError(m_folder, "cannot be made: " + error.message());
    m_log.open(m_folder / "log.jsonl", std::ios::app);
    if (!m_log) throw FileError(m_folder / "log.jsonl", "cannot be written");
  }

  std::filesystem::path checkpoint() const { return m_folder / "checkpoint"; }

  void log(const nlohmann::json& line) {
    m_log << line.dump() << std::endl;
    if (!m_log) throw FileError(m_folder / "log.jsonl", "cannot be written");
  }
  void describe(const nlohmann::json& run) const {
    writeFileAtomically(m_folder / "run.json", run.dump(2) + "\n");
  }
  void save(const Trainer& trainer) const {
    trainer.save(checkpoint());
    if (!m_tokenizer.empty())
      writeFileAtomically(checkpoint() / "tokenizer.json", readTextFile(m_tokenizer, 64u << 20));
  }

 private:
  std::filesystem::path m_folder;
  std::filesystem::path m_tokenizer;
  std::ofstream m_log;
};

std::string timeLeft(double seconds) {
  if (seconds < 90) return std::to_string(static_cast<int>(seconds)) + " s left";
  if (seconds < 90 * 60) return std::to_string(static_cast<int>(seconds / 60 + 0.5)) + " min left";
  return std::to_string(static_cast<int>(seconds / 3600 + 0.5)) + " h left";
}

/// Trains until the steps are done, the time is up or the run is interrupted, with a checkpoint at
/// the end whichever it is.
class Training {
 public:
  Training(const Arguments& arguments, Trainer& trainer, RunFolder& folder, TokenView validation)
      : m_arguments(arguments), m_trainer(trainer), m_folder(folder), m_validation(validation) {}

  void run(std::stop_token stop) {
    const std::uint64_t first = m_trainer.steps();
    try {
      while (!m_trainer.isDone() && !isTimeUp()) {
        const TrainingStep step = m_trainer.step(stop);
        report(step, first);
        if (step.step % m_arguments.validateEvery == 0) validate(stop);
        if (step.step % m_arguments.checkpointEvery == 0) m_folder.save(m_trainer);
      }
      validate(stop);
    } catch (const Stopped&) {
      m_folder.save(m_trainer);
      std::fprintf(stderr, "kept after step %llu; --resume goes on from there\n",
                   static_cast<unsigned long long>(m_trainer.steps()));
      throw;
    } catch (const DivergedError&) {
      m_folder.save(m_trainer);
      throw;
    }
    m_folder.save(m_trainer);
    std::printf("steps %llu\nbits_per_token %.5f\n",
                static_cast<unsigned long long>(m_trainer.steps()), m_last.bits);
    if (!m_validation.empty()) std::printf("validation_bits_per_token %.5f\n", m_validationBits);
    std::printf("model %s\n", m_folder.checkpoint().c_str());
  }

 private:
  bool isTimeUp() const {
    return m_arguments.minutes > 0 && secondsSince(m_start) >= 60 * m_arguments.minutes;
  }

  void report(const TrainingStep& step, std::uint64_t first) {
    m_last = step;
    const double seconds = secondsSince(m_start);
    const double rate = static_cast<double>(step.step - first) / seconds;
    const double tokens = rate * static_cast<double>(step.tokens) / static_cast<double>(step.step);
    m_folder.log({{"step", step.step},
                  {"tokens", step.tokens},
                  {"bits_per_token", step.bits},
                  {"gradient_norm", step.gradientNorm},
                  {"learning_rate", step.learningRate},
                  {"seconds", seconds},
                  {"tokens_per_second", tokens}});
    if (seconds - m_reported < 1 && !m_trainer.isDone()) return;
    m_reported = seconds;
    double left = static_cast<double>(m_arguments.options.steps - step.step) / rate;
    if (m_arguments.minutes > 0) left = std::min(left, 60 * m_arguments.minutes - seconds);
    std::fprintf(stderr,
                 "step %llu of %llu: %.4f bits a token, learning rate %.2e, %.0f tokens/s, %s\n",
                 static_cast<unsigned long long>(step.step),
                 static_cast<unsigned long long>(m_arguments.options.steps), step.bits,
                 step.learningRate, tokens, timeLeft(std::max(0.0, left)).c_str());
  }

  void validate(std::stop_token stop) {
    if (m_validation.empty() || m_validated == m_trainer.steps()) return;
    m_validated = m_trainer.steps();
    m_validationBits = m_trainer.validate(m_validation, stop);
    m_folder.log({{"step", m_trainer.steps()}, {"validation_bits_per_token", m_validationBits}});
    std::fprintf(stderr, "validation after step %llu: %.4f bits a token\n",
                 static_cast<unsigned long long>(m_trainer.steps()), m_validationBits);
  }

  const Arguments& m_arguments;
  Trainer& m_trainer;
  RunFolder& m_folder;
  TokenView m_validation;
  Clock::time_point m_start = Clock::now();
  TrainingStep m_last;
  double m_validationBits = 0;
  double m_reported = -1;
  std::uint64_t m_validated = ~std::uint64_t{0};
};

int train(Arguments& arguments) {
  const std::stop_token stop = interruption();
  arguments.options.schedule = arguments.schedule == "linear" ? Schedule::Linear : Schedule::Cosine;
  arguments.options.carryState = !arguments.forget;
  Start start = startOf(arguments);
  const std::unique_ptr<const Tokenizer> tokenizer = tokenizerOf(start);
  const std::vector<Token> text = readTokens(arguments.files, tokenizer.get(), stop);
  std::vector<Token> validation;
  if (!arguments.validation.empty())
    validation = readTokens({&arguments.validation, 1}, tokenizer.get(), stop);
  validation.resize(std::min(validation.size(), arguments.validationTokens));
  if (validation.size() == 1)
    throw FormatError(arguments.validation, "text to validate with", "at least 2 tokens", "one");

  const ParameterLayout layout(start.config);
  checkOptions(arguments.options);
  cpu::ThreadPool pool(arguments.device.threads);
  ChosenTrainingDevice chosen =
      makeTrainingDevice(layout,
                         start.from.empty() ? initialParameters(layout, arguments.options.seed)
                                            : readParameters(layout, Checkpoint(start.from)),
                         {.streams = arguments.options.streams,
                          .segment = arguments.options.segment,
                          .device = arguments.device.options(),
                          .memory = static_cast<std::size_t>(arguments.memory * 1e9)},
                         pool);
  const std::string device = chosen.device->name() + " (" + chosen.reason + ")";
  Trainer trainer(layout, text, arguments.options, std::move(chosen.device));
  RunFolder folder(arguments, start.tokenizer);
  if (arguments.resume) trainer.resume(Trainer::newest(folder.checkpoint()));
  folder.describe({{"version", programVersion()},
                   {"files", arguments.files},
                   {"validation", arguments.validation},
                   {"model", arguments.model},
                   {"parameters", layout.size()},
                   {"tokens", text.size()},
                   {"device", device}});
  std::fprintf(stderr, "%.2f million parameters, %zu tokens of text, on %s\n",
               static_cast<double>(layout.size()) * 1e-6, text.size(), device.c_str());
  Training(arguments, trainer, folder, validation).run(stop);
  return 0;
}

}  // namespace

Run addTrain(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  TrainingOptions& options = arguments->options;
  CLI::App& command = *app.add_subcommand("train", "Train a model on texts");
  command
      .add_option("--file", arguments->files,
                  "Text to train on, also .xz or .zst; several are joined")
      ->required();
  command.add_option("--validation", arguments->validation, "Text to validate with");
  command.add_option("--out", arguments->out, "Folder of the run")->required();
  auto* model = command.add_option("--model", arguments->model, "Model folder to go on from");
  command.add_option("--shape", arguments->shape, "Shape of a new model")
      ->check(CLI::IsMember({"4M", "14M", "20M", "130M", "353M", "972M", "1.6B"}))
      ->excludes(model)
      ->capture_default_str();
  command.add_option("--width", arguments->width, "d of a new model, in place of the shape's")
      ->check(CLI::Range(2, 16384))
      ->excludes(model);
  command.add_option("--layers", arguments->layers, "L of a new model")
      ->check(CLI::Range(1, 1024))
      ->excludes(model);
  command.add_option("--tokenizer", arguments->tokenizer, "tokenizer.json of a subword model");
  const auto count = [&](const char* name, auto& value, const char* what) {
    command.add_option(name, value, what)->check(AtLeast(1))->capture_default_str();
  };
  count("--steps", options.steps, "Steps of the optimiser");
  count("--segment", options.segment, "Tokens of a stream in a step");
  count("--streams", options.streams, "Places of the text that are read side by side");
  count("--accumulate", options.accumulate, "Segments of each stream in a step");
  count("--checkpoint-every", arguments->checkpointEvery, "Steps from one to the next");
  count("--validate-every", arguments->validateEvery, "Steps from one to the next");
  count("--validation-tokens", arguments->validationTokens, "Most that are validated with");
  const auto number = [&](const char* name, double& value, double most, const char* what) {
    command.add_option(name, value, what)->check(Between(0.0, most))->capture_default_str();
  };
  number("--learning-rate", options.learningRate, 1, "The highest");
  number("--final-share", options.finalShare, 1, "Of the learning rate, at the end");
  number("--weight-decay", options.weightDecay, 10, "Of AdamW");
  number("--beta1", options.beta1, 0.999999, "Of AdamW");
  number("--beta2", options.beta2, 0.999999, "Of AdamW");
  number("--clip", options.clip, 1e9, "Largest norm of the gradient; 0 does not clip");
  number("--minutes", arguments->minutes, 1e6, "Stop after so long; 0 for no limit");
  command.add_option("--warm-up", options.warmUp, "Steps in which the learning rate rises")
      ->check(AtLeast(0))
      ->capture_default_str();
  command.add_option("--schedule", arguments->schedule, "cosine or linear")
      ->check(CLI::IsMember({"cosine", "linear"}))
      ->capture_default_str();
  command.add_flag("--forget", arguments->forget,
                   "Begin every segment with an empty state, anywhere in the text");
  command.add_option("--seed", options.seed, "Of the weights and of --forget")
      ->check(AtLeast(0))
      ->capture_default_str();
  command
      .add_option("--memory", arguments->memory,
                  "GB of device memory to stay within if possible; 0 takes what is free")
      ->check(Between(0.0, 1e6));
  arguments->device.addTo(command);
  command.add_flag("--resume", arguments->resume, "Go on with the run in --out");
  return [arguments] { return train(*arguments); };
}

}  // namespace mb::cli
