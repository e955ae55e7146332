// States anywhere in the last chunk, from what it left behind.
#include "kernels/cuda/chunk.h"
#include "kernels/cuda/math.cuh"

namespace mb::cuda {

namespace {

struct ReplayArguments {
  Dimensions size;
  std::uint32_t inner;
  std::uint32_t capacity;
  std::uint32_t kept;
  const float* decay;  // of layer 0
  std::uint32_t layerSize;
  const float* input;
  const float* convolved;
  const float* delta;
  const float* b;
  const float* stateIn;
  float* stateOut;
};

/// Threads over channels, state indices, and layers. The same operations as in Chunk::scan.
__global__ void replayKernel(ReplayArguments a) {
  const std::uint32_t layer = blockIdx.y;
  const std::uint32_t index = blockIdx.x * blockDim.x + threadIdx.x;
  const std::uint32_t memory = a.size.taps - 1;
  if (index >= (a.size.states + memory) * a.inner) return;
  const std::size_t offset = static_cast<std::size_t>(layer) * (a.size.states + memory) * a.inner;
  const float* trace = a.input + static_cast<std::size_t>(layer) * a.capacity * a.inner;
  if (index >= a.size.states * a.inner) {
    const std::uint32_t i = (index - a.size.states * a.inner) / a.inner;
    const std::uint32_t channel = index % a.inner;
    const std::uint32_t position = a.kept + i;
    a.stateOut[offset + index] =
        position < memory ? a.stateIn[offset + (a.size.states + position) * a.inner + channel]
                          : trace[static_cast<std::size_t>(position - memory) * a.inner + channel];
    return;
  }
  const std::uint32_t channel = index / (16 * a.size.states) * 16 + index % 16;
  const std::uint32_t n = index / 16 % a.size.states;
  const float rate = a.decay[static_cast<std::size_t>(layer) * a.layerSize + index];
  float s = a.stateIn[offset + index];
  for (std::uint32_t token = 0; token < a.kept; ++token) {
    const std::size_t row = static_cast<std::size_t>(layer) * a.capacity + token;
    const float delta = a.delta[row * a.inner + channel];
    const float gained = delta * a.convolved[row * a.inner + channel];
    s = fmaf(power2(delta * rate), s, gained * a.b[row * a.size.states + n]);
  }
  a.stateOut[offset + index] = s;
}

}  // namespace

void replay(const DeviceWeights& weights, const Workspace& workspace, std::uint32_t kept,
            const float* stateIn, float* stateOut, cudaStream_t stream) {
  const Dimensions& d = weights.plan.dimensions();
  const ReplayArguments arguments{.size = d,
                                  .inner = weights.layout.paddedInner,
                                  .capacity = workspace.tokens,
                                  .kept = kept,
                                  .decay = weights.parameters.data() + weights.layout.decay,
                                  .layerSize = weights.layout.layerSize,
                                  .input = workspace.traceInput.data(),
                                  .convolved = workspace.traceConvolved.data(),
                                  .delta = workspace.traceDelta.data(),
                                  .b = workspace.traceB.data(),
                                  .stateIn = stateIn,
                                  .stateOut = stateOut};
  const unsigned values = (d.states + d.taps - 1) * weights.layout.paddedInner;
  replayKernel<<<dim3((values + 255) / 256, d.layers), 256, 0, stream>>>(arguments);
  check(cudaGetLastError(), "replaying a chunk");
}

}  // namespace mb::cuda
