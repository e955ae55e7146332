// Writer of the safetensors format, one for all that write models.
// https://github.com/huggingface/safetensors#format
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>

#include "engine/checkpoint/checkpoint.h"

namespace mb {

/// What a tensor of that name is written as: Float32 or BFloat16.
using TypeOfTensor = std::function<DataType(const std::string& name)>;

/// Bytes of tensors that are written, of all of them.
using TensorProgress = std::function<void(std::uint64_t done, std::uint64_t total)>;

/// Writes every tensor that a model of the source's config has, rounded to nearest even where its
/// type is narrower, the whole file or none. Tensors pass through a small buffer, one after the
/// other, so that a mapped source is never in memory as a whole. Throws FormatError naming tensor
/// and element for a value that is not finite, before or after rounding, FileError, and Stopped.
void writeSafetensors(const std::filesystem::path& file, const WeightSource& source,
                      const TypeOfTensor& typeOf, const TensorProgress& progress = {},
                      std::stop_token stop = {});

}  // namespace mb
