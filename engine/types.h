// The engine's smallest words.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mb {

using Byte = std::uint8_t;
using Bytes = std::vector<Byte>;
using ByteView = std::span<const Byte>;

/// Row of the embedding: a byte value for byte models, a vocabulary entry for subword models.
using Token = std::int32_t;
using TokenView = std::span<const Token>;

inline Bytes toBytes(std::string_view text) {
  return Bytes(text.begin(), text.end());
}
inline std::string_view toText(ByteView bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Vocabulary size of a byte model.
inline constexpr int kByteVocabulary = 256;

}  // namespace mb
