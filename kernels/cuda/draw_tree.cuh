// Drawing a subword token byte by byte where the logits are, as TokenChooser does on the host, up
// to rounding.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/cuda/draw.cuh"
#include "kernels/cuda/packets.cuh"
#include "kernels/cuda/token_tree.h"

namespace mb::cuda {

/// What a block keeps of a tree in shared memory.
struct TreeMemory {
  float weights[kComputeThreads];           ///< of the next bytes
  std::uint32_t children[kComputeThreads];  ///< nodes that they lead to
  float totals[kComputeWarps];              ///< of each warp's stretch of the tokens
  int startPlaces[kMostTokens];  ///< of tokens that are a start of what is to be agreed with
  int startSizes[kMostTokens];
  float sums[1];  ///< of the weights before each token in its stretch
};

/// Tokens of a warp's stretch.
__host__ __device__ inline std::uint32_t treeStretch(std::uint32_t tokens) {
  return (tokens + kComputeThreads - 1) / kComputeThreads * 32;
}
inline std::size_t treeMemoryBytes(std::uint32_t tokens) {
  return sizeof(TreeMemory) + sizeof(float) * kComputeWarps * treeStretch(tokens);
}

/// How far the tokens drawn have come.
struct TreeProgress {
  int agreed = 0;  ///< bytes that they had to agree with
  int drawn = 0;   ///< bytes behind those: each has a key of its own
  int sure = 0;    ///< of these, with at least the confidence that is asked for
  int tokens = 0;  ///< that brought such bytes
  float confidence = 1;
};

/// Draws with all compute threads, which all get the token.
class TreeDraw {
 public:
  /// The token has to agree with what `progress` leaves of `agreement`.
  __device__ TreeDraw(const TokenTree& tree, const Agreement& agreement, TreeProgress& progress,
                      TreeMemory& memory, DrawMemory& drawMemory)
      : m_tree(tree),
        m_spelling(agreement.spelling),
        m_progress(progress),
        m_memory(memory),
        m_drawMemory(drawMemory),
        m_stretch(treeStretch(tree.count)),
        m_node(tree.nodes[0]) {
    for (; progress.agreed + m_depth < static_cast<int>(agreement.size); ++m_depth) {
      if (m_depth > 0 && m_node.whole > 0) addStart();
      m_node = childOf(m_node, agreement.bytes[progress.agreed + m_depth]);
    }
    m_first = m_node.first;
    m_last = m_node.last;
  }

  /// Waits for the logits, which come in the order of the tree.
  __device__ void gather(const uint2* packets, std::uint32_t sequence) {
    constexpr int kRows = 8;  // on the way at a time
    for (std::uint32_t begin = 0; begin < m_tree.count; begin += kRows * kComputeThreads) {
      const auto placeIn = [&](int row) { return begin + row * kComputeThreads + threadIdx.x; };
      uint2 seen[kRows];
      await([&] {
        bool all = true;
#pragma unroll
        for (int row = 0; row < kRows; ++row) {
          const std::uint32_t at = placeIn(row);
          if (at < m_tree.count) seen[row] = look(packets + at);
          all &= at >= m_tree.count || isOf(seen[row], sequence);
        }
        return all;
      });
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        const std::uint32_t at = placeIn(row);
        if (at < m_tree.count) m_memory.sums[at] = __uint_as_float(seen[row].x);
        if (isPossible(at)) m_best.take(__uint_as_float(seen[row].x), static_cast<int>(at));
      }
    }
  }

  /// The token, behind gather(). `drawing` is of its bytes.
  __device__ std::int32_t draw(const Drawing& drawing, float leastConfidence) {
    m_best = bestOfBlock(m_best, m_drawMemory);
    const Best start = bestStart();
    const float top = fmaxf(m_best.logit, start.logit);
    const float weightOfStarts = sumOfStarts(top);
    meet();  // who still reads logits
    addWeights(top);
    const bool greedy = drawing.temperature <= 0;
    const float startWeight = power2((start.logit - top) * kLog2E);
    if (greedy ? start.logit > m_best.logit : startWeight > weightOf(m_node)) {
      m_progress.agreed += m_memory.startSizes[start.token];
      return m_tree.sorted[m_memory.startPlaces[start.token]];
    }
    m_progress.agreed += m_depth;
    const int before = m_progress.drawn;
    const std::int32_t token = greedy ? takeMostProbable(weightOfStarts, leastConfidence)
                                      : drawBytes(drawing, leastConfidence);
    if (m_progress.drawn > before) ++m_progress.tokens;
    return token;
  }

 private:
  /// The byte that mostly follows a finished token, as in TokenChooser.
  static constexpr std::uint32_t kMostlyNext = ' ';

  __device__ std::int32_t drawBytes(const Drawing& drawing, float leastConfidence) {
    while (m_node.childCount > 0) {
      const int key = min(m_progress.drawn, static_cast<int>(kMostTokens) - 1);
      float lead = std::numeric_limits<float>::infinity();
      if (!descend(drawing, drawing.keys[key], leastConfidence > 0 ? &lead : nullptr)) break;
      takeByte(m_progress.confidence * agreementAt(lead), leastConfidence);
    }
    return m_tree.sorted[m_node.first];
  }

  __device__ bool isPossible(std::uint32_t place) const {
    return place >= m_first && place < m_last;
  }

  /// Without tokens when there is no such child. Every warp looks for itself.
  __device__ TokenNode childOf(const TokenNode& node, std::uint32_t byte) const {
    for (std::uint32_t begin = 0; begin < node.childCount; begin += 32) {
      const std::uint32_t child = begin + threadIdx.x % 32;
      const bool isIt = child < node.childCount && m_tree.nodes[node.children + child].byte == byte;
      const unsigned found = __ballot_sync(~0u, isIt);
      if (found) return m_tree.nodes[node.children + begin + __ffs(found) - 1];
    }
    return {};
  }

