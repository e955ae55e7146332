// Drafted subword tokens as the bytes that a byte model reads.
#pragma once

#include <cstdint>
#include <cuda_runtime_api.h>
#include <span>

#include "kernels/cuda/chunk.h"

namespace mb::cuda {

struct SpellRun {
  /// What the chunk begins with: at least one token, and fewer than `most`.
  std::span<const std::int32_t> head;
  Agreement agreement{};  ///< with which the first token was drawn
  /// Tokens came from a tree: the next one agrees with what the first left of that, and so on, and
  /// only bytes that are sure are taken.
  bool fromTree = false;
  std::uint32_t draws = 0;   ///< tokens drawn, at most kMostTokens
  std::uint32_t tokens = 0;  ///< most of them that are taken and bring bytes
  std::uint32_t most = 0;    ///< tokens of the chunk, at most kMostTokens
};

/// Behind runChunk() that draws with the drafter's workspace: leaves in `list`, and on the host in
/// `copy`, the head and the bytes of the tokens drawn. They bring only bytes beyond those to agree
/// with; where the first ends before these and the next does not know of the rest, nothing of what
/// is drawn is taken. A token without bytes ends the draft as well.
void spell(const Workspace& drafter, const SpellRun& run, TokenList* list, TokenList* copy,
           cudaStream_t stream);

}  // namespace mb::cuda
