// UTF-8 one character at a time, for bytes that may be anything.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mb::ui {

struct Character {
  std::size_t length = 1;  ///< bytes
  std::uint32_t codePoint = 0;
  bool valid = false;  ///< false for a byte that starts no valid sequence; its length is 1
};

/// Reads the character at `i`. `byteAt(k)` gives byte k < size. Refuses overlong forms, surrogates
/// and code points beyond U+10FFFF.
template <class ByteAt>
Character characterAt(const ByteAt& byteAt, std::size_t i, std::size_t size) {
  const std::uint32_t lead = byteAt(i);
  if (lead < 0x80) return {1, lead, true};
  const std::size_t length = lead >= 0xf0 ? 4 : (lead >= 0xe0 ? 3 : 2);
  const Character invalid{1, lead, false};
  if (lead < 0xc2 || lead > 0xf4 || i + length > size) return invalid;
  std::uint32_t codePoint = lead & (0x7fu >> length);
  for (std::size_t k = 1; k < length; ++k) {
    const std::uint32_t next = byteAt(i + k);
    if ((next & 0xc0u) != 0x80u) return invalid;
    codePoint = codePoint << 6 | (next & 0x3fu);
  }
  constexpr std::uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = codePoint >= 0xd800 && codePoint < 0xe000;
  if (codePoint < kLeast[length] || codePoint > 0x10ffff || surrogate) return invalid;
  return {length, codePoint, true};
}

}  // namespace mb::ui
