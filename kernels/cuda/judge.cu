#include <algorithm>

#include "kernels/cuda/draw.cuh"
#include "kernels/cuda/judge.h"
#include "kernels/cuda/packets.cuh"

namespace mb::cuda {

namespace {

struct JudgeArguments {
  Judgement judgement;
  const float* logits;  // [tokens][V]
  int vocabulary;
  TokenList given;
  const TokenList* list;  // or null: then those given
  std::uint32_t* stands;  // [kMostTokens]
};

/// One block a guess, one thread a token of the vocabulary. Behind the last guess nothing stands.
__global__ void __launch_bounds__(kComputeThreads)
    judgeKernel(const __grid_constant__ JudgeArguments a) {
  __shared__ DrawMemory memory;
  const std::uint32_t i = blockIdx.x;
  const int thread = threadIdx.x;
  const TokenList& chunk = a.list ? *a.list : a.given;
  if (i + 1 >= chunk.count) {
    if (thread == 0) a.stands[i] = 0;
    return;
  }
  const int guess = chunk.tokens[i + 1];
  const float* logits = a.logits + static_cast<std::size_t>(i) * a.vocabulary;
  const float logit = logits[min(thread, a.vocabulary - 1)];
  bool stands;
  if (a.judgement.byRank) {
    const int better = countThreads(thread < a.vocabulary && logit > logits[guess]);
    stands = static_cast<std::uint32_t>(better) < a.judgement.beta;
  } else {
    const Drawing& drawing = a.judgement.drawing;
    stands = drawToken(drawing, a.vocabulary, logit, drawing.keys[i], memory) == guess;
  }
  if (thread == 0) a.stands[i] = stands;
}

}  // namespace

bool canJudge(const DeviceWeights& weights) {
  return everyThreadHasALogit(weights.plan.dimensions());
}

void judge(const DeviceWeights& weights, Workspace& workspace, std::span<const std::int32_t> tokens,
           const TokenList* list, const Judgement& judgement, cudaStream_t stream) {
  JudgeArguments arguments{
      .judgement = judgement,
      .logits = workspace.logits.data(),
      .vocabulary = static_cast<int>(weights.plan.dimensions().vocabulary),
      .given = {.count = static_cast<std::uint32_t>(tokens.size())},
      .list = list,
      .stands = workspace.stands.data(),
  };
  std::ranges::copy(tokens, arguments.given.tokens);
  judgeKernel<<<kMostTokens, kComputeThreads, 0, stream>>>(arguments);
  check(cudaGetLastError(), "judging a chunk");
}

}  // namespace mb::cuda
