// A vocabulary as a tree: each byte leads to the tokens that go on with it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/tokenizer/tokenizer.h"

namespace mb {

/// The tokens of a tokenizer that stand for bytes. Immutable, and thread-safe.
class TokenTree {
 public:
  explicit TokenTree(std::shared_ptr<const Tokenizer> tokenizer);

  /// Tokens that start alike: a range of the sorted ones.
  struct Node {
    std::uint32_t first = 0;
    std::uint32_t last = 0;
    std::uint32_t whole = 0;     ///< so many of them, the first ones, have no other bytes
    std::uint32_t children = 0;  ///< index of the first, which is followed by the others
    std::uint16_t childCount = 0;
    Byte byte = 0;  ///< the last of those that they share
  };

  const Tokenizer& tokenizer() const { return *m_tokenizer; }
  /// The first is the root.
  std::span<const Node> nodes() const { return m_nodes; }
  std::span<const Node> childrenOf(const Node& node) const {
    return nodes().subspan(node.children, node.childCount);
  }
  Token tokenAt(std::uint32_t place) const { return m_tokenizer->sortedTokens()[place]; }

  /// The tokens that start with these bytes; null when none does.
  const Node* find(ByteView prefix) const;
  /// The child with this byte, or null.
  const Node* childOf(const Node& node, Byte byte) const;
  /// Places, among the sorted tokens, of those that are a start of these bytes and shorter; the
  /// shortest first.
  std::vector<std::uint32_t> startsOf(ByteView bytes) const;

 private:
  void grow(std::size_t node, std::size_t depth);

  std::shared_ptr<const Tokenizer> m_tokenizer;
  std::vector<Node> m_nodes;
};

}  // namespace mb
