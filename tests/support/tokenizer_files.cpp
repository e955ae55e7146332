#include "tests/support/tokenizer_files.h"

namespace mb::test {

using Json = nlohmann::json;

std::string alphabetText(ByteView bytes) {
  const auto prints = [](int b) {
    return (b > 0x20 && b < 0x7f) || (b > 0xa0 && b < 0x100 && b != 0xad);
  };
  std::string text;
  for (const int byte : bytes) {
    int codePoint = byte;
    if (!prints(byte)) {
      codePoint = 256;
      for (int lower = 0; lower < byte; ++lower) codePoint += prints(lower) ? 0 : 1;
    }
    if (codePoint < 0x80) {
      text += static_cast<char>(codePoint);
    } else {
      text += static_cast<char>(0xc0 | codePoint >> 6);
      text += static_cast<char>(0x80 | (codePoint & 0x3f));
    }
  }
  return text;
}

Json tokenizerJson(const std::vector<std::pair<std::string, std::string>>& merges,
                   bool mergesAsText) {
  Json vocabulary = Json::object();
  for (int byte = 0; byte < 256; ++byte) {
    const Byte value = static_cast<Byte>(byte);
    vocabulary[alphabetText({&value, 1})] = byte;
  }
  Json list = Json::array();
  int next = 256;
  for (const auto& [left, right] : merges) {
    const std::string a = alphabetText(left);
    const std::string b = alphabetText(right);
    vocabulary[a + b] = next++;
    list.push_back(mergesAsText ? Json(a + " " + b) : Json({a, b}));
  }
  return {
      {"version", "1.0"},
      {"added_tokens", Json::array()},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", list}}}};
}

}  // namespace mb::test
