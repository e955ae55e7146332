// Which of a chunk's guessed tokens stand, decided where the logits are.
#pragma once

#include <cstdint>
#include <cuda_runtime_api.h>
#include <span>

#include "kernels/cuda/chunk.h"

namespace mb::cuda {

/// When a guessed token stands.
struct Judgement {
  bool byRank = false;     ///< while fewer than `beta` tokens are more probable; else while it is
  std::uint32_t beta = 0;  ///< what `drawing` draws
  Drawing drawing{};       ///< with a point for each guess
};

/// Whether judge() takes the model: its vocabulary is at most 256.
bool canJudge(const DeviceWeights& weights);

/// Behind runChunk() over `tokens`, or over the list where there is one, of which all but the first
/// are guesses: leaves in workspace.stands which of them stand. Those behind the first that does
/// not do not count.
void judge(const DeviceWeights& weights, Workspace& workspace, std::span<const std::int32_t> tokens,
           const TokenList* list, const Judgement& judgement, cudaStream_t stream);

/// Behind judge(): what replay() does with the first token and the guesses that stand. Leaves in
/// workspace.kept how many tokens those are.
void replayStanding(const DeviceWeights& weights, Workspace& workspace, const float* stateIn,
                    float* stateOut, cudaStream_t stream);

}  // namespace mb::cuda
