// Small tokenizer.json files.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "engine/types.h"

namespace mb::test {

/// A byte as GPT-2's alphabet writes it: printable Latin-1 as itself, the others from U+0100 on in
/// order.
std::string alphabetText(ByteView bytes);
inline std::string alphabetText(std::string_view bytes) {
  return alphabetText(ByteView(reinterpret_cast<const Byte*>(bytes.data()), bytes.size()));
}

/// A byte-level BPE tokenizer. Token b < 256 is the byte b; token 256 + i joins merges[i].
nlohmann::json tokenizerJson(const std::vector<std::pair<std::string, std::string>>& merges = {},
                             bool mergesAsText = false);

}  // namespace mb::test
