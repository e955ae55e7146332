// States anywhere in the last chunk, from what it left behind.
#include "kernels/cuda/judge.h"
#include "kernels/cuda/math.cuh"

namespace mb::cuda {

namespace {

struct ReplayArguments {
  Dimensions size{};
  std::uint32_t inner = 0;
  std::uint32_t capacity = 0;
  std::uint32_t kept = 0;
  const std::uint32_t* stands = nullptr;  // `kept` counts where it is null
  std::uint32_t* keptOnHost = nullptr;
  const float* decay = nullptr;  // of layer 0
  std::uint32_t layerSize = 0;
  const float* input = nullptr;
  const float* convolved = nullptr;
  const float* delta = nullptr;
  const float* b = nullptr;
  const float* stateIn = nullptr;
  float* stateOut = nullptr;
};

/// The first token, and the guesses before the one that fails. As a whole warp; the last guess of
/// kMostTokens never stands.
__device__ std::uint32_t standing(const std::uint32_t* stands) {
  return __ffs(~__ballot_sync(~0u, stands[threadIdx.x % 32] != 0));
}

/// Threads over channels, state indices, and layers. The same operations as in Chunk::scan.
__global__ void replayKernel(ReplayArguments a) {
  const std::uint32_t layer = blockIdx.y;
  const std::uint32_t index = blockIdx.x * blockDim.x + threadIdx.x;
  const std::uint32_t memory = a.size.taps - 1;
  const std::uint32_t kept = a.stands ? standing(a.stands) : a.kept;
  if (a.stands && layer == 0 && index == 0) *a.keptOnHost = kept;
  if (index >= (a.size.states + memory) * a.inner) return;
  const std::size_t offset = static_cast<std::size_t>(layer) * (a.size.states + memory) * a.inner;
  const float* trace = a.input + static_cast<std::size_t>(layer) * a.capacity * a.inner;
  if (index >= a.size.states * a.inner) {
    const std::uint32_t i = (index - a.size.states * a.inner) / a.inner;
    const std::uint32_t channel = index % a.inner;
    const std::uint32_t position = kept + i;
    a.stateOut[offset + index] =
        position < memory ? a.stateIn[offset + (a.size.states + position) * a.inner + channel]
                          : trace[static_cast<std::size_t>(position - memory) * a.inner + channel];
    return;
  }
  const std::uint32_t channel = index / (16 * a.size.states) * 16 + index % 16;
  const std::uint32_t n = index / 16 % a.size.states;
  const float rate = a.decay[static_cast<std::size_t>(layer) * a.layerSize + index];
  float s = a.stateIn[offset + index];
  for (std::uint32_t token = 0; token < kept; ++token) {
    const std::size_t row = static_cast<std::size_t>(layer) * a.capacity + token;
    const float delta = a.delta[row * a.inner + channel];
    const float gained = delta * a.convolved[row * a.inner + channel];
    s = fmaf(power2(delta * rate), s, gained * a.b[row * a.size.states + n]);
  }
  a.stateOut[offset + index] = s;
}

void launch(const DeviceWeights& weights, const Workspace& workspace, ReplayArguments arguments,
            cudaStream_t stream) {
  const Dimensions& d = weights.plan.dimensions();
  arguments.size = d;
  arguments.inner = weights.layout.paddedInner;
  arguments.capacity = workspace.tokens;
  arguments.decay = weights.parameters.data() + weights.layout.decay;
  arguments.layerSize = weights.layout.layerSize;
  arguments.input = workspace.traceInput.data();
  arguments.convolved = workspace.traceConvolved.data();
  arguments.delta = workspace.traceDelta.data();
  arguments.b = workspace.traceB.data();
  const unsigned values = (d.states + d.taps - 1) * weights.layout.paddedInner;
  replayKernel<<<dim3((values + 255) / 256, d.layers), 256, 0, stream>>>(arguments);
  check(cudaGetLastError(), "replaying a chunk");
}

}  // namespace

void replay(const DeviceWeights& weights, const Workspace& workspace, std::uint32_t kept,
            const float* stateIn, float* stateOut, cudaStream_t stream) {
  launch(weights, workspace, {.kept = kept, .stateIn = stateIn, .stateOut = stateOut}, stream);
}

void replayStanding(const DeviceWeights& weights, Workspace& workspace, const float* stateIn,
                    float* stateOut, cudaStream_t stream) {
  launch(weights, workspace,
         {.stands = workspace.stands.data(),
          .keptOnHost = workspace.kept.data(),
          .stateIn = stateIn,
          .stateOut = stateOut},
         stream);
}

}  // namespace mb::cuda
