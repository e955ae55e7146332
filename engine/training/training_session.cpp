#include "engine/training/training_session.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "engine/checkpoint/model_writer.h"
#include "engine/cpu/cpu_model.h"
#include "engine/error.h"
#include "engine/evaluation/recipe_accuracy.h"
#include "engine/export/run_export.h"
#include "engine/file_io.h"
#include "engine/training/sample.h"
#include "engine/training/training_devices.h"

namespace mb {

namespace {

/// Steps are timed for so long before the rest is fitted into the time.
constexpr double kTrialSeconds = 1;
/// Share of the time that steps are planned for: others may want the processor too.
constexpr double kPlannedShare = 0.95;
/// Share of the time that reports by the clock may take.
constexpr double kReportShare = 0.1;
/// Share of the fitted steps in which the learning rate may rise.
constexpr std::uint64_t kWarmUpShare = 10;
constexpr std::size_t kPromptTokens = 256;  ///< that a prompt is looked for in
/// Weight of the newest step in the running mean of their times.
constexpr double kNewest = 0.1;

double secondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Seconds from one report to the next, where one takes `cost`: most of the time is for training.
double pace(const Rhythm& rhythm, double cost) {
  return std::max(rhythm.seconds, cost / kReportShare);
}

/// How often something that takes `cost` seconds comes within some steps or seconds.
double times(const Rhythm& rhythm, double steps, double seconds, double cost) {
  const double bySteps = rhythm.steps > 0 ? steps / static_cast<double>(rhythm.steps) : 0;
  return std::max(bySteps, rhythm.seconds > 0 ? seconds / pace(rhythm, cost) : 0);
}

}  // namespace

TrainingSession::TrainingSession(TrainingPlan plan, TrainingListener listener, std::stop_token stop)
    : m_plan(std::move(plan)),
      m_listener(std::move(listener)),
      m_material(readMaterial(m_plan, stop)),
      m_layout(std::make_unique<const ParameterLayout>(m_material.config)),
      m_pool(std::make_shared<cpu::ThreadPool>(m_plan.threads)) {
  if (m_plan.resume && m_plan.fitSteps) {
    const TrainingOptions fitted = planToResume(m_plan.folder).options;
    m_plan.options.steps = fitted.steps;
    m_plan.options.warmUp = fitted.warmUp;
  }
  renewTrainer();
  m_folder = std::make_unique<RunFolder>(m_plan.folder, m_plan.resume, m_material.tokenizerFile);
  const LogEnd log = goOnFromCheckpoint();
  m_logged = log.seconds;
  m_validated = log.validated;
  if (!m_plan.resume) describeRun();
  const bool fits = m_plan.fitSteps && !m_plan.resume;
  m_listener(TrainingStarted{.parameters = m_layout->size(),
                             .tokens = m_material.text.size(),
                             .validationTokens = m_material.validation.size(),
                             .threads = m_pool->size(),
                             .device = m_device,
                             .bytesPerToken = m_material.bytesPerToken,
                             .step = steps(),
                             .steps = fits ? 0 : m_plan.options.steps,
                             .validationBits = log.validated == kNever
                                                   ? std::nullopt
                                                   : std::optional(log.validationBits)});
}

TrainingSession::~TrainingSession() = default;

/// A device that is not the CPU has no room for two.
void TrainingSession::renewTrainer() {
  if (m_plan.device.kind != DeviceKind::Cpu) m_trainer.reset();
  std::unique_ptr<const DataSource> source = sourceOf(m_plan, m_material);
  checkOptions(m_plan.options);
  ChosenTrainingDevice chosen =
      makeTrainingDevice(*m_layout,
                         m_plan.model.empty() ? initialParameters(*m_layout, m_plan.options.seed)
                                              : readParameters(*m_layout, Checkpoint(m_plan.model)),
                         {.streams = m_plan.options.streams,
                          .segment = source->lessonTokens(),
                          .device = m_plan.device,
                          .averages = m_plan.options.ema > 0,
                          .memory = m_plan.memory},
                         *m_pool);
  m_device = chosen.device->name() + " (" + chosen.reason + ")";
  m_trainer = std::make_unique<Trainer>(*m_layout, std::move(source), m_plan.options,
                                        std::move(chosen.device));
}

/// Where there is one; and with the log up to there.
LogEnd TrainingSession::goOnFromCheckpoint() {
  const std::filesystem::path newest = Trainer::newest(checkpoint());
  if (std::filesystem::exists(newest)) m_trainer->resume(newest);
  return m_folder->openLog(steps());
}

void TrainingSession::describeRun() const {
  nlohmann::json run = describe(m_plan);
  run["version"] = programVersion();
  run["parameters"] = m_layout->size();
  run["tokens"] = m_material.text.size();
  run["threads"] = m_pool->size();
  run["device"] = m_device;
  m_folder->describe(run);
}

double TrainingSession::spent() const {
  return m_spent + (m_running ? secondsSince(*m_running) : 0);
}

bool TrainingSession::isDone() const {
  return m_trainer->isDone() || (m_plan.minutes > 0 && spent() >= 60 * m_plan.minutes);
}

bool TrainingSession::isDue(const Rhythm& rhythm, double last) const {
  return (rhythm.steps > 0 && steps() % rhythm.steps == 0) ||
         (rhythm.seconds > 0 && spent() - last >= pace(rhythm, m_reportSeconds));
}

void TrainingSession::run(std::stop_token stop) {
  m_running = Clock::now();
  const auto halt = [this] {
    m_spent = spent();
    m_running.reset();
  };
  try {
    train(std::move(stop));
  } catch (const DivergedError& error) {
    halt();
    renewTrainer();
    m_validated = goOnFromCheckpoint().validated;
    throw DivergedError(std::string(error.what()) +
                        "; the weights are back at the checkpoint of step " +
                        std::to_string(steps()));
  } catch (...) {
    halt();
    throw;
  }
  halt();
}

void TrainingSession::train(std::stop_token stop) {
  if (!m_begun) begin(stop);
  m_begun = true;
  while (!isDone()) step(stop);
  validate(stop);
  if (m_plan.samples.steps > 0 || m_plan.samples.seconds > 0) sample(stop);
  save();
}

void TrainingSession::begin(std::stop_token stop) {
  if (m_plan.reportAtStart && steps() == 0) {
    const auto start = Clock::now();
    validate(stop);
    sample(stop);
    m_reportSeconds = secondsSince(start);
  }
  if (m_plan.fitSteps && !m_plan.resume) fitSteps(stop);
}

/// The trainer that is timed is thrown away.
void TrainingSession::fitSteps(std::stop_token stop) {
  const auto start = Clock::now();
  m_trainer->step(stop);  // takes longer: its memory is new
  const double first = secondsSince(start);
  double count = 0;
  for (; secondsSince(start) < kTrialSeconds; ++count) m_trainer->step(stop);
  m_secondsPerStep = count > 0 ? (secondsSince(start) - first) / count : first;
  const double seconds = 60 * m_plan.minutes;
  const double reports = times(m_plan.validations, 0, seconds, m_reportSeconds) * m_reportSeconds;
  const double left = kPlannedShare * (seconds - spent() - reports);
  TrainingOptions& options = m_plan.options;
  options.steps = std::max(std::uint64_t{1},
                           static_cast<std::uint64_t>(std::max(0.0, left) / m_secondsPerStep));
  options.warmUp = std::min(options.warmUp, options.steps / kWarmUpShare);
  renewTrainer();
  describeRun();
  const double tokens =
      static_cast<double>(options.steps * options.streams * options.segment * options.accumulate);
  m_listener(TrainingFitted{
      .steps = options.steps,
      .secondsPerStep = m_secondsPerStep,
      .passes = m_plan.recipe ? 1 : tokens / static_cast<double>(m_material.text.size())});
}

void TrainingSession::step(std::stop_token stop) {
  const auto start = Clock::now();
  const TrainingStep done = m_trainer->step(stop);
  const double took = secondsSince(start);
  m_secondsPerStep =
      m_secondsPerStep > 0 ? (1 - kNewest) * m_secondsPerStep + kNewest * took : took;
  report(done);
  const auto reporting = Clock::now();
  if (isDue(m_plan.validations, m_validatedAt)) validate(stop);
  if (isDue(m_plan.samples, m_sampledAt)) sample(stop);
  if (m_validated == steps()) m_reportSeconds = secondsSince(reporting);
  if (isDue(m_plan.checkpoints, m_savedAt)) save();
}

void TrainingSession::report(const TrainingStep& step) {
  const TrainingOptions& options = m_plan.options;
  const auto perStep = static_cast<double>(options.streams * options.segment * options.accumulate);
  const TrainingStepped stepped{
      .step = step,
      .bitsPerByte = step.bits / m_material.bytesPerToken,
      .seconds = m_logged + spent(),
      .tokensPerSecond = perStep / m_secondsPerStep,
      .bytesPerSecond = perStep * m_material.bytesPerToken / m_secondsPerStep,
      .secondsLeft = secondsLeft()};
  m_folder->log({{"step", step.step},
                 {"tokens", step.tokens},
                 {"bits_per_token", step.bits},
                 {"bits_per_byte", stepped.bitsPerByte},
                 {"gradient_norm", step.gradientNorm},
                 {"learning_rate", step.learningRate},
                 {"seconds", stepped.seconds},
                 {"tokens_per_second", stepped.tokensPerSecond}});
  m_listener(stepped);
}

double TrainingSession::secondsLeft() const {
  const auto left =
      static_cast<double>(m_plan.options.steps - std::min(m_plan.options.steps, steps()));
  const double stepping = left * m_secondsPerStep;
  const double all =
      stepping + times(m_plan.validations, left, stepping, m_reportSeconds) * m_reportSeconds;
  const double limit = m_plan.minutes > 0 ? 60 * m_plan.minutes - spent() : all;
  return std::max(0.0, std::min(all, limit));
}

void TrainingSession::validate(std::stop_token stop) {
  if (m_validated == steps()) return;
  if (m_plan.recipe) return examine(std::move(stop));
  if (m_material.validation.empty()) return;
  expectNumbers();
  const double bits = m_trainer->validate(m_material.validation, std::move(stop));
  m_validated = steps();
  m_validatedAt = spent();
  const TrainingValidated validated{
      .step = steps(), .bits = bits, .bitsPerByte = bits / m_material.validationBytesPerToken};
  m_folder->log({{"step", steps()},
                 {"validation_bits_per_token", bits},
                 {"validation_bits_per_byte", validated.bitsPerByte}});
  m_listener(validated);
}

void TrainingSession::examine(std::stop_token stop) {
  expectNumbers();
  const ParameterWeights weights(*m_layout, m_trainer->kept());
  const CpuModel model(weights, {}, {WeightPrecision::Float32, {}}, m_pool, stop);
  const Accuracy accuracy =
      measureAccuracy(model, *m_plan.recipe, m_plan.options.segment, m_plan.examples,
                      m_plan.options.seed, {}, std::move(stop));
  m_validated = steps();
  m_validatedAt = spent();
  m_folder->log({{"step", steps()}, {"accuracy", accuracy.share()}});
  m_listener(TrainingExamined{steps(), accuracy.share()});
}

/// As the playground would write it: with weights in bfloat16.
void TrainingSession::sample(std::stop_token stop) {
  if (m_sampled == steps() || m_plan.recipe) return;
  expectNumbers();
  const TokenView text = m_material.validation.empty() ? m_material.text : m_material.validation;
  const Bytes prompt =
      m_plan.samplePrompt.empty()
          ? promptFrom(m_material.bytesOf(text.first(std::min(text.size(), kPromptTokens))))
          : m_plan.samplePrompt;
  const ParameterWeights weights(*m_layout, m_trainer->kept());
  const CpuModel model(weights, {}, {}, m_pool, stop);
  const SamplerSettings settings{.temperature = 0.8, .topK = 40, .seed = m_plan.options.seed};
  Bytes written = writeSample(model, m_material.tokenizer.get(), prompt, m_plan.sampleTokens,
                              settings, std::move(stop));
  m_sampled = steps();
  m_sampledAt = spent();
  m_folder->keepSample(steps(), written);
  m_listener(TrainingSampled{steps(), std::move(written), prompt.size()});
}

/// A step may ruin the weights before the next one's loss shows it.
void TrainingSession::expectNumbers() const {
  const auto isNumber = [](float weight) { return std::isfinite(weight); };
  if (!std::ranges::all_of(m_trainer->parameters(), isNumber))
    throw DivergedError("the weights after step " + std::to_string(steps()) +
                        " are not numbers; a lower learning rate may help");
}

void TrainingSession::save() {
  expectNumbers();
  m_folder->save(*m_trainer);
  m_savedAt = spent();
}

void TrainingSession::keep(const std::filesystem::path& folder) const {
  writeFolderAtomically(folder, [this](const std::filesystem::path& fresh) {
    writeModel(fresh, *m_layout, m_trainer->kept());
    if (!m_material.tokenizerFile.empty()) keepTokenizer(m_material.tokenizerFile, fresh);
  });
}

}  // namespace mb
