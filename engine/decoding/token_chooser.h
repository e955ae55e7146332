// Which token a subword drafter drafts: the most probable one, or the one whose bytes the verifier
// would draw by the drafter's probabilities.
#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/decoding/sampler.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/types.h"

namespace mb {

/// Chooses among the tokens that agree with given bytes: theirs start with those, or are their
/// start.
class TokenChooser {
 public:
  explicit TokenChooser(std::shared_ptr<const Tokenizer> tokenizer);

  struct Choice {
    Token token = -1;  ///< -1 when none agrees
    /// That the verifier goes along, as far as the drafter can tell.
    double confidence = 0;
  };

  /// The most probable token. Its confidence is its probability among those that agree, or 1 when
  /// nobody `wantsConfidence`.
  Choice mostProbable(std::span<const float> logits, ByteView agree, bool wantsConfidence) const;

  /// Draws byte by byte, each from the distribution over the next byte that follows from the
  /// tokens', with the random numbers that `sampler` has for its position in the text. The
  /// verifier, which draws with the same ones from a similar distribution, mostly draws the same
  /// bytes. At temperature 1 each token is drawn as often as its probability says. `agree` ends at
  /// `position`; `recent` is the end of the text before it, as far back as the sampler looks.
  Choice draw(std::span<const float> logits, ByteView agree, Sampler& sampler,
              std::uint64_t position, Bytes recent);

 private:
  /// Tokens that start alike: a range of the sorted ones.
  struct Node {
    std::uint32_t first = 0;
    std::uint32_t last = 0;
    std::uint32_t whole = 0;     ///< so many of them, the first ones, have no other bytes
    std::uint32_t children = 0;  ///< index of the first, which is followed by the others
    std::uint16_t childCount = 0;
    Byte byte = 0;  ///< the last of those that they share
  };

  void grow(std::size_t node, std::size_t depth);
  const Node* find(ByteView prefix) const;
  std::span<const Node> childrenOf(const Node& node) const {
    return std::span(m_nodes).subspan(node.children, node.childCount);
  }
  double weightOf(const Node& node) const { return m_sums[node.last] - m_sums[node.first]; }
  double weightOfWhole(const Node& node) const {
    return m_sums[node.first + node.whole] - m_sums[node.first];
  }
  void sumWeights(std::span<const float> logits);
  std::pair<Token, double> heaviestStartOf(ByteView agree) const;

  std::shared_ptr<const Tokenizer> m_tokenizer;
  std::vector<Node> m_nodes;     ///< a tree; the first is the root
  std::vector<float> m_weights;  ///< of the tokens, not normalised
  std::vector<double> m_sums;    ///< of those before each place in the sorted tokens
  std::vector<float> m_byteLogits;
};

}  // namespace mb
