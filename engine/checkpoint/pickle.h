// Reads the pickle inside a torch checkpoint without running anything.
//
// A pickle is a program for a stack machine that may call any function. This reader knows the
// opcodes that a dictionary of tensors needs, builds plain values, and refuses everything else: the
// only "calls" it understands are an empty OrderedDict and _rebuild_tensor_v2, and it carries both
// out itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/checkpoint/tensor.h"

namespace mb {

/// A tensor as the pickle describes it: a window of a named storage.
struct PickledTensor {
  std::string storage;  ///< entry name below "data/"
  DataType type = DataType::Float32;
  std::size_t storageElements = 0;
  std::size_t offset = 0;  ///< in elements
  Shape shape;
  std::vector<std::size_t> strides;  ///< in elements
};

/// The name -> tensor dictionary that the pickle holds. `file` is named in errors.
/// Throws FormatError for a damaged program, an opcode or a global outside the short list, or
/// dictionary values that are not tensors.
std::map<std::string, PickledTensor> readPickledTensors(std::span<const std::byte> program,
                                                        const std::filesystem::path& file);

}  // namespace mb
