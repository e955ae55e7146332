// Texts, scores and rounds made up by hand, as the engine would report them.
#pragma once

#include <QString>
#include <algorithm>
#include <string>
#include <vector>

#include "ui/model/document.h"

namespace mb::test {

inline ui::ScoredBytes scores(std::size_t first, const std::string& text,
                              Origin origin = Origin::Plain, float surprisal = 1,
                              std::int32_t round = -1) {
  ui::ScoredBytes result{first, {}};
  for (const char c : text) {
    ByteRecord record;
    record.byte = static_cast<Byte>(c);
    record.origin = origin;
    record.scored = true;
    record.round = round;
    record.surprisal = surprisal;
    result.records.push_back(record);
  }
  return result;
}

/// A round that drafted `draft` at `position`; the byte behind the accepted ones was rejected when
/// there is one, and corrected with one byte, else a bonus byte followed. Tokens have two bytes.
inline RoundRecord madeRound(std::int32_t index, std::size_t position, const std::string& draft,
                             std::uint32_t accepted) {
  RoundRecord round;
  round.index = index;
  round.position = position;
  round.draft = toBytes(draft);
  round.accepted = accepted;
  const auto drafted = static_cast<std::uint32_t>(draft.size());
  const bool whole = accepted == drafted;
  round.rejected = whole ? 0 : 1;
  round.corrected = whole ? 0 : 1;
  round.bonus = whole ? 1 : 0;
  round.ignored = drafted - accepted - round.rejected;
  for (std::uint32_t begin = 0; begin < drafted; begin += 2) {
    const std::uint32_t end = std::min(begin + 2, drafted);
    round.tokens.push_back({1, static_cast<std::uint16_t>(begin), static_cast<std::uint16_t>(end)});
    if (begin < round.tested()) ++round.testedTokens;
    if (end <= accepted) ++round.acceptedTokens;
  }
  return round;
}

inline QString textOf(const ui::Document& document) {
  const Bytes bytes = document.bytes();
  return QString::fromUtf8(reinterpret_cast<const char*>(bytes.data()),
                           static_cast<int>(bytes.size()));
}

}  // namespace mb::test
