// A drafter that says what a test tells it to.
#pragma once

#include <algorithm>
#include <functional>
#include <string>

#include "engine/decoding/drafter.h"

namespace mb::test {

/// Follows the text like any drafter; the guess is up to a function.
class ScriptedDrafter : public Drafter {
 public:
  /// Bytes to propose after this text. They are cut to what was asked for unless `greedy`.
  using Guess = std::function<Bytes(ByteView text)>;
  explicit ScriptedDrafter(Guess guess, bool greedy = false)
      : m_guess(std::move(guess)), m_greedy(greedy) {}

  std::string name() const override { return "script"; }
  void configure(const DraftSettings& wanted) override { settings = wanted; }
  void reset(ByteView newText, std::stop_token) override {
    text.assign(newText.begin(), newText.end());
  }
  void append(ByteView bytes) override { text.insert(text.end(), bytes.begin(), bytes.end()); }

  /// One token for every two bytes.
  Draft propose(std::size_t tokens, std::size_t maxBytes, std::stop_token) override {
    ++proposals;
    largestRequest = std::max(largestRequest, maxBytes);
    Draft draft{m_guess(text), {}};
    if (!m_greedy) draft.bytes.resize(std::min({draft.bytes.size(), maxBytes, 2 * tokens}));
    for (std::size_t i = 0; i < draft.bytes.size(); i += 2) {
      const std::size_t end = std::min(i + 2, draft.bytes.size());
      draft.tokens.push_back({7, static_cast<std::uint16_t>(i), static_cast<std::uint16_t>(end)});
    }
    return draft;
  }

  Bytes text;
  DraftSettings settings;
  std::size_t proposals = 0;
  std::size_t largestRequest = 0;

 private:
  Guess m_guess;
  bool m_greedy;
};

/// Guesses `length` bytes of a known text, each wrong where `wrong(offset)` says so.
inline ScriptedDrafter::Guess guessFrom(
    Bytes known, std::size_t length,
    std::function<bool(std::size_t)> wrong = [](std::size_t) { return false; }) {
  return [known = std::move(known), length, wrong = std::move(wrong)](ByteView text) {
    Bytes guess;
    for (std::size_t i = text.size(); i < std::min(known.size(), text.size() + length); ++i)
      guess.push_back(static_cast<Byte>(wrong(i) ? known[i] + 1 : known[i]));
    return guess;
  };
}

}  // namespace mb::test
