// Small valid checkpoints made in memory: what the fuzzers start from.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "engine/checkpoint/model_config.h"
#include "engine/checkpoint/tensor.h"
#include "engine/types.h"

namespace mb::fuzz {

/// Shapes of a few units, each odd in another way: no convolution history, one state, biases
/// everywhere, LayerNorm, an untied head, a subword vocabulary.
std::vector<ModelConfig> smallConfigs();

/// config.json in the two layouts.
std::string transformersConfig(const ModelConfig& config);
std::string stateSpacesConfig(const ModelConfig& config);

/// model.safetensors with random weights of every tensor the config asks for.
Bytes safetensorsModel(const ModelConfig& config, DataType type);
/// A safetensors file of this header text and `dataBytes` zero bytes of data.
Bytes safetensorsFile(std::string_view header, std::size_t dataBytes);
/// The header text of a safetensors file.
std::string safetensorsHeader(ByteView file);

using ZipEntries = std::vector<std::pair<std::string, Bytes>>;
/// A zip of stored entries.
Bytes zipFile(const ZipEntries& entries);
/// Contents of one entry of a zip file on disk.
Bytes zipEntry(const std::string& file, const std::string& suffix);

/// What torch.save writes for a state-spaces checkpoint, apart: the pickle and the storages.
struct TorchParts {
  Bytes program;
  ZipEntries storages;  ///< "archive/data/0", …
};
TorchParts torchModel(const ModelConfig& config);
/// The zip that torch.save makes of them.
Bytes torchFile(ByteView program, const ZipEntries& storages);

/// A tokenizer.json of 256 bytes and a few merges. Variants differ in merge notation, splitting and
/// added tokens.
std::string smallTokenizer(std::size_t variant);
inline constexpr std::size_t kTokenizerVariants = 3;

}  // namespace mb::fuzz
