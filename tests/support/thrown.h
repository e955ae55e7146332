// Errors as values, so that a test can look at what a call threw.
#pragma once

#include <optional>
#include <string>
#include <utility>

namespace mb::test {

/// The E that `action` throws, or nothing when it returns. Any other exception passes through and
/// fails the test.
template <class E, class Action>
std::optional<E> thrown(Action&& action) {
  try {
    std::forward<Action>(action)();
  } catch (const E& error) {
    return error;
  }
  return std::nullopt;
}

/// Whether the message holds every one of these texts.
template <class... Texts>
bool mentions(const std::string& message, const Texts&... texts) {
  return ((message.find(texts) != std::string::npos) && ...);
}

}  // namespace mb::test
