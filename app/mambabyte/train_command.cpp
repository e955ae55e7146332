// mambabyte train: trains a model on texts, in a folder from which the run can go on.
#include "app/mambabyte/train_command.h"

#include <cstdio>

#include "engine/error.h"
#include "engine/model/random_weights.h"
#include "engine/training/training_session.h"

namespace mb::cli {

namespace {

ModelConfig newShape(const TrainArguments& arguments) {
  const Recipe* recipe = arguments.plan.recipe;
  const ModelConfig shape = recipe ? recipe->config : *namedShape(arguments.shape);
  const std::size_t width = arguments.width > 0 ? arguments.width : shape.dModel;
  const std::size_t layers = arguments.layers > 0 ? arguments.layers : shape.layers;
  if (recipe) return mb::shapeOf(width, layers, shape.vocabSize);
  return mb::shapeOf(width, layers, arguments.plan.tokenizer.empty() ? kByteVocabulary : 0);
}

TrainingPlan planOf(const TrainArguments& arguments) {
  TrainingPlan plan = arguments.plan;
  plan.options.schedule = arguments.schedule == "linear" ? Schedule::Linear : Schedule::Cosine;
  plan.options.carryState = !arguments.forget && !plan.recipe;
  plan.fitSteps = plan.minutes > 0 && arguments.steps->count() == 0;
  plan.samplePrompt = toBytes(arguments.samplePrompt);
  plan.shape = newShape(arguments);
  plan.device = arguments.device.options();
  plan.threads = plan.device.threads;
  plan.memory = static_cast<std::size_t>(arguments.memory * 1e9);
  return plan;
}

std::string timeLeft(double seconds) {
  if (seconds < 90) return std::to_string(static_cast<int>(seconds)) + " s left";
  if (seconds < 90 * 60) return std::to_string(static_cast<int>(seconds / 60 + 0.5)) + " min left";
  return std::to_string(static_cast<int>(seconds / 3600 + 0.5)) + " h left";
}

unsigned long long printable(std::uint64_t number) {
  return number;
}

/// Says what happens, and at the end what came of it.
class Report {
 public:
  void operator()(const TrainingEvent& event) {
    std::visit([this](const auto& happened) { show(happened); }, event);
  }

  void summarise(const TrainingSession& session) const {
    std::printf("steps %llu\nbits_per_token %.5f\n", printable(session.steps()), m_bits);
    if (m_validation) std::printf("validation_bits_per_token %.5f\n", *m_validation);
    if (m_accuracy) std::printf("accuracy %.5f\n", *m_accuracy);
    std::printf("model %s\n", session.checkpoint().c_str());
    std::fprintf(stderr,
                 "to ship it in about half the size: mambabyte convert --model %s --out FOLDER\n",
                 session.checkpoint().c_str());
  }

 private:
  void show(const TrainingStarted& started) {
    m_steps = started.steps;
    m_validation = started.validationBits;
    std::fprintf(stderr, "%.2f million parameters, %zu tokens of text, on %s\n",
                 static_cast<double>(started.parameters) * 1e-6, started.tokens,
                 started.device.c_str());
  }
  void show(const TrainingFitted& fitted) {
    m_steps = fitted.steps;
    std::fprintf(stderr, "a step takes %.2f s: %llu steps fit, %.2f passes over the text\n",
                 fitted.secondsPerStep, printable(fitted.steps), fitted.passes);
  }
  void show(const TrainingStepped& stepped) {
    m_bits = stepped.step.bits;
    if (stepped.seconds - m_shown < 1 && stepped.step.step < m_steps) return;
    m_shown = stepped.seconds;
    std::fprintf(
        stderr, "step %llu of %llu: %.4f bits a token, learning rate %.2e, %.0f tokens/s, %s\n",
        printable(stepped.step.step), printable(m_steps), m_bits, stepped.step.learningRate,
        stepped.tokensPerSecond, timeLeft(stepped.secondsLeft).c_str());
  }
  void show(const TrainingValidated& validated) {
    m_validation = validated.bits;
    std::fprintf(stderr, "validation after step %llu: %.4f bits a token\n",
                 printable(validated.step), validated.bits);
  }
  void show(const TrainingExamined& examined) {
    m_accuracy = examined.accuracy;
    std::fprintf(stderr, "accuracy after step %llu: %.4f\n", printable(examined.step),
                 examined.accuracy);
  }
  void show(const TrainingSampled& sampled) {
    std::fprintf(stderr, "sample after step %llu: %.*s\n", printable(sampled.step),
                 static_cast<int>(sampled.text.size()),
                 reinterpret_cast<const char*>(sampled.text.data()));
  }

