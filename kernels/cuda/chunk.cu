#include <algorithm>
#include <bit>

#include "kernels/cuda/chunk.h"
#include "kernels/cuda/chunk_stages.cuh"

namespace mb::cuda {

namespace {

template <int NT, int SPL, bool ONE>
__global__ void __launch_bounds__(kThreads, 1)
    chunkKernel(const __grid_constant__ ChunkArguments arguments) {
  extern __shared__ __align__(128) char memory[];
  auto* ring = reinterpret_cast<uint4*>(memory);
  auto* sync = reinterpret_cast<StageSync*>(memory + arguments.slots * kStageBytes);
  if (threadIdx.x == 0) {
    for (int i = 0; i < arguments.slots; ++i) initStage(sync[i]);
    publishStages();
  }
  __syncthreads();
  const BlockPlan& block = arguments.blocks[blockIdx.x];
  if (threadIdx.x >= kComputeThreads) {
    const std::uint32_t tiles =
        arguments.head ? block.tiles : arguments.size.layers * block.layerTiles;
    fillRing(ring, sync, arguments.slotBits, arguments.tiles + block.firstTile * 32,
             (tiles + kStageTiles - 1) / kStageTiles);
    return;
  }
  Chunk<NT, SPL, ONE>(arguments, memory).run();
}

template <int NT, bool ONE = false>
const void* kernelFor(const Dimensions& size) {
  return size.states <= 2 * kScanLanes
             ? reinterpret_cast<const void*>(&chunkKernel<NT, 2, ONE>)
             : reinterpret_cast<const void*>(&chunkKernel<NT, kMostStates / kScanLanes, ONE>);
}

const void* kernelFor(const Dimensions& size, std::uint32_t tokens) {
  switch (tokens) {
    case 1: return size.planes > 1 ? kernelFor<1>(size) : kernelFor<1, true>(size);
    case 4: return kernelFor<1>(size);
    case 8: return kernelFor<2>(size);
    case 16: return kernelFor<4>(size);
    default: return kernelFor<8>(size);
  }
}

/// Shared memory for a kernel of up to `tokens` tokens.
LaunchShape shapeFor(const DeviceWeights& weights, std::uint32_t tokens) {
  constexpr int kMostOperandBytes = 64 << 10;
  int device = 0;
  int available = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&available, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "cudaDeviceGetAttribute");
  const Dimensions& size = weights.plan.dimensions();
  const int channels = static_cast<int>(weights.plan.mostChannels());
  const int blocks = static_cast<int>((tokens + 3) / 4);
  const int tileStride = blocks * 256 + 32;
  // What x_proj and dt_proj need in one piece, and the warps' sums where they have no other place.
  const int parts = size.planes > 1 ? 2 : 1;  // sets of operands
  const int leastBytes =
      parts *
      std::max({hasOwnSums(blocks) ? 0 : sumBytes(blocks), channels / 16 * tileStride,
                static_cast<int>(tilesFor(size.dtRank)) * tileStride, kComputeWarps * tileStride});
  LaunchShape shape;
  shape.tokens = tokens;
  shape.operandBytes =
      (std::max(leastBytes, std::min(kMostOperandBytes, available / 3)) + 127) / 128 * 128;
  const int scratch = scratchBytes(size, shape.operandBytes, channels, 4 * blocks);
  constexpr int kSlotBytes = kStageBytes + static_cast<int>(sizeof(StageSync));
  const int fitting = std::max(0, (available - scratch) / kSlotBytes);
  shape.slots = static_cast<int>(std::bit_floor(static_cast<unsigned>(fitting)));
  // The tiles of a column of a tall panel, in all planes, have to be there together.
  const std::uint32_t tallest =
      std::min(kTallPanelTiles, std::max(tilesFor(size.model), projectedRows(size) / kTileRows));
  const auto least = static_cast<int>((size.planes * tallest + kStageTiles - 2) / kStageTiles + 1);
  if (shape.slots < least) shape.slots = 0;
  shape.sharedBytes = shape.slots * kSlotBytes + scratch;
  shape.kernel = kernelFor(size, tokens);
  return shape;
}

}  // namespace

