// Which token a subword drafter drafts: the most probable one, or the one whose bytes the verifier
// would draw by the drafter's probabilities.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "engine/decoding/sampler.h"
#include "engine/tokenizer/token_tree.h"
#include "engine/types.h"

namespace mb {

/// Chooses among the tokens that agree with given bytes: theirs start with those, or are their
/// start.
class TokenChooser {
 public:
  explicit TokenChooser(std::shared_ptr<const TokenTree> tree);

  struct Choice {
    Token token = -1;  ///< -1 when none agrees
    /// For each of its bytes behind those to agree with: how probable it is that the verifier goes
    /// along up to it, as far as the drafter can tell. Empty when nobody wanted to know.
    std::vector<double> confidences;
  };

  /// The most probable token. Its bytes are as probable as the tokens that share them with it,
  /// among those that agree.
  Choice mostProbable(std::span<const float> logits, ByteView agree, bool wantsConfidences);

  /// Draws a byte from 256 logits, with the random numbers that the verifier has at its position:
  /// that behind the bytes to agree with and those drawn so far.
  using Race = std::function<Sampler::Outcome(std::span<const float> logits, ByteView drawn)>;

  /// Draws byte by byte, each from the distribution over the next byte that follows from the
  /// tokens'. The verifier, which draws with the same random numbers from a similar distribution,
  /// mostly draws the same bytes. At temperature 1 each token is drawn as often as its probability
  /// says.
  Choice draw(std::span<const float> logits, ByteView agree, const Race& race);

 private:
  using Node = TokenTree::Node;

  void weighAgreeing(std::span<const float> logits, const Node* node,
                     std::span<const std::uint32_t> starts);
  double weightOf(std::uint32_t first, std::uint32_t last) const {
    return m_sums[last - m_first] - m_sums[first - m_first];
  }
  double weightOf(const Node& node) const { return weightOf(node.first, node.last); }

  std::shared_ptr<const TokenTree> m_tree;
  std::vector<float> m_agreeing;  ///< logits, in the order of the tree, then of the starts
  std::vector<float> m_weights;   ///< of these tokens, not normalised
  std::uint32_t m_first = 0;      ///< the first of them in the tree
  std::vector<double> m_sums;     ///< of the weights before each of them in the tree
  std::vector<float> m_byteLogits;
};

}  // namespace mb