  std::uint64_t m_steps = 0;
  double m_bits = 0;
  std::optional<double> m_validation;
  std::optional<double> m_accuracy;
  double m_shown = -1;
};

}  // namespace

int train(const TrainArguments& arguments) {
  const std::stop_token stop = interruption();
  Report report;
  TrainingSession session(planOf(arguments), std::ref(report), stop);
  try {
    session.run(stop);
  } catch (const Stopped&) {
    session.save();
    std::fprintf(stderr, "kept after step %llu; --resume goes on from there\n",
                 printable(session.steps()));
    throw;
  }
  report.summarise(session);
  return 0;
}

void addTrainingOptions(CLI::App& command, TrainArguments& arguments) {
  TrainingPlan& plan = arguments.plan;
  TrainingOptions& options = plan.options;
  command.add_option("--out", plan.folder, "Folder of the run")->required();
  auto* model = command.add_option("--model", plan.model, "Model folder to go on from");
  command.add_option("--shape", arguments.shape, "Shape of a new model")
      ->check(CLI::IsMember({"4M", "14M", "20M", "130M", "353M", "972M", "1.6B"}))
      ->excludes(model)
      ->capture_default_str();
  command.add_option("--width", arguments.width, "d of a new model, in place of the shape's")
      ->check(CLI::Range(2, 16384))
      ->excludes(model);
  command.add_option("--layers", arguments.layers, "L of a new model")
      ->check(CLI::Range(1, 1024))
      ->excludes(model);
  command.add_option("--tokenizer", plan.tokenizer, "tokenizer.json of a subword model");
  const auto count = [&](const char* name, auto& value, const char* what) {
    return command.add_option(name, value, what)->check(AtLeast(1))->capture_default_str();
  };
  arguments.steps =
      count("--steps", options.steps, "Steps of the optimiser; with --minutes as many as fit");
  count("--segment", options.segment, "Tokens of a stream in a step, or length of an example");
  count("--streams", options.streams, "Places of the text that are read side by side");
  count("--accumulate", options.accumulate, "Segments of each stream in a step");
  count("--checkpoint-every", plan.checkpoints.steps, "Steps from one to the next");
  count("--validate-every", plan.validations.steps, "Steps from one to the next");
  count("--validation-tokens", plan.validationTokens, "Most that are validated with");
  count("--sample-every", plan.samples.steps, "Steps from one sample to the next");
  count("--sample-tokens", plan.sampleTokens, "That a sample has behind its prompt");
  command.add_option("--sample-prompt", arguments.samplePrompt,
                     "What samples begin with; default the first words of the text");
  const auto number = [&](const char* name, double& value, double most, const char* what) {
    command.add_option(name, value, what)->check(Between(0.0, most))->capture_default_str();
  };
  number("--learning-rate", options.learningRate, 1, "The highest");
  number("--final-share", options.finalShare, 1, "Of the learning rate, at the end");
  number("--weight-decay", options.weightDecay, 10, "Of AdamW");
  number("--beta1", options.beta1, 0.999999, "Of AdamW");
  number("--beta2", options.beta2, 0.999999, "Of AdamW");
  number("--epsilon", options.epsilon, 1,
         "Of AdamW; a smaller one lets small gradients move the weights too");
  number("--clip", options.clip, 1e9, "Largest norm of the gradient; 0 does not clip");
  number("--ema", options.ema, 0.999999,
         "What stays of the weights' moving average each step, which is then kept; 0 for none");
  number("--minutes", plan.minutes, 1e6, "Stop after so long; 0 for no limit");
  command.add_option("--warm-up", options.warmUp, "Steps in which the learning rate rises")
      ->check(AtLeast(0))
      ->capture_default_str();
  command.add_option("--schedule", arguments.schedule, "cosine or linear")
      ->check(CLI::IsMember({"cosine", "linear"}))
      ->capture_default_str();
  auto* forget = command.add_flag("--forget", arguments.forget,
                                  "Begin every segment with an empty state, anywhere in the text");
  command
      .add_option("--run", options.run,
                  "Segments after which a stream goes elsewhere in the text, with an empty state; "
                  "0 for none")
      ->check(AtLeast(0))
      ->excludes(forget)
      ->capture_default_str();
  command
      .add_option("--seed", options.seed, "Of the weights, and of where --forget and --run begin")
      ->check(AtLeast(0))
      ->capture_default_str();
  command
      .add_option("--memory", arguments.memory,
                  "GB of device memory to stay within if possible; 0 takes what is free")
      ->check(Between(0.0, 1e6));
  arguments.device.addTo(command);
  command.add_flag("--resume", plan.resume, "Go on with the run in --out");
}

Run addTrain(CLI::App& app) {
  const auto arguments = std::make_shared<TrainArguments>();
  TrainingPlan& plan = arguments->plan;
  CLI::App& command = *app.add_subcommand("train", "Train a model on texts, or on a recipe");
  CLI::App& data = *command.add_option_group("data")->require_option(1);
  data.add_option("--file", plan.files, "Text to train on, also .xz or .zst; several are joined");
  auto* recipe = addRecipeOption(data, "A task of the Mamba paper to train on; sets its defaults",
                                 [&plan](const Recipe& chosen) {
                                   plan.recipe = &chosen;
                                   plan.options = chosen.options;
                                 });
  command.add_option("--validation", plan.validation, "Text to validate with")->excludes(recipe);
  addTrainingOptions(command, *arguments);
  for (const char* ofTexts : {"--shape", "--tokenizer"})
    command.get_option(ofTexts)->excludes(recipe);
  command.add_option("--examples", plan.examples, "Of a recipe, to measure accuracy with")
      ->check(AtLeast(1))
      ->needs(recipe)
      ->capture_default_str();
  return [arguments] { return train(*arguments); };
}

}  // namespace mb::cli