  /// The tokens of this node that have no other bytes are a start of what is to be agreed with.
  __device__ void addStart() {
    if (threadIdx.x == 0) {
      m_memory.startPlaces[m_starts] = static_cast<int>(m_node.first);
      m_memory.startSizes[m_starts] = m_depth;
    }
    ++m_starts;
  }

  /// The most probable of the starts, as its index among them.
  __device__ Best bestStart() const {
    Best best;
    for (int i = 0; i < m_starts; ++i) best.take(m_memory.sums[m_memory.startPlaces[i]], i);
    return best;
  }

  __device__ float sumOfStarts(float top) const {
    float sum = 0;
    for (int i = 0; i < m_starts; ++i)
      sum += power2((m_memory.sums[m_memory.startPlaces[i]] - top) * kLog2E);
    return sum;
  }

  /// How probable it is that the verifier draws the same byte, see TokenChooser.
  static __device__ float agreementAt(float lead) {
    return reciprocal(1 + 2 * reciprocal(lead));
  }

  /// `confidence` is that of all bytes up to this one.
  __device__ void takeByte(float confidence, float leastConfidence) {
    m_progress.confidence = confidence;
    ++m_progress.drawn;
    if (confidence >= leastConfidence) ++m_progress.sure;
  }

  /// The most probable token. Its bytes are as probable as the tokens that share them with it.
  __device__ std::int32_t takeMostProbable(float weightOfStarts, float leastConfidence) {
    const std::int32_t token = m_tree.sorted[m_best.token];
    const float before = m_progress.confidence;
    const float all = weightOfStarts + weightOf(m_node);
    const std::uint32_t end = m_spelling.begins[token + 1];
    for (std::uint32_t i = m_spelling.begins[token] + m_depth; i < end; ++i) {
      m_node = childOf(m_node, m_spelling.bytes[i]);
      takeByte(before * weightOf(m_node) * reciprocal(all), leastConfidence);
    }
    return token;
  }

  /// Replaces the logits by sums of the weights before them.
  __device__ void addWeights(float top) const {
    const std::uint32_t lane = threadIdx.x % 32;
    const std::uint32_t warp = threadIdx.x / 32;
    float total = 0;
#pragma unroll 4
    for (std::uint32_t row = 0; row < m_stretch; row += 32) {
      const std::uint32_t at = warp * m_stretch + row + lane;
      float sum = isPossible(at) ? power2((m_memory.sums[at] - top) * kLog2E) : 0.0f;
      for (int offset = 1; offset < 32; offset *= 2) {
        const float before = __shfl_up_sync(~0u, sum, offset);
        if (lane >= static_cast<std::uint32_t>(offset)) sum += before;
      }
      const float before = __shfl_up_sync(~0u, sum, 1);
      m_memory.sums[at] = total + (lane > 0 ? before : 0.0f);
      total += __shfl_sync(~0u, sum, 31);
    }
    if (lane == 0) m_memory.totals[warp] = total;
    meet();
  }

  __device__ float sumBefore(std::uint32_t place) const {
    const std::uint32_t stretch = place / m_stretch;
    float sum = stretch < kComputeWarps ? m_memory.sums[place] : 0.0f;
    for (std::uint32_t warp = 0; warp < stretch; ++warp) sum += m_memory.totals[warp];
    return sum;
  }
  __device__ float weightOf(std::uint32_t first, std::uint32_t last) const {
    return fmaxf(sumBefore(last) - sumBefore(first), 0.0f);
  }
  __device__ float weightOf(const TokenNode& node) const {
    return weightOf(node.first, node.last);
  }

  /// Draws the next byte, and tells its lead where it is wanted. Returns whether the token goes on
  /// with it.
  __device__ bool descend(const Drawing& drawing, std::uint64_t key, float* lead) {
    const std::uint32_t thread = threadIdx.x;
    meet();  // who still reads the weights of the bytes before
    m_memory.weights[thread] = 0;
    meet();
    if (thread < m_node.childCount) {
      const TokenNode child = m_tree.nodes[m_node.children + thread];
      m_memory.weights[child.byte] = weightOf(child);
      m_memory.children[child.byte] = m_node.children + thread;
    }
    meet();
    const float goingOn = m_memory.weights[kMostlyNext];
    const float ending = weightOf(m_node.first, m_node.first + m_node.whole);
    const float weight = m_memory.weights[thread] + (thread == kMostlyNext ? ending : 0.0f);
    const float logit = weight > 0 ? kLn2 * logarithm2(weight) : Best{}.logit;
    const int byte = drawToken(drawing, kComputeThreads, logit, key, m_drawMemory, lead);
    if (byte == static_cast<int>(kMostlyNext) && ending > goingOn) return false;
    if (!(m_memory.weights[byte] > 0)) return false;  // only where logits are no numbers
    m_node = m_tree.nodes[m_memory.children[byte]];
    return true;
  }

  const TokenTree& m_tree;
  const Spelling& m_spelling;
  TreeProgress& m_progress;
  TreeMemory& m_memory;
  DrawMemory& m_drawMemory;
  const std::uint32_t m_stretch;
  TokenNode m_node;
  int m_depth = 0;  ///< bytes to agree with
  int m_starts = 0;
  std::uint32_t m_first = 0;  ///< tokens that start with all of them
  std::uint32_t m_last = 0;
  Best m_best;
};

}  // namespace mb::cuda
