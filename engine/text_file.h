// Whole texts from files, compressed or not.
#pragma once

#include <filesystem>
#include <stop_token>

#include "engine/types.h"

namespace mb {

/// The content of a file; of an .xz or .zst file, known by its first bytes, what it was made from.
/// Throws FileError when it cannot be read, FormatError when what is compressed is damaged or cut
/// off, Stopped.
Bytes readText(const std::filesystem::path& file, std::stop_token stop = {});

}  // namespace mb
