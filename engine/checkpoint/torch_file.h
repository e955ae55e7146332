// Reader of torch checkpoints ("pytorch_model.bin"): a zip of uncompressed tensors and a pickle
// that names them.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "engine/checkpoint/tensor.h"

namespace mb {

/// Reads all tensors into memory. Executes nothing from the file (see pickle.h). Throws FileError
/// or FormatError.
std::map<std::string, Tensor> readTorchFile(const std::filesystem::path& file);

}  // namespace mb
