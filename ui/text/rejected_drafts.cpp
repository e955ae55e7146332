#include "ui/text/rejected_drafts.h"

#include <algorithm>

#include "ui/text/utf8.h"

namespace mb::ui {

namespace {

constexpr std::size_t kMostCharacters = 10;

}  // namespace

std::u32string rejectedText(const RoundRecord& round) {
  std::u32string text;
  const auto byteAt = [&](std::size_t i) { return round.draft[i]; };
  for (std::size_t i = round.accepted; i < round.draft.size();) {
    if (text.size() == kMostCharacters) {
      text.back() = U'…';
      break;
    }
    const Character character = characterAt(byteAt, i, round.draft.size());
    const bool prints =
        character.valid && character.codePoint >= 0x20 && character.codePoint != 0x7f;
    text += prints ? static_cast<char32_t>(character.codePoint) : U'·';
    i += character.length;
  }
  return text;
}

}  // namespace mb::ui
