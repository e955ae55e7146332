// Models written in the transformers layout: config.json, model.safetensors, tokenizer.json.
#pragma once

#include <filesystem>
#include <stop_token>

#include "engine/checkpoint/safetensors_writer.h"

namespace mb {

/// Writes config.json and model.safetensors in the transformers layout, each as a whole or not at
/// all. Creates the folder. `weights` is Float32, or BFloat16 for projections, convolutions,
/// embedding and head, with the biases that are added to their products; A_log, D, norms and the
/// bias of Δ, which the model computes with in float32, stay that. Throws what writeSafetensors
/// throws.
void writeModel(const std::filesystem::path& folder, const WeightSource& source, DataType weights);

/// Copies a tokenizer beside a model. Throws FileError.
void keepTokenizer(const std::filesystem::path& tokenizer, const std::filesystem::path& folder);

/// Writes the model and its tokenizer, where there is one, into a new or empty folder, all of it or
/// nothing. What a transformers config.json says beyond the model's shape is kept. Throws
/// RequestError when there is something in the folder, and what writeModel throws.
void convertModel(const Checkpoint& checkpoint, const std::filesystem::path& folder,
                  DataType weights, const TensorProgress& progress = {}, std::stop_token stop = {});

}  // namespace mb
