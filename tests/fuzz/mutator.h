// Makes damaged inputs out of valid ones: the same ones for the same numbers.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/types.h"
#include "tests/fuzz/targets.h"

namespace mb::fuzz {

/// Random choices that are the same on every machine.
class Choices {
 public:
  explicit Choices(std::uint64_t seed) : m_seed(seed) {}
  std::uint64_t next();
  /// In [0, end); end > 0.
  std::size_t below(std::size_t end) { return static_cast<std::size_t>(next() % end); }
  /// True once in `n`.
  bool oneIn(std::size_t n) { return below(n) == 0; }
  template <class Items>
  const auto& of(const Items& items) {
    return items[below(std::size(items))];
  }

 private:
  std::uint64_t m_seed;
  std::uint64_t m_counter = 0;
};

/// Start and length of a piece.
using Piece = std::pair<std::size_t, std::size_t>;

/// Numbers, strings and words of a JSON text, as far as it can be read.
std::vector<Piece> jsonTokens(ByteView text);
/// Opcodes of a pickle with their arguments, as far as it can be read.
std::vector<Piece> pickleOpcodes(ByteView program);

/// Largest input made.
inline constexpr std::size_t kMostBytes = 1 << 20;

/// Input number `index` of a run with this seed: one of `seeds` with a few mutations. Any input is
/// made without the ones before it.
Bytes mutated(const Target& target, const std::vector<Sample>& seeds, std::uint64_t runSeed,
              std::uint64_t index);

}  // namespace mb::fuzz
