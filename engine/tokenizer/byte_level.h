// The byte-level alphabet of GPT-2: each byte as one printable character, so that vocabularies can
// be written as JSON text.
#pragma once

#include <optional>
#include <string_view>

#include "engine/types.h"

namespace mb {

/// Bytes that a token's text stands for, or nothing when it holds a character outside the alphabet.
std::optional<Bytes> bytesOfAlphabet(std::string_view utf8);

}  // namespace mb
