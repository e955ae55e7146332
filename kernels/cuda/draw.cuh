// Drawing the next token where the logits are, as Sampler does on the host, up to rounding.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/cuda/chunk_arguments.cuh"
#include "kernels/cuda/math.cuh"

namespace mb::cuda {

/// What a block that draws keeps in shared memory.
struct alignas(16) DrawMemory {
  float logits[kComputeThreads];
  float sorted[kComputeThreads];
  float warpSums[kComputeWarps];
  float best[kComputeWarps];
  int bestToken[kComputeWarps];
};

/// Compute threads for which a condition holds. All of them meet.
__device__ inline int countThreads(bool condition) {
  int count;
  asm volatile(
      "{\n"
      ".reg .pred holds;\n"
      "setp.ne.s32 holds, %1, 0;\n"
      "bar.red.popc.u32 %0, 1, %2, holds;\n"
      "}\n"
      : "=r"(count)
      : "r"(static_cast<int>(condition)), "n"(kComputeThreads)
      : "memory");
  return count;
}

/// Whether a comes before b: the larger value, and of equal ones the lower token.
__device__ inline bool comesBefore(float a, int token, float b, int other) {
  return a > b || (a == b && token < other);
}

struct Best {
  float logit = -std::numeric_limits<float>::infinity();
  int token = 0;

  __device__ void take(float other, int otherToken) {
    if (!comesBefore(other, otherToken, logit, token)) return;
    logit = other;
    token = otherToken;
  }
};

/// The best of what all compute threads bring, in all of them.
__device__ inline Best bestOfBlock(Best best, DrawMemory& memory) {
  const int warp = threadIdx.x / 32;
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(~0u, best.logit, offset);
    best.take(other, __shfl_xor_sync(~0u, best.token, offset));
  }
  meet();  // who still reads what was found before
  if (threadIdx.x % 32 == 0) {
    memory.best[warp] = best.logit;
    memory.bestToken[warp] = best.token;
  }
  meet();
  for (int w = 0; w < kComputeWarps; ++w) best.take(memory.best[w], memory.bestToken[w]);
  return best;
}

/// Of the compute threads, how many bring a value that comes before this thread's.
__device__ inline int rankOf(float logit, DrawMemory& memory) {
  const int thread = threadIdx.x;
  memory.logits[thread] = logit;
  meet();
  int rank = 0;
#pragma unroll 8
  for (int i = 0; i < kComputeThreads; i += 4) {
    const float4 others = *reinterpret_cast<const float4*>(memory.logits + i);
    rank += comesBefore(others.x, i, logit, thread);
    rank += comesBefore(others.y, i + 1, logit, thread);
    rank += comesBefore(others.z, i + 2, logit, thread);
    rank += comesBefore(others.w, i + 3, logit, thread);
  }
  return rank;
}

/// The exponentially distributed number of token `i`, as Ops::arrivals makes it.
__device__ inline float arrival(std::uint64_t key, std::uint32_t i) {
  std::uint32_t h = i * 0x9e3779b9u + static_cast<std::uint32_t>(key);
  h = (h ^ h >> 16) * 0x85ebca6bu ^ static_cast<std::uint32_t>(key >> 32);
  h = (h ^ h >> 13) * 0xc2b2ae35u;
  const float uniform =
      fminf((static_cast<float>((h ^ h >> 16) >> 1) + 0.5f) * 0x1p-31f, 1 - 0x1p-24f);
  // -log(1 - uniform); for a small one by its series, as the difference would round it away.
  const float series =
      uniform * fmaf(uniform, fmaf(uniform, fmaf(uniform, 0.25f, 1.0f / 3), 0.5f), 1.0f);
  return uniform < 0.05f ? series : -kLn2 * logarithm2(1.0f - uniform);
}

/// Whether the token of this thread stays by top-k, top-p and min-p. All compute threads meet.
__device__ inline bool isKept(const Drawing& drawing, int vocabulary, float logit, float weight,
                              DrawMemory& memory) {
  const int thread = threadIdx.x;
  const int warp = thread / 32;
  // Most probable first.
  const int rank = rankOf(logit, memory);
  memory.sorted[rank] = weight;
  meet();

  // Sums over those before and including the thread's, of the k that may stay.
  int kept = vocabulary;
  if (drawing.topK > 0) kept = min(kept, static_cast<int>(drawing.topK));
  const float own = thread < kept ? memory.sorted[thread] : 0.0f;
  float sum = own;
  for (int offset = 1; offset < 32; offset *= 2) {
    const float before = __shfl_up_sync(~0u, sum, offset);
    if (thread % 32 >= offset) sum += before;
  }
  if (thread % 32 == 31) memory.warpSums[warp] = sum;
  meet();
  float total = 0;
  for (int w = 0; w < kComputeWarps; ++w) {
    if (w < warp) sum += memory.warpSums[w];
    total += memory.warpSums[w];
  }
  const auto topP = static_cast<float>(drawing.topP);
  if (topP < 1) kept = max(1, countThreads(thread < kept && sum - own < topP * total));
  const auto minP = static_cast<float>(drawing.minP);
  if (minP > 0) kept = max(1, countThreads(thread < kept && own >= minP * memory.sorted[0]));
  return rank < kept;
}

/// Draws with all compute threads, each of which brings the logit of its token; those behind the
/// vocabulary bring nothing. All get the token, and its lead where it is wanted of a race (see
/// Sampler::Outcome).
__device__ inline int drawToken(const Drawing& drawing, int vocabulary, float logit,
                                std::uint64_t key, DrawMemory& memory, float* lead = nullptr) {
  const int thread = threadIdx.x;
  if (thread >= vocabulary) logit = Best{}.logit;
  const Best best = bestOfBlock({logit, thread}, memory);
  if (drawing.temperature <= 0) return best.token;
  const float scale = kLog2E / static_cast<float>(drawing.temperature);
  const float weight = power2((logit - best.logit) * scale);
  const bool keepsAll = drawing.topK == 0 && drawing.topP >= 1 && drawing.minP <= 0;
  const bool races = keepsAll || isKept(drawing, vocabulary, logit, weight, memory);
  const float speed = races ? weight : 0.0f;
  const Best own{-arrival(key, thread) * reciprocal(speed), thread};
  const Best first = bestOfBlock(own, memory);
  if (lead) {
    const Best second = bestOfBlock(thread == first.token ? Best{} : own, memory);
    *lead = second.logit / first.logit;
  }
  return first.token;
}

}  // namespace mb::cuda
