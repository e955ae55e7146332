#include <algorithm>

#include "kernels/cuda/spell.h"

namespace mb::cuda {

namespace {

struct SpellArguments {
  TokenList head;
  Spelling spelling;
  std::uint32_t agree;           // bytes
  const DrawnBytes* drawnBytes;  // of tokens from a tree, or null
  std::uint32_t draws;
  std::uint32_t tokens;
  std::uint32_t most;
  const std::int32_t* drawn;
  TokenList* list;
  TokenList* copy;
};

/// Of what lanes with lower numbers bring. All lanes take part.
__device__ std::uint32_t sumOfLanesBefore(std::uint32_t own) {
  const std::uint32_t lane = threadIdx.x;
  std::uint32_t sum = own;
  for (std::uint32_t offset = 1; offset < 32; offset *= 2) {
    const std::uint32_t before = __shfl_up_sync(~0u, sum, offset);
    if (lane >= offset) sum += before;
  }
  return sum - own;
}

/// One warp, a lane a token drawn. Lanes without one end the draft, like tokens without bytes.
__global__ void spellKernel(const __grid_constant__ SpellArguments a) {
  const std::uint32_t lane = threadIdx.x;
  // Both from the host's memory, on their way together.
  const std::uint32_t sure = a.drawnBytes ? a.drawnBytes->sure : a.most;
  const std::int32_t drawn = lane < a.draws ? a.drawn[lane] : kNoToken;
  const std::int32_t token = max(drawn, 0);
  const std::uint32_t begin = a.spelling.begins[token];
  const std::uint32_t size = drawn == kNoToken ? 0 : a.spelling.begins[token + 1] - begin;
  const std::uint32_t before = sumOfLanesBefore(size);
  const std::uint32_t known = min(size, a.agree - min(a.agree, before));
  const bool leaves = lane == 0 && size < a.agree && !a.drawnBytes;
  const std::uint32_t ends = __ballot_sync(~0u, size == 0 || leaves);
  const bool reached = ends == 0 || lane < __ffs(ends) - 1;
  const std::uint32_t bringing = sumOfLanesBefore(size > known ? 1 : 0);  // tokens that bring bytes
  const bool taken = reached && bringing < a.tokens;
  const std::uint32_t fresh = taken ? size - known : 0;
  std::uint32_t at = a.head.count + sumOfLanesBefore(fresh);
  const std::uint32_t most = min(a.most, a.head.count + sure);
  const std::uint32_t count = min(__shfl_sync(~0u, at + fresh, 31), most);
  const auto put = [&](std::uint32_t place, std::int32_t value) {
    a.list->tokens[place] = value;
    a.copy->tokens[place] = value;
  };
  if (lane < a.head.count) put(lane, a.head.tokens[lane]);
  for (std::uint32_t i = known; taken && i < size && at < count; ++i)
    put(at++, a.spelling.bytes[begin + i]);
  if (lane != 0) return;
  a.list->count = count;
  a.copy->count = count;
}

}  // namespace

void spell(const Workspace& drafter, const SpellRun& run, TokenList* list, TokenList* copy,
           cudaStream_t stream) {
  SpellArguments arguments{
      .head = {.count = static_cast<std::uint32_t>(run.head.size())},
      .spelling = run.agreement.spelling,
      .agree = run.agreement.size,
      .drawnBytes = run.fromTree ? drafter.drawnBytes.data() : nullptr,
      .draws = run.draws,
      .tokens = run.tokens,
      .most = run.most,
      .drawn = drafter.drawn.data(),
      .list = list,
      .copy = copy,
  };
  std::ranges::copy(run.head, arguments.head.tokens);
  spellKernel<<<1, 32, 0, stream>>>(arguments);
  check(cudaGetLastError(), "spelling a draft");
}

}  // namespace mb::cuda
