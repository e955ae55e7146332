#include "engine/tokenizer/byte_level.h"

#include <array>

namespace mb {

namespace {

constexpr int kFirstStandIn = 256;  // code points from here stand for bytes that do not print
constexpr int kAlphabetEnd = 512;   // above the last stand-in

bool printsAsItself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

/// Byte of each code point below kAlphabetEnd, or -1.
std::array<int, kAlphabetEnd> makeAlphabet() {
  std::array<int, kAlphabetEnd> byteOf;
  byteOf.fill(-1);
  int standIn = kFirstStandIn;
  for (int byte = 0; byte < 256; ++byte)
    byteOf[static_cast<std::size_t>(printsAsItself(byte) ? byte : standIn++)] = byte;
  return byteOf;
}

}  // namespace

std::optional<Bytes> bytesOfAlphabet(std::string_view utf8) {
  static const std::array<int, kAlphabetEnd> kByteOf = makeAlphabet();
  Bytes bytes;
  for (std::size_t i = 0; i < utf8.size(); ++i) {
    std::size_t codePoint = static_cast<unsigned char>(utf8[i]);
    if (codePoint >= 0x80) {  // the alphabet needs at most two UTF-8 bytes
      if ((codePoint & 0xe0) != 0xc0 || i + 1 == utf8.size()) return std::nullopt;
      codePoint = (codePoint & 0x1f) << 6 | (static_cast<unsigned char>(utf8[++i]) & 0x3f);
    }
    if (codePoint >= kAlphabetEnd || kByteOf[codePoint] < 0) return std::nullopt;
    bytes.push_back(static_cast<Byte>(kByteOf[codePoint]));
  }
  return bytes;
}

}  // namespace mb
