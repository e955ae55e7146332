#include "engine/checkpoint/checkpoint.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <xxhash.h>

#include "engine/checkpoint/json_reader.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/checkpoint/safetensors.h"
#include "engine/checkpoint/torch_file.h"
#include "engine/error.h"

namespace mb {

namespace {

constexpr std::size_t kConfigLimit = 1 << 20;
constexpr std::size_t kIndexLimit = 64 << 20;
constexpr std::size_t kNameLimit = 255;  // of file systems

/// The state-spaces layout differs in one name.
std::string canonicalName(const std::string& name) {
  return name == "backbone.embedding.weight" ? "backbone.embeddings.weight" : name;
}

/// Whether a shard's name stays in the folder and can be shown.
bool isFileName(const std::string& text) {
  const bool hasControls =
      std::ranges::any_of(text, [](unsigned char c) { return c < 0x20 || c == 0x7f; });
  return !text.empty() && text.size() <= kNameLimit && !hasControls && text != ".." &&
         std::filesystem::path(text).filename() == text;
}

/// False also for what cannot be examined, such as a link to itself.
bool isThere(const std::filesystem::path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

std::filesystem::path folderOf(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return path;
  if (std::filesystem::is_regular_file(path, error)) return path.parent_path();
  throw FileError(path, "is not a model folder");
}

void addNorm(std::vector<std::pair<std::string, Shape>>& tensors, const std::string& name,
             const ModelConfig& config) {
  tensors.emplace_back(name + ".weight", Shape{config.dModel});
  if (config.norm == NormKind::Layer) tensors.emplace_back(name + ".bias", Shape{config.dModel});
}

void addLayer(std::vector<std::pair<std::string, Shape>>& tensors, const std::string& prefix,
              const ModelConfig& c) {
  addNorm(tensors, prefix + "norm", c);
  const std::string mixer = prefix + "mixer.";
  tensors.emplace_back(mixer + "in_proj.weight", Shape{2 * c.dInner, c.dModel});
  if (c.projectionBias) tensors.emplace_back(mixer + "in_proj.bias", Shape{2 * c.dInner});
  tensors.emplace_back(mixer + "conv1d.weight", Shape{c.dInner, 1, c.dConv});
  if (c.convBias) tensors.emplace_back(mixer + "conv1d.bias", Shape{c.dInner});
  tensors.emplace_back(mixer + "x_proj.weight", Shape{c.dtRank + 2 * c.dState, c.dInner});
  tensors.emplace_back(mixer + "dt_proj.weight", Shape{c.dInner, c.dtRank});
  tensors.emplace_back(mixer + "dt_proj.bias", Shape{c.dInner});
  tensors.emplace_back(mixer + "A_log", Shape{c.dInner, c.dState});
  tensors.emplace_back(mixer + "D", Shape{c.dInner});
  tensors.emplace_back(mixer + "out_proj.weight", Shape{c.dModel, c.dInner});
  if (c.projectionBias) tensors.emplace_back(mixer + "out_proj.bias", Shape{c.dModel});
}

}  // namespace

std::vector<std::pair<std::string, Shape>> expectedTensors(const ModelConfig& config) {
  std::vector<std::pair<std::string, Shape>> tensors;
  tensors.emplace_back("backbone.embeddings.weight", Shape{config.vocabSize, config.dModel});
  for (std::size_t layer = 0; layer < config.layers; ++layer)
    addLayer(tensors, "backbone.layers." + std::to_string(layer) + ".", config);
  addNorm(tensors, "backbone.norm_f", config);
  if (!config.tiedHead)
    tensors.emplace_back("lm_head.weight", Shape{config.vocabSize, config.dModel});
  return tensors;
}

Checkpoint::Checkpoint(const std::filesystem::path& folder) : m_folder(folderOf(folder)) {
  const std::filesystem::path config = m_folder / "config.json";
  m_configText = readTextFile(config, kConfigLimit);
  m_config = parseModelConfig(m_configText, config);
  readWeights();
  checkTensors();
}

void Checkpoint::readWeights() {
  const auto single = m_folder / "model.safetensors";
  const auto index = m_folder / "model.safetensors.index.json";
  const auto torch = m_folder / "pytorch_model.bin";
  if (isThere(single)) {
    addFile(single, readSafetensors(single));
  } else if (isThere(index)) {
    readShards(index);
  } else if (isThere(torch)) {
    addFile(torch, readTorchFile(torch));
  } else {
    throw FileError(m_folder,
                    "holds no weights: expected model.safetensors, model.safetensors.index.json or "
                    "pytorch_model.bin");
  }
}

void Checkpoint::readShards(const std::filesystem::path& index) {
  const nlohmann::json root = parseJson(readTextFile(index, kIndexLimit), index, "index");
  const JsonReader json(root, index, "index");
  std::set<std::string> files;
  for (const auto& [name, file] : json.object("weight_map").items()) {
    if (!file.is_string())
      throw FormatError(index, "tensor " + inQuotes(name), "a file name", file.type_name());
    const std::string text = file.get<std::string>();
    if (!isFileName(text))
      throw FormatError(index, "tensor " + inQuotes(name), "a file name in the same folder",
                        inQuotes(text));
    files.insert(text);
  }
  for (const std::string& file : files) addFile(m_folder / file, readSafetensors(m_folder / file));
}

void Checkpoint::addFile(const std::filesystem::path& file, std::map<std::string, Tensor> tensors) {
  m_weightFiles.push_back(file);
  for (auto& [name, tensor] : tensors) {
    const std::string canonical = canonicalName(name);
    if (!m_tensors.emplace(canonical, std::move(tensor)).second)
      throw FormatError(file, "tensor " + inQuotes(name), "each tensor once", "a second one");
  }
}

/// Tensors that share bytes would let a small file ask for any amount of memory. Only a head may
/// share those of the embedding.
void Checkpoint::checkSize() const {
  std::uintmax_t stored = 0;
  std::uintmax_t used = 0;
  for (const auto& file : m_weightFiles) stored += MappedFile(file).bytes().size();
  for (const auto& [name, tensor] : m_tensors) used += tensor.data.size();
  if (used <= 2 * stored) return;
  throw FormatError(m_weightFiles.front(), "tensors",
                    "at most the " + std::to_string(stored) + " bytes of the weight files",
                    std::to_string(used) + ", many of them shared");
}

void Checkpoint::checkTensors() {
  checkSize();
  std::set<std::string> known;
  for (const auto& [name, shape] : expectedTensors(m_config)) {
    tensor(name, shape);
    known.insert(name);
  }
  if (m_config.tiedHead) known.insert("lm_head.weight");  // files may hold the tied copy
  for (const auto& [name, tensor] : m_tensors) {
    if (!known.contains(name))
      throw FormatError(tensor.file, "tensor " + inQuotes(name), "a tensor of a Mamba-1 model",
                        "another, of shape " + toString(tensor.shape));
  }
  m_storedType = m_tensors.at("backbone.layers.0.mixer.in_proj.weight").type;
}

Tensor Checkpoint::tensor(const std::string& name, const Shape& shape) const {
  const auto entry = m_tensors.find(name);
  if (entry == m_tensors.end()) {
    throw FormatError(m_weightFiles.empty() ? m_folder : m_weightFiles.front(), "tensor " + name,
                      "shape " + toString(shape), "no such tensor");
  }
  if (entry->second.shape != shape) {
    throw FormatError(entry->second.file, "tensor " + name, "shape " + toString(shape),
                      toString(entry->second.shape));
  }
  return entry->second;
}

std::filesystem::path Checkpoint::tokenizerFile() const {
  const auto file = m_folder / "tokenizer.json";
  return isThere(file) ? file : std::filesystem::path();
}

std::string hashOfFiles(const std::vector<std::filesystem::path>& files) {
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(),
                                                                       &XXH3_freeState);
  XXH3_128bits_reset(state.get());
  for (const auto& path : files) {
    const MappedFile file(path);
    XXH3_128bits_update(state.get(), file.bytes().data(), file.bytes().size());
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(state.get());
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(hash.high64),
                static_cast<unsigned long long>(hash.low64));
  return text;
}

}  // namespace mb
