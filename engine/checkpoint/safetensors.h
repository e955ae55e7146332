// Reader of the safetensors format: 8 bytes of header length, a JSON header, raw tensors.
// https://github.com/huggingface/safetensors#format
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "engine/checkpoint/tensor.h"

namespace mb {

/// Maps the file and lists its tensors. Every offset, shape and type is checked here, so that later
/// reads cannot leave the file. Throws FileError or FormatError.
std::map<std::string, Tensor> readSafetensors(const std::filesystem::path& file);

}  // namespace mb
