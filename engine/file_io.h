// Writing files and folders so that a crash leaves either the old content or the new, never half.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string_view>

namespace mb {

/// Writes a temporary file beside `file`, flushes it to disk and renames it. Pipes and devices are
/// written to directly. Throws FileError.
void writeFileAtomically(const std::filesystem::path& file,
                         std::span<const std::span<const std::byte>> parts);
void writeFileAtomically(const std::filesystem::path& file, std::string_view text);

/// Takes the next bytes of a file. Throws FileError.
using ByteSink = std::function<void(std::span<const std::byte>)>;

/// The same for content that is made while it is written: `produce` hands it to the sink piece by
/// piece. Nothing is left of the file when it throws.
void writeFileAtomically(const std::filesystem::path& file,
                         const std::function<void(const ByteSink&)>& produce);

/// With the folders above it, where they are missing. Throws FileError.
void makeFolder(const std::filesystem::path& folder);

/// Throws RequestError unless nothing has that name or it is an empty folder.
void expectNewOrEmptyFolder(const std::filesystem::path& folder);

/// Lets `fill` write into a folder beside `folder`, which then takes that name. Nothing is left of
/// it when `fill` throws. Throws RequestError when `folder` is neither new nor empty, and
/// FileError.
void writeFolderAtomically(const std::filesystem::path& folder,
                           const std::function<void(const std::filesystem::path&)>& fill);

/// Throws FileError when a file could not be written there now.
void expectWritable(const std::filesystem::path& file);

}  // namespace mb
