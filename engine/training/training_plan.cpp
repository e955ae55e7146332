#include "engine/training/training_plan.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/checkpoint/json_reader.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/error.h"
#include "engine/text_file.h"

namespace mb {

namespace {

constexpr std::size_t kLargestRunFile = 1u << 20;

nlohmann::json describe(const Rhythm& rhythm) {
  return {{"steps", rhythm.steps}, {"seconds", rhythm.seconds}};
}

/// The inverse of describe(TrainingOptions).
TrainingOptions optionsOf(const JsonReader& from) {
  constexpr std::size_t kAny = std::numeric_limits<std::size_t>::max();
  TrainingOptions o;
  o.steps = from.size("steps", 1, kAny);
  o.segment = from.size("segment", 1, kAny);
  o.streams = from.size("streams", 1, kAny);
  o.accumulate = from.size("accumulate", 1, kAny);
  o.learningRate = from.number("learning_rate", o.learningRate);
  o.finalShare = from.number("final_share", o.finalShare);
  o.warmUp = from.size("warm_up", 0, kAny);
  o.schedule = from.text("schedule") == "linear" ? Schedule::Linear : Schedule::Cosine;
  o.weightDecay = from.number("weight_decay", o.weightDecay);
  o.beta1 = from.number("beta1", o.beta1);
  o.beta2 = from.number("beta2", o.beta2);
  o.epsilon = from.number("epsilon", o.epsilon);
  o.clip = from.number("clip", o.clip);
  o.carryState = from.flag("carry_state", o.carryState);
  o.run = from.size("run", 0, kAny, 0);
  o.ema = from.number("ema", o.ema);
  o.seed = from.size("seed", 0, kAny);
  return o;
}

Rhythm rhythmOf(const nlohmann::json& json, const std::filesystem::path& file, const char* name) {
  const JsonReader from(json, file, name);
  return {from.size("steps", 0, std::numeric_limits<std::size_t>::max()),
          from.number("seconds", 0)};
}

std::vector<Token> encode(const TrainingMaterial& material, ByteView bytes, std::stop_token stop) {
  if (!material.tokenizer) return {bytes.begin(), bytes.end()};
  return material.tokenizer->encode(bytes, stop);
}

/// The text of all files, one after the other.
std::vector<Token> readTokens(const TrainingMaterial& material,
                              std::span<const std::filesystem::path> files, std::stop_token stop) {
  std::vector<Token> tokens;
  for (const std::filesystem::path& file : files) {
    const Bytes bytes = readText(file, stop);
    if (bytes.empty()) throw FormatError(file, "text", "at least one byte", "none");
    const std::vector<Token> more = encode(material, bytes, stop);
    tokens.insert(tokens.end(), more.begin(), more.end());
  }
  return tokens;
}

double bytesPerToken(const TrainingMaterial& material, TokenView tokens) {
  if (tokens.empty()) return 1;
  return static_cast<double>(material.bytesOf(tokens).size()) / static_cast<double>(tokens.size());
}

/// How a verifier's text was written, as far as it says which bytes are the verifier's.
nlohmann::json describe(const std::optional<WritingOptions>& written) {
  if (!written) return nullptr;
  return {{"read", written->read}, {"write", written->write}};
}

std::optional<WritingOptions> writtenOf(const nlohmann::json& run,
                                        const std::filesystem::path& file) {
  if (!run.contains("written") || run["written"].is_null()) return std::nullopt;
  const JsonReader from(run["written"], file, "written");
  WritingOptions written;
  written.read = from.size("read", 1, std::numeric_limits<std::size_t>::max());
  written.write = from.size("write", 1, std::numeric_limits<std::size_t>::max());
  return written;
}

constexpr std::string_view kDeviceNames[] = {"cpu", "cuda", "auto"};  ///< by DeviceKind

DeviceKind deviceNamed(std::string_view name, const std::filesystem::path& file) {
  const auto found = std::ranges::find(kDeviceNames, name);
  if (found == std::end(kDeviceNames))
    throw FormatError(file, "train_on", "cpu, cuda or auto", std::string(name));
  return static_cast<DeviceKind>(found - std::begin(kDeviceNames));
}

/// What is trained: a model to go on from, or a shape to begin anew; and what its tokens are.
TrainingMaterial shapeAndTokenizer(const TrainingPlan& plan) {
  TrainingMaterial material;
  material.config = plan.shape;
  material.tokenizerFile = plan.tokenizer;
  if (!plan.model.empty()) {
    const Checkpoint checkpoint(plan.model);
    material.config = checkpoint.config();
    if (plan.tokenizer.empty()) material.tokenizerFile = checkpoint.tokenizerFile();
    if (material.config.isByteLevel()) material.tokenizerFile.clear();
  }
  if (plan.recipe) {
    expectVocabulary(material.config, *plan.recipe);
    return material;
  }
  if (material.tokenizerFile.empty()) {
    if (!material.config.isByteLevel())
      throw RequestError(
          "a subword model needs its tokenizer: expected a tokenizer.json, found none");
    return material;
  }
  material.tokenizer = std::make_unique<const Tokenizer>(material.tokenizerFile);
  const std::size_t tokens = material.tokenizer->vocabularySize();
  if (material.config.vocabSize == 0) material.config.vocabSize = tokens;
  if (tokens > material.config.vocabSize)
    throw RequestError("the tokenizer does not fit the model: expected at most " +
                       std::to_string(material.config.vocabSize) + " tokens, found " +
                       std::to_string(tokens));
  return material;
}

/// Keeps the end of the text from training, where the plan says so.
void holdOut(const TrainingPlan& plan, TrainingMaterial& material) {
  const auto share =
      static_cast<std::size_t>(plan.heldOut * static_cast<double>(material.text.size()));
  const std::size_t count = std::min(share, plan.validationTokens);
  if (count < 2) return;
  const auto first = material.text.end() - static_cast<std::ptrdiff_t>(count);
  material.validation.assign(first, material.text.end());
  material.text.erase(first, material.text.end());
  if (!material.counts.empty()) material.counts.resize(material.text.size());
}

}  // namespace

nlohmann::json describe(const TrainingPlan& plan) {
  std::vector<std::string> files;
  for (const std::filesystem::path& file : plan.files)
    files.push_back(std::filesystem::absolute(file).string());
  const auto absolute = [](const std::filesystem::path& path) {
    return path.empty() ? std::string() : std::filesystem::absolute(path).string();
  };
  return {{"files", files},
          {"written", describe(plan.written)},
          {"recipe", plan.recipe ? plan.recipe->name : ""},
          {"examples", plan.examples},
          {"validation", absolute(plan.validation)},
          {"held_out", plan.heldOut},
          {"model", absolute(plan.model)},
          {"options", describe(plan.options)},
          {"minutes", plan.minutes},
          {"fit_steps", plan.fitSteps},
          {"checkpoints", describe(plan.checkpoints)},
          {"validations", describe(plan.validations)},
          {"samples", describe(plan.samples)},
          {"report_at_start", plan.reportAtStart},
          {"validation_tokens", plan.validationTokens},
          {"sample_tokens", plan.sampleTokens},
          {"sample_prompt", plan.samplePrompt},
          {"threads", plan.threads},
          {"train_on", kDeviceNames[static_cast<std::size_t>(plan.device.kind)]},
          {"cuda_device", plan.device.cudaDevice},
          {"memory", plan.memory}};
}

TrainingPlan planToResume(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "run.json";
  const nlohmann::json json = parseJson(readTextFile(file, kLargestRunFile), file, "run");
  const JsonReader from(json, file, "run");
  constexpr std::size_t kAny = std::numeric_limits<std::size_t>::max();
  TrainingPlan plan;
  plan.folder = folder;
  plan.resume = true;
  if (!json.contains("files") || !json["files"].is_array() || !json.contains("sample_prompt") ||
      !json["sample_prompt"].is_array())
    throw FormatError(file, "files and sample_prompt", "arrays", "something else");
  try {
    for (const nlohmann::json& name : json["files"])
      plan.files.emplace_back(name.get<std::string>());
    plan.samplePrompt = json["sample_prompt"].get<Bytes>();
  } catch (const nlohmann::json::exception&) {
    throw FormatError(file, "files and sample_prompt", "names and bytes", "something else");
  }
  plan.written = writtenOf(json, file);
  if (const std::string recipe = from.text("recipe", ""); !recipe.empty())
    plan.recipe = &findRecipe(recipe);
  plan.examples = from.size("examples", 1, kAny, plan.examples);
  plan.validation = from.text("validation");
  plan.heldOut = from.number("held_out", 0);
  plan.options = optionsOf(JsonReader(from.object("options"), file, "options"));
  plan.minutes = from.number("minutes", 0);
  plan.fitSteps = from.flag("fit_steps", false);
  plan.checkpoints = rhythmOf(from.object("checkpoints"), file, "checkpoints");
  plan.validations = rhythmOf(from.object("validations"), file, "validations");
  plan.samples = rhythmOf(from.object("samples"), file, "samples");
  plan.reportAtStart = from.flag("report_at_start", false);
  plan.validationTokens = from.size("validation_tokens", 0, kAny);
  plan.sampleTokens = from.size("sample_tokens", 0, kAny);
  plan.threads = from.size("threads", 0, kAny);
  plan.device.kind = deviceNamed(from.text("train_on", "cpu"), file);
  plan.device.cudaDevice = static_cast<int>(from.size("cuda_device", 0, 1024, 0));
  plan.memory = from.size("memory", 0, kAny, 0);
  const Checkpoint checkpoint(Trainer::newest(folder / "checkpoint"));
  plan.shape = checkpoint.config();
  plan.tokenizer = checkpoint.tokenizerFile();
  return plan;
}

Bytes TrainingMaterial::bytesOf(TokenView tokens) const {
  if (tokenizer) return tokenizer->decode(tokens);
  return {tokens.begin(), tokens.end()};
}

TrainingMaterial readMaterial(const TrainingPlan& plan, std::stop_token stop) {
  TrainingMaterial material = shapeAndTokenizer(plan);
  if (plan.recipe) return material;
  material.text = readTokens(material, plan.files, stop);
  if (plan.written)
    material.counts = tokensOfTheVerifier(material.text, material.tokenizer.get(), *plan.written);
  if (plan.validation.empty()) {
    holdOut(plan, material);
  } else {
    material.validation = readTokens(material, {&plan.validation, 1}, stop);
    material.validation.resize(std::min(material.validation.size(), plan.validationTokens));
    if (material.validation.size() == 1)
      throw FormatError(plan.validation, "text to validate with", "at least 2 tokens", "one");
  }
  material.bytesPerToken = bytesPerToken(material, material.text);
  if (!material.validation.empty())
    material.validationBytesPerToken =
        bytesPerToken(material, TokenView(material.validation).subspan(1));
  return material;
}

std::unique_ptr<const DataSource> sourceOf(const TrainingPlan& plan,
                                           const TrainingMaterial& material) {
  if (plan.recipe) return std::make_unique<RecipeSource>(*plan.recipe, plan.options);
  if (material.counts.empty())
    return std::make_unique<TextSource>(material.text, material.config.vocabSize, plan.options);
  return std::make_unique<TextSource>(material.text, material.counts, material.config.vocabSize,
                                      plan.options);
}

}  // namespace mb
