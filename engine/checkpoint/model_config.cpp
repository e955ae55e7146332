#include "engine/checkpoint/model_config.h"

#include <nlohmann/json.hpp>

#include "engine/checkpoint/json_reader.h"
#include "engine/error.h"

namespace mb {

namespace {

constexpr std::size_t kMostWidth = 1 << 16;
constexpr std::size_t kMostLayers = 1 << 12;
constexpr std::size_t kMostVocabulary = 1 << 22;
constexpr std::size_t kMostState = 1 << 10;
constexpr std::size_t kMostTaps = 1 << 6;
constexpr std::size_t kMostExpand = 1 << 4;

void expectText(const JsonReader& json, const std::filesystem::path& file, const std::string& key,
                const std::string& expected) {
  const std::string found = json.text(key, expected);
  if (found != expected)
    throw FormatError(file, "config " + inQuotes(key), inQuotes(expected), inQuotes(found));
}

std::size_t defaultDtRank(std::size_t dModel) {
  return (dModel + 15) / 16;
}

double epsilonOf(const JsonReader& json, const std::filesystem::path& file,
                 const std::string& key) {
  const double epsilon = json.number(key, 1e-5);
  if (epsilon >= 0) return epsilon;
  throw FormatError(file, "config " + inQuotes(key), "a number from 0", std::to_string(epsilon));
}

ModelConfig fromTransformers(const JsonReader& json, const std::filesystem::path& file) {
  expectText(json, file, "model_type", "mamba");
  expectText(json, file, "hidden_act", "silu");
  ModelConfig config;
  config.vocabSize = json.size("vocab_size", 1, kMostVocabulary);
  config.dModel = json.size("hidden_size", 1, kMostWidth);
  const std::size_t expand = json.size("expand", 1, kMostExpand, 2);
  config.dInner =
      json.size("intermediate_size", 1, kMostWidth * kMostExpand, expand * config.dModel);
  config.dState = json.size("state_size", 1, kMostState, 16);
  config.dConv = json.size("conv_kernel", 1, kMostTaps, 4);
  config.dtRank = json.size("time_step_rank", 1, kMostWidth, defaultDtRank(config.dModel));
  config.layers = json.size("num_hidden_layers", 1, kMostLayers);
  config.normEpsilon = epsilonOf(json, file, "layer_norm_epsilon");
  config.projectionBias = json.flag("use_bias", false);
  config.convBias = json.flag("use_conv_bias", true);
  config.tiedHead = json.flag("tie_word_embeddings", true);
  return config;
}

/// Refuses relatives of Mamba-1 that share the config's format.
void expectPlainMamba(const JsonReader& json, const JsonReader& ssm,
                      const std::filesystem::path& file) {
  expectText(ssm, file, "layer", "Mamba1");
  if (json.has("attn_layer_idx") && !json.sizes("attn_layer_idx").empty())
    throw FormatError(file, "config \"attn_layer_idx\"", "no attention layers", "some");
  if (json.size("d_intermediate", 0, kMostWidth, 0) != 0)
    throw FormatError(file, "config \"d_intermediate\"", "0", "a gated MLP");
}

ModelConfig fromStateSpaces(const nlohmann::json& root, const JsonReader& json,
                            const std::filesystem::path& file) {
  static const nlohmann::json kNoSettings = nlohmann::json::object();
  const bool hasSettings = json.has("ssm_cfg");
  const JsonReader ssm(hasSettings ? root.at("ssm_cfg") : kNoSettings, file, "config \"ssm_cfg\"");
  expectPlainMamba(json, ssm, file);
  ModelConfig config;
  config.dModel = json.size("d_model", 1, kMostWidth);
  config.layers = json.size("n_layer", 1, kMostLayers);
  const std::size_t multiple = json.size("pad_vocab_size_multiple", 1, 1 << 16, 8);
  const std::size_t vocabulary = json.size("vocab_size", 1, kMostVocabulary - multiple);
  config.vocabSize = (vocabulary + multiple - 1) / multiple * multiple;
  config.dInner = ssm.size("expand", 1, kMostExpand, 2) * config.dModel;
  config.dState = ssm.size("d_state", 1, kMostState, 16);
  config.dConv = ssm.size("d_conv", 1, kMostTaps, 4);
  const bool autoRank =
      ssm.has("dt_rank") && hasSettings && root.at("ssm_cfg").at("dt_rank") == "auto";
  config.dtRank = autoRank ? defaultDtRank(config.dModel)
                           : ssm.size("dt_rank", 1, kMostWidth, defaultDtRank(config.dModel));
  config.projectionBias = ssm.flag("bias", false);
  config.convBias = ssm.flag("conv_bias", true);
  config.norm = json.flag("rms_norm", true) ? NormKind::Rms : NormKind::Layer;
  config.normEpsilon = epsilonOf(json, file, "norm_epsilon");
  config.tiedHead = json.flag("tie_embeddings", true);
  return config;
}

using OrderedJson = nlohmann::ordered_json;

std::string nameInTorch(DataType type) {
  switch (type) {
    case DataType::Float32: return "float32";
    case DataType::Float16: return "float16";
    case DataType::BFloat16: return "bfloat16";
  }
  return "?";
}

OrderedJson toTransformers(const ModelConfig& config) {
  OrderedJson json = {{"architectures", {"MambaForCausalLM"}},
                      {"model_type", "mamba"},
                      {"vocab_size", config.vocabSize},
                      {"hidden_size", config.dModel},
                      {"intermediate_size", config.dInner},
                      {"state_size", config.dState},
                      {"num_hidden_layers", config.layers},
                      {"conv_kernel", config.dConv},
                      {"time_step_rank", config.dtRank},
                      {"use_bias", config.projectionBias},
                      {"use_conv_bias", config.convBias},
                      {"layer_norm_epsilon", config.normEpsilon},
                      {"hidden_act", "silu"},
                      {"tie_word_embeddings", config.tiedHead}};
  const std::size_t expand = config.dInner / config.dModel;
  if (expand * config.dModel == config.dInner && expand <= kMostExpand) json["expand"] = expand;
  return json;
}

OrderedJson toStateSpaces(const ModelConfig& config) {
  return {{"d_model", config.dModel},
          {"n_layer", config.layers},
          {"vocab_size", config.vocabSize},
          {"pad_vocab_size_multiple", 1},
          {"ssm_cfg",
           {{"d_state", config.dState},
            {"d_conv", config.dConv},
            {"expand", config.dInner / config.dModel},
            {"dt_rank", config.dtRank},
            {"bias", config.projectionBias},
            {"conv_bias", config.convBias}}},
          {"rms_norm", config.norm == NormKind::Rms},
          {"norm_epsilon", config.normEpsilon},
          {"tie_embeddings", config.tiedHead}};
}

}  // namespace

std::size_t ModelConfig::parameterCount() const {
  const std::size_t normValues = norm == NormKind::Layer ? 2 * dModel : dModel;
  std::size_t layer = normValues;
  layer += 2 * dInner * dModel + (projectionBias ? 2 * dInner : 0);  // in_proj
  layer += dInner * dConv + (convBias ? dInner : 0);                 // conv1d
  layer += (dtRank + 2 * dState) * dInner;                           // x_proj
  layer += dInner * dtRank + dInner;                                 // dt_proj
  layer += dInner * dState + dInner;                                 // A_log, D
  layer += dModel * dInner + (projectionBias ? dModel : 0);          // out_proj
  const std::size_t heads = tiedHead ? 1 : 2;
  return layers * layer + heads * vocabSize * dModel + normValues;
}

ModelConfig parseModelConfig(std::string_view text, const std::filesystem::path& file) {
  const nlohmann::json root = parseJson(text, file, "config");
  const JsonReader json(root, file, "config");
  if (json.has("model_type")) return fromTransformers(json, file);
  if (json.has("d_model")) return fromStateSpaces(root, json, file);
  throw FormatError(file, "config", "\"model_type\": \"mamba\" or \"d_model\"", "neither");
}

std::string configText(const ModelConfig& config, DataType weights, std::string_view origin) {
  const bool isStateSpaces = config.norm == NormKind::Layer;
  OrderedJson json = origin.empty() ? OrderedJson::object() : OrderedJson::parse(origin);
  if (json.contains("model_type") == isStateSpaces) json = OrderedJson::object();
  json.erase("dtype");  // another name for torch_dtype
  json.update(isStateSpaces ? toStateSpaces(config) : toTransformers(config));
  json["torch_dtype"] = nameInTorch(weights);
  return json.dump(2) + "\n";
}

}  // namespace mb
