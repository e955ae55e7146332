// Drawing subword tokens byte by byte, so that a byte model with the same random numbers mostly
// draws the same: the vocabulary as a tree in device memory.
#pragma once

#include <cstdint>

namespace mb::cuda {

/// Tokens that the tree takes. Their logits have to fit the shared memory of a block.
inline constexpr std::uint32_t kMostTreeTokens = 8192;

/// Tokens that start alike: a range of those sorted by their bytes.
struct TokenNode {
  std::uint32_t first;
  std::uint32_t last;
  std::uint32_t whole;     ///< so many of them, the first ones, have no other bytes
  std::uint32_t children;  ///< index of the first, which is followed by the others
  std::uint32_t childCount;
  std::uint32_t byte;  ///< the last of those that they share
};

/// In device memory.
struct TokenTree {
  const TokenNode* nodes = nullptr;      ///< the first is the root; null where there is no tree
  const std::int32_t* sorted = nullptr;  ///< [count]
  const std::int32_t* places = nullptr;  ///< [V]: of each token among these, or -1
  std::uint32_t count = 0;
};

/// The bytes that tokens drawn from a tree bring.
struct DrawnBytes {
  std::uint32_t sure;  ///< so many, the first ones, have enough confidence
  float confidence;    ///< of all
};

}  // namespace mb::cuda