Workspace::Workspace(const DeviceWeights& weights, std::uint32_t tokenCount)
    : tokens(tokenCount),
      residual(static_cast<std::size_t>(tokens) * weights.layout.paddedModel),
      projected(std::size_t{3} * tokens * projectedRows(weights.plan.dimensions())),
      logits(static_cast<std::size_t>(tokens) * weights.plan.dimensions().vocabulary),
      arrivals(1) {
  const Dimensions& d = weights.plan.dimensions();
  const std::size_t trace =
      static_cast<std::size_t>(d.layers) * tokens * weights.layout.paddedInner;
  traceInput = DeviceArray<float>(trace);
  traceConvolved = DeviceArray<float>(trace);
  traceDelta = DeviceArray<float>(trace);
  traceB = DeviceArray<float>(static_cast<std::size_t>(d.layers) * tokens * d.states);
  for (const std::uint32_t size : {1u, 4u, 8u, 16u, 32u}) {
    if (size > tokens) break;
    shapes.push_back(shapeFor(weights, size));
    check(cudaFuncSetAttribute(shapes.back().kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               shapes.back().sharedBytes),
          "cudaFuncSetAttribute");
  }
}

std::uint32_t mostTokens(const DeviceWeights& weights) {
  const Dimensions& d = weights.plan.dimensions();
  const std::uint32_t rowTiles = std::max(projectedRows(d), weights.plan.mostChannels()) / 16;
  if (d.states > kMostStates || d.taps > kMostTaps || rowTiles > kPanelTiles * kComputeWarps)
    return 0;
  for (std::uint32_t tokens = kMostTokens; tokens >= 4; tokens /= 2)
    if (shapeFor(weights, tokens).slots > 0) return tokens;
  return 0;
}

void runChunk(const DeviceWeights& weights, Workspace& workspace, const ChunkRun& run,
              cudaStream_t stream) {
  const auto fits = [&](const LaunchShape& shape) { return shape.tokens >= run.tokens.size(); };
  const LaunchShape& shape = *std::ranges::find_if(workspace.shapes, fits);
  const auto grid = static_cast<std::uint32_t>(weights.blocks.size());
  const Dimensions& size = weights.plan.dimensions();
  ChunkArguments arguments{
      .size = size,
      .layout = weights.layout,
      .layerNorm = weights.layerNorm,
      .epsilon = weights.epsilon,
      .tiles = weights.tiles.data(),
      .blocks = weights.blocks.data(),
      .parameters = weights.parameters.data(),
      .embedding = weights.embedding.data(),
      .residual = reinterpret_cast<unsigned long long*>(workspace.residual.data()),
      .projected = reinterpret_cast<unsigned long long*>(workspace.projected.data()),
      .logits = workspace.logits.data(),
      .traceInput = run.trace ? workspace.traceInput.data() : nullptr,
      .traceConvolved = workspace.traceConvolved.data(),
      .traceDelta = workspace.traceDelta.data(),
      .traceB = run.trace ? workspace.traceB.data() : nullptr,
      .taps = run.taps ? workspace.taps.data() : nullptr,
      .arrivals = workspace.arrivals.data(),
      .arrived = workspace.awaited,
      .turn = workspace.turn,
      .capacity = workspace.tokens,
      .tokens = static_cast<std::uint32_t>(run.tokens.size()),
      .stateIn = run.stateIn,
      .stateOut = run.stateOut,
      .head = run.logits,
      .slots = shape.slots,
      .slotBits = static_cast<std::uint32_t>(std::countr_zero(static_cast<unsigned>(shape.slots))),
      .operandBytes = shape.operandBytes,
      .channels = static_cast<int>(weights.plan.mostChannels()),
      .outBias = weights.outBias};
  std::ranges::copy(run.tokens, arguments.input);
  void* parameters[] = {&arguments};
  check(cudaLaunchCooperativeKernel(shape.kernel, dim3(grid), dim3(kThreads), parameters,
                                    static_cast<std::size_t>(shape.sharedBytes), stream),
        "launching a chunk");
  constexpr std::uint32_t kBarriersPerLayer = 2;
  const std::uint32_t barriers = kBarriersPerLayer * size.layers - (run.logits ? 0 : 1);
  workspace.awaited += barriers * grid;
  workspace.turn = (workspace.turn + size.layers) % 3;
}

}  // namespace mb::cuda
