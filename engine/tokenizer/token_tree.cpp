#include "engine/tokenizer/token_tree.h"

#include <algorithm>
#include <utility>

namespace mb {

TokenTree::TokenTree(std::shared_ptr<const Tokenizer> tokenizer)
    : m_tokenizer(std::move(tokenizer)), m_nodes(1) {
  m_nodes[0].last = static_cast<std::uint32_t>(m_tokenizer->sortedTokens().size());
  for (std::size_t depth = 0, begin = 0; begin < m_nodes.size(); ++depth) {
    const std::size_t end = m_nodes.size();
    for (std::size_t i = begin; i < end; ++i) grow(i, depth);
    begin = end;
  }
}

/// Adds the children of a node, whose tokens share `depth` bytes.
void TokenTree::grow(std::size_t node, std::size_t depth) {
  const auto sorted = m_tokenizer->sortedTokens();
  const std::uint32_t last = m_nodes[node].last;
  std::uint32_t i = m_nodes[node].first;
  while (i < last && m_tokenizer->bytes(sorted[i]).size() == depth) ++i;
  m_nodes[node].whole = i - m_nodes[node].first;
  m_nodes[node].children = static_cast<std::uint32_t>(m_nodes.size());
  while (i < last) {
    const Byte byte = m_tokenizer->bytes(sorted[i])[depth];
    const std::uint32_t first = i;
    while (i < last && m_tokenizer->bytes(sorted[i])[depth] == byte) ++i;
    m_nodes.push_back({.first = first, .last = i, .byte = byte});
    ++m_nodes[node].childCount;
  }
}

const TokenTree::Node* TokenTree::childOf(const Node& node, Byte byte) const {
  const auto children = childrenOf(node);
  const auto child = std::ranges::find(children, byte, &Node::byte);
  return child == children.end() ? nullptr : &*child;
}

const TokenTree::Node* TokenTree::find(ByteView prefix) const {
  const Node* node = m_nodes.data();
  for (std::size_t i = 0; node && i < prefix.size(); ++i) node = childOf(*node, prefix[i]);
  return node;
}

std::vector<std::uint32_t> TokenTree::startsOf(ByteView bytes) const {
  std::vector<std::uint32_t> starts;
  const Node* node = m_nodes.data();
  for (std::size_t i = 0; i + 1 < bytes.size(); ++i) {
    node = childOf(*node, bytes[i]);
    if (!node) break;
    if (node->whole > 0) starts.push_back(node->first);
  }
  return starts;
}

}  // namespace mb
