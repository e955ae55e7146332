// Writing files so that a crash leaves either the old content or the new, never half.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

namespace mb {

/// Writes a temporary file beside `file`, flushes it to disk and renames it. Pipes and devices are
/// written to directly. Throws FileError.
void writeFileAtomically(const std::filesystem::path& file,
                         std::span<const std::span<const std::byte>> parts);
void writeFileAtomically(const std::filesystem::path& file, std::string_view text);

/// Throws FileError when a file could not be written there now.
void expectWritable(const std::filesystem::path& file);

}  // namespace mb
