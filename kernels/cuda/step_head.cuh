// The logits behind a single token, and drawing the next from them.
#pragma once

#include "kernels/cuda/step_products.cuh"

namespace mb::cuda {

template <int PAIRS>
template <bool FROM_TREE>
__device__ void Step<PAIRS>::writeLogits() {
  const int tileRows = static_cast<int>(m_block.headTiles.count);
  const bool sendsAll = FROM_TREE || everyThreadHasALogit(a.size);
  Best best;
#pragma unroll 1
  for (int panel = 0; panel < tileRows; panel += kPanel) {
    const int height = min(kPanel, tileRows - panel);
    product(inputPackets(), m_modelTiles, height, true);
    const std::uint32_t id = (m_block.headTiles.begin + panel) * 16 + threadIdx.x;
    if (static_cast<int>(threadIdx.x) >= height * 16 || id >= a.size.vocabulary) continue;
    const float logit = fmaf(total(threadIdx.x), m_scale, 0.0f);
    a.logits[static_cast<std::size_t>(m_pass) * a.size.vocabulary + id] = logit;
    if (!drawsNext()) continue;
    const float offered = FROM_TREE || mayBeDrawn(id) ? logit : Best{}.logit;
    best.take(offered, static_cast<int>(id));
    const int place = FROM_TREE ? a.tree.places[id] : static_cast<int>(id);
    if (!sendsAll || place < 0) continue;
    for (int i = 0; i < kInputCopies; ++i)
      send(reinterpret_cast<uint2*>(a.packets + a.packetLayout.logits +
                                    i * a.packetLayout.logitsSize) +
               place,
           __float_as_uint(offered), m_sequence);
  }
  if (drawsNext() && !sendsAll && tileRows > 0) sendBest(best);
}

/// Whether a token agrees with the bytes that the first drawn one has to agree with.
template <int PAIRS>
__device__ bool Step<PAIRS>::mayBeDrawn(std::uint32_t token) const {
  const Agreement& agreement = a.agreement;
  if (agreement.size == 0 || drawIndex() != 0) return true;
  const std::uint32_t begin = agreement.spelling.begins[token];
  const std::uint32_t size = agreement.spelling.begins[token + 1] - begin;
  const std::uint32_t common = min(size, agreement.size);
  for (std::uint32_t i = 0; i < common; ++i)
    if (agreement.spelling.bytes[begin + i] != agreement.bytes[i]) return false;
  return common > 0;
}

/// Tells those who draw which of the block's tokens is the most probable.
template <int PAIRS>
__device__ void Step<PAIRS>::sendBest(const Best& mine) {
  const Best best = bestOfBlock(mine, drawMemory());
  if (threadIdx.x >= kInputCopies) return;
  send(a.packets + a.packetLayout.logits + threadIdx.x * a.packetLayout.logitsSize + blockIdx.x,
       __float_as_uint(best.logit), static_cast<std::uint32_t>(best.token), m_sequence);
}

/// The next token. Every block that needs it draws it, from the same logits.
template <int PAIRS>
template <bool FROM_TREE>
__device__ int Step<PAIRS>::draw() {
  const uint4* from =
      a.packets + a.packetLayout.logits + blockIdx.x % kInputCopies * a.packetLayout.logitsSize;
  int token;
  if constexpr (FROM_TREE)
    token = drawFromTree(from);
  else
    token = everyThreadHasALogit(a.size) ? drawFromAll(from) : takeBest(from);
  if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0 && drawIndex() >= 0) {
    a.drawn[drawIndex()] = token;
    if (FROM_TREE)
      *a.drawnBytes = {static_cast<std::uint32_t>(m_treeProgress.sure), m_treeProgress.confidence};
  }
  return token;
}

template <int PAIRS>
__device__ int Step<PAIRS>::drawFromAll(const uint4* logits) {
  const int vocabulary = static_cast<int>(a.size.vocabulary);
  const uint2* at =
      reinterpret_cast<const uint2*>(logits) + min(static_cast<int>(threadIdx.x), vocabulary - 1);
  uint2 logit;
  await([&] {
    logit = look(at);
    return isOf(logit, m_sequence);
  });
  return drawToken(a.drawing, vocabulary, __uint_as_float(logit.x),
                   a.drawing.keys[max(drawIndex(), 0)], drawMemory());
}

/// The token whose bytes are drawn one after the other.
template <int PAIRS>
__device__ int Step<PAIRS>::drawFromTree(const uint4* logits) {
  auto& memory = *reinterpret_cast<TreeMemory*>(chunkMemory + a.memory.tree);
  TreeDraw draw(a.tree, a.agreement, m_treeProgress, memory, drawMemory());
  draw.gather(reinterpret_cast<const uint2*>(logits), m_sequence);
  return drawIndex() < 0 ? 0 : draw.draw(a.drawing, a.leastConfidence);
}

/// The most probable token, of those that the blocks found among theirs.
template <int PAIRS>
__device__ int Step<PAIRS>::takeBest(const uint4* bests) {
  const bool has = threadIdx.x < gridDim.x && a.blocks[threadIdx.x].headTiles.count > 0;
  uint4 best = {};
  await([&] {
    if (has) best = look(bests + threadIdx.x);
    return !has || isOf(best, m_sequence);
  });
  const Best mine = has ? Best{__uint_as_float(best.x), static_cast<int>(best.z)} : Best{};
  return bestOfBlock(mine, drawMemory()).token;
}

}  // namespace mb::cuda
