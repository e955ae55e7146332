#include <algorithm>
#include <utility>

#include "kernels/cuda/chunk.h"
#include "kernels/cuda/chunk_stages.cuh"
#include "kernels/cuda/step_head.cuh"
#include "kernels/cuda/step_stages.cuh"

namespace mb::cuda {

namespace {

/// Of the kernels that a list is given to, one has the right size for it.
__device__ inline bool isForThisKernel(const ChunkArguments& a) {
  return !a.list || (a.list->count >= a.listFrom && a.list->count <= a.listTo);
}

/// The filling warp's work.
__device__ inline void fillRing(const ChunkArguments& a, uint4* ring, StageSync* sync) {
  const BlockPlan& block = a.blocks[blockIdx.x];
  fillRing(ring, sync, a.slots,
           {.layer = a.tiles + std::uint64_t{block.firstTile} * 32,
            .layers = a.size.layers,
            .layerTiles = block.layerTiles,
            .layerStride = a.layerTiles,
            .head = a.tiles + block.firstHeadTile * 32,
            .headTiles = a.head ? block.headStretch : 0,
            .passes = a.passes,
            .passing = a.passing});
}

template <int PAIRS, bool FROM_TREE>
__global__ void __launch_bounds__(kThreads, 1)
    stepKernel(const __grid_constant__ ChunkArguments arguments) {
  auto* sync = reinterpret_cast<StageSync*>(chunkMemory + arguments.memory.ringSync);
  if (threadIdx.x == 0) {
    for (int i = 0; i < arguments.slots; ++i) initStage(sync[i]);
    publishStages();
  }
  __syncthreads();
  if (threadIdx.x < kComputeThreads)
    Step<PAIRS>(arguments).template run<FROM_TREE>();
  else
    fillRing(arguments, reinterpret_cast<uint4*>(chunkMemory), sync);
}

template <int NT, int SPL>
__global__ void __launch_bounds__(kThreads + kSupplyThreads, 1)
    chunkKernel(const __grid_constant__ ChunkArguments arguments) {
  if (!isForThisKernel(arguments)) return;
  auto* sync = reinterpret_cast<StageSync*>(chunkMemory + arguments.memory.ringSync);
  const Inbox<NT> inbox(chunkMemory, arguments.memory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < arguments.slots; ++i) initStage(sync[i]);
    inbox.init(arguments.paired);
    publishStages();
  }
  __syncthreads();
  meetInPair();  // before one sends to the other
  if (threadIdx.x < kComputeThreads)
    Chunk<NT, SPL>(arguments).run();
  else if (threadIdx.x < kThreads)
    fillRing(arguments, reinterpret_cast<uint4*>(chunkMemory), sync);
  else
    Supply<NT>(arguments, inbox).run();
  meetInPair();  // as the other may still give stages back
}

/// Tokens that the smallest of the kernels for chunks takes.
constexpr auto kLeastTokens = static_cast<std::uint32_t>(kOperandTokens);

template <int NT>
const void* chunkKernel(const Dimensions& size) {
  return size.states <= 2 * kScanLanes
             ? reinterpret_cast<const void*>(&chunkKernel<NT, 2>)
             : reinterpret_cast<const void*>(&chunkKernel<NT, kMostStates / kScanLanes>);
}

const void* chunkKernel(const Dimensions& size, std::uint32_t tokens) {
  switch (tokens) {
    case kLeastTokens: return chunkKernel<1>(size);
    case 16: return chunkKernel<2>(size);
    default: return chunkKernel<4>(size);
  }
}

int deviceAttribute(cudaDeviceAttr attribute) {
  int device = 0;
  int value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

int availableShared() {
  return deviceAttribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
}

/// Whether weights fill so much of the level 2 cache that they cannot stay there from token to
/// token.
bool arePassing(const DeviceWeights& weights) {
  const auto cached = static_cast<std::size_t>(deviceAttribute(cudaDevAttrL2CacheSize));
  return weights.tiles.bytes() > cached * 3 / 5;
}

/// Stages of a ring in what all else leaves.
int slotsBeside(int bytes) {
  constexpr int kSlotBytes = kStageBytes + static_cast<int>(sizeof(StageSync));
  return std::max(0, (availableShared() - bytes) / kSlotBytes);
}

/// Hands out shared memory behind the ring.
class Places {
 public:
  explicit Places(int slots) : m_at(slots * kStageBytes) {}
  int take(std::size_t bytes) {
    return std::exchange(m_at, m_at + static_cast<int>((bytes + 15) / 16 * 16));
  }
  int takeFloats(int count) { return take(static_cast<std::size_t>(count) * sizeof(float)); }
  int end() const { return m_at; }

 private:
  int m_at;
};

/// `forTree` says whether tokens may be drawn from a tree.
ChunkMemory stepMemory(const DeviceWeights& weights, int slots, bool forTree) {
  Places places(slots);
  ChunkMemory memory{};
  const Dimensions& size = weights.plan.dimensions();
  memory.ringSync = places.take(static_cast<std::size_t>(slots) * sizeof(StageSync));
  memory.draw = places.take(sizeof(DrawMemory));
  if (forTree) memory.tree = places.take(treeMemoryBytes(size.vocabulary));
  memory.sums = places.takeFloats(kStepSums);
  memory.record =
      places.takeFloats(stepRecords(size, static_cast<int>(weights.plan.mostChannels())));
  memory.size = places.end();
  return memory;
}

/// The kernel for single tokens of common shapes; without slots when it does not fit.
LaunchShape stepShape(const DeviceWeights& weights) {
  const int channels = static_cast<int>(weights.plan.mostChannels());
  LaunchShape shape{.tokens = 1, .threads = kThreads};
  if (!isForStep(weights)) return shape;
  const Dimensions& size = weights.plan.dimensions();
  bool forTree = !everyThreadHasALogit(size) && size.vocabulary <= kMostTreeTokens;
  const auto slotsLeft = [&] { return slotsBeside(stepMemory(weights, 0, forTree).size); };
  if (slotsLeft() < kStepSlots) forTree = false;
  if (slotsLeft() < kStepSlots) return shape;
  shape.slots = slotsLeft();
  shape.memory = stepMemory(weights, shape.slots, forTree);
  const bool fewChannels = channels <= 16;
  shape.kernel = reinterpret_cast<const void*>(fewChannels ? &stepKernel<1, false>
                                                           : &stepKernel<kStepMostPairs, false>);
  if (forTree)
    shape.treeKernel = reinterpret_cast<const void*>(
        fewChannels ? &stepKernel<1, true> : &stepKernel<kStepMostPairs, true>);
  return shape;
}

/// Stages of the ring that are worth more than those of the inbox.
constexpr int kEnoughSlots = 4;

/// With so many stages of the ring, and 2^supplyShift of the inbox.
ChunkMemory memoryFor(const DeviceWeights& weights, std::uint32_t tokens, int slots,
                      int supplyShift) {
  const Dimensions& size = weights.plan.dimensions();
  const auto channels = static_cast<int>(weights.plan.mostChannels());
  const auto tokenCount = static_cast<int>(tokens);
  const int tokenBlocks = tokenCount / kOperandTokens;
  const int operandTiles = channels / 16 * static_cast<int>(size.planes);
  Places places(slots);
  ChunkMemory memory{};
  // Lanes that hold neighbouring tokens of a channel are to find them in other banks.
  memory.tokenStride = channels + 4;
  memory.ringSync = places.take(static_cast<std::size_t>(slots) * sizeof(StageSync));
  memory.supplyShift = supplyShift;
  memory.stages = places.take(supplyStageBytes(tokenBlocks) << supplyShift);
  memory.inboxSync = places.take(kInboxSyncs * sizeof(StageSync));
  memory.mail = places.take(mailBytes(size, tokenBlocks, weights.layerNorm));
  memory.operands = places.take(operandTiles * (tokenBlocks * kOperandBytes + 32));
  memory.sums = places.takeFloats(kComputeWarps * kSumTiles * tokenCount * 16);
  memory.record = places.takeFloats(recordFields(size) * channels);
  memory.history = places.takeFloats(static_cast<int>(size.taps - 1) * channels);
  for (int* place : {&memory.u, &memory.z, &memory.convolved, &memory.delta})
    *place = places.takeFloats(tokenCount * memory.tokenStride);
  memory.scales = places.takeFloats(tokenCount);
  memory.means = places.takeFloats(tokenCount);
  memory.residual = places.takeFloats(tokenCount * static_cast<int>(weights.plan.mostOutRows()));
  memory.size = places.end();
  return memory;
}

/// The kernel for chunks of up to `tokens` tokens; without slots when it does not fit.
LaunchShape shapeFor(const DeviceWeights& weights, std::uint32_t tokens) {
  const Dimensions& size = weights.plan.dimensions();
  LaunchShape shape;
  shape.tokens = tokens;
  shape.threads = kThreads + kSupplyThreads;
  // The tiles of x_proj, or of dt_proj, have to be there together.
  const std::uint32_t columns = std::max(projectedRows(size) / 16, tilesFor(size.dtRank));
  const std::uint32_t together = size.planes * columns * weights.plan.mostChannels() / 16;
  const auto least = static_cast<int>((together + kStageTiles - 2) / kStageTiles + 1);
  for (int shift = kMostSupplyShift; shift >= 0; --shift) {
    shape.slots = slotsBeside(memoryFor(weights, tokens, 0, shift).size);
    shape.memory = memoryFor(weights, tokens, shape.slots, shift);
    if (shape.slots >= std::max(least, kEnoughSlots)) break;
  }
  if (shape.slots < least) shape.slots = 0;
  shape.kernel = chunkKernel(size, tokens);
  return shape;
}

/// What a launch of a kernel needs, for calls that take it by pointer.
class LaunchPlan {
 public:
  LaunchPlan(const LaunchShape& shape, std::uint32_t grid, cudaStream_t stream) {
    m_attributes[0].id = cudaLaunchAttributeCooperative;
    m_attributes[0].val.cooperative = 1;
    m_attributes[1].id = cudaLaunchAttributeClusterDimension;
    m_attributes[1].val.clusterDim = {2, 1, 1};
    m_config.gridDim = dim3(grid);
    m_config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    m_config.dynamicSmemBytes = static_cast<std::size_t>(shape.memory.size);
    m_config.stream = stream;
    m_config.attrs = m_attributes;
    m_config.numAttrs = shape.paired ? 2 : 1;
  }
  LaunchPlan(const LaunchPlan&) = delete;
  LaunchPlan& operator=(const LaunchPlan&) = delete;

  const cudaLaunchConfig_t* config() const { return &m_config; }

 private:
  cudaLaunchAttribute m_attributes[2]{};
  cudaLaunchConfig_t m_config{};
};

/// Whether all blocks fit as pairs of neighbours, which read half as much from the level 2 cache.
/// Of newer devices than compute capability 9 it is said that copies to several blocks are slow
/// there.
bool canPair(LaunchShape shape, std::uint32_t blocks) {
  const int major = deviceAttribute(cudaDevAttrComputeCapabilityMajor);
  if (blocks % 2 != 0 || major != 9 || kReleasingLanes > 1) return false;
  shape.paired = true;
  int pairs = 0;
  const LaunchPlan plan(shape, blocks, nullptr);
  check(cudaOccupancyMaxActiveClusters(&pairs, shape.kernel, plan.config()),
        "cudaOccupancyMaxActiveClusters");
  return static_cast<std::uint32_t>(pairs) >= blocks / 2;
}

}  // namespace

Workspace::Workspace(const DeviceWeights& weights, std::uint32_t tokenCount)
    : tokens(tokenCount),
      logits(static_cast<std::size_t>(tokens) * weights.plan.dimensions().vocabulary),
      drawn(tokens),
      drawnBytes(1),
      stands(kMostTokens),
      kept(1),
      arrivals(1),
      passing(arePassing(weights)) {
  const Dimensions& d = weights.plan.dimensions();
  const auto blocks = static_cast<std::uint32_t>(weights.plan.blocks().size());
  const auto operands = [&](std::uint32_t extent) {
    return DeviceArray<uint2>(d.planes * tilesFor(extent) * tokens / kOperandTokens * 32);
  };
  inputOperands = operands(d.model);
  outputOperands = operands(d.inner);
  moments = DeviceArray<float>(std::size_t{2} * tokens * tilesFor(d.model));
  const std::size_t pairs = std::size_t{tokens} * projectedRows(d) / 2;
  partials = DeviceArray<uint4>(pairs * blocks);
  selected = DeviceArray<uint4>(pairs * kSelectedCopies);
  const std::size_t trace =
      static_cast<std::size_t>(d.layers) * tokens * weights.layout.paddedInner;
  traceInput = DeviceArray<float>(trace);
  traceConvolved = DeviceArray<float>(trace);
  traceDelta = DeviceArray<float>(trace);
  traceB = DeviceArray<float>(static_cast<std::size_t>(d.layers) * tokens * d.states);
  for (const std::uint32_t size : {1u, kLeastTokens, 16u, 32u}) {
    if (size > tokens) break;
    const LaunchShape shape = size == 1 ? stepShape(weights) : shapeFor(weights, size);
    if (shape.slots == 0) continue;
    if (size == 1) packets = DeviceArray<uint4>(PacketLayout(d, blocks).size);
    // All there is: workspaces of other models share the kernel, and want less or more.
    for (const void* kernel : {shape.kernel, shape.treeKernel})
      if (kernel)
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   availableShared()),
              "cudaFuncSetAttribute");
    shapes.push_back(shape);
    if (size > 1) shapes.back().paired = canPair(shape, blocks);
  }
}

std::uint32_t mostTokens(const DeviceWeights& weights) {
  const Dimensions& d = weights.plan.dimensions();
  const std::uint32_t rowTiles = std::max(projectedRows(d), weights.plan.mostChannels()) / 16;
  if (d.states > kMostStates || d.taps > kMostTaps || rowTiles > kTallPanelTiles) return 0;
  for (std::uint32_t tokens = kMostTokens; tokens >= kLeastTokens; tokens /= 2)
    if (shapeFor(weights, tokens).slots > 0) return tokens;
  return 0;
}

bool canDraw(const DeviceWeights& weights, const Workspace& workspace, const Drawing& drawing) {
  if (workspace.shapes.front().tokens != 1) return false;
  return drawing.temperature <= 0 ? weights.blocks.size() <= kComputeThreads
                                  : everyThreadHasALogit(weights.plan.dimensions());
}

bool canDrawFromTree(const Workspace& workspace) {
  return workspace.shapes.front().treeKernel != nullptr;
}

namespace {

/// All but what depends on the kernel, which goes through the weights `passes` times.
ChunkArguments argumentsOf(const DeviceWeights& weights, Workspace& workspace, const ChunkRun& run,
                           std::uint32_t passes) {
  const auto tokens = static_cast<std::uint32_t>(run.tokens.size());
  ChunkArguments arguments{
      .size = weights.plan.dimensions(),
      .layout = weights.layout,
      .layerNorm = weights.layerNorm,
      .epsilon = weights.epsilon,
      .tiles = weights.tiles.data(),
      .layerTiles = weights.plan.layerTiles(),
      .passing = workspace.passing,
      .blocks = weights.blocks.data(),
      .parameters = weights.parameters.data(),
      .embedding = weights.embedding.data(),
      .headBias = weights.headBias.data(),
      .headMean = weights.headMean.data(),
      .outBias = weights.outBias,
      .mixingBlocks = static_cast<int>(weights.plan.mixingBlocks()),
      .tokens = tokens,
      .list = run.list,
      .capacity = workspace.tokens,
      .stateIn = run.stateIn,
      .stateOut = run.stateOut,
      .head = run.logits,
      .logits = workspace.logits.data(),
      .traceInput = run.trace ? workspace.traceInput.data() : nullptr,
      .traceConvolved = workspace.traceConvolved.data(),
      .traceDelta = workspace.traceDelta.data(),
      .traceB = run.trace ? workspace.traceB.data() : nullptr,
      .taps = run.taps ? workspace.taps.data() : nullptr,
      .inputOperands = workspace.inputOperands.data(),
      .outputOperands = workspace.outputOperands.data(),
      .moments = workspace.moments.data(),
      .partials = workspace.partials.data(),
      .selected = workspace.selected.data(),
      .arrivals = workspace.arrivals.data(),
      .arrived = workspace.awaited,
      .packets = workspace.packets.data(),
      .packetLayout = PacketLayout(weights.plan.dimensions(),
                                   static_cast<std::uint32_t>(weights.blocks.size())),
      .sequence = workspace.sequence,
      .passes = passes,
      .draws = run.draws,
      .drawn = workspace.drawn.data(),
      .drawnBytes = workspace.drawnBytes.data(),
      .drawing = run.drawing,
      .agreement = run.agreement,
      .tree = run.tree,
      .draftTokens = run.draftTokens,
      .leastConfidence = static_cast<float>(run.leastConfidence),
      .confidence = static_cast<float>(run.confidence),
      .paired = false,
      .memory = {},
      .slots = 0,
      .channels = static_cast<int>(weights.plan.mostChannels()),
      .outRows = static_cast<int>(weights.plan.mostOutRows()),
  };
  std::ranges::copy(run.tokens, arguments.input);
  for (std::uint32_t pass = 0; pass < passes; ++pass)
    arguments.statesOut[pass] =
        run.statesOut.empty()
            ? run.stateOut
            : run.statesOut[std::min<std::size_t>(pass, run.statesOut.size() - 1)];
  return arguments;
}

void launch(const LaunchShape& shape, ChunkArguments& arguments, std::uint32_t grid,
            cudaStream_t stream) {
  arguments.slots = shape.slots;
  arguments.memory = shape.memory;
  arguments.paired = shape.paired;
  void* parameters[] = {&arguments};
  const void* kernel = arguments.tree.nodes ? shape.treeKernel : shape.kernel;
  const LaunchPlan plan(shape, grid, stream);
  check(cudaLaunchKernelExC(plan.config(), kernel, parameters), "launching a chunk");
}

/// The kernels of all sizes that the list may have; the first takes those below as well.
void launchListed(const Workspace& workspace, const ChunkRun& run, ChunkArguments& arguments,
                  std::uint32_t grid, cudaStream_t stream) {
  arguments.listTo = 0;
  for (const LaunchShape& shape : workspace.shapes) {
    const std::uint32_t least = std::min(run.usuallyListed, run.mostListed);
    if (shape.tokens == 1 || shape.tokens < least) continue;
    if (arguments.listTo >= run.mostListed) break;
    arguments.listFrom = arguments.listTo + 1;
    arguments.listTo = shape.tokens;
    launch(shape, arguments, grid, stream);
  }
}

}  // namespace

void runChunk(const DeviceWeights& weights, Workspace& workspace, const ChunkRun& run,
              cudaStream_t stream) {
  const auto grid = static_cast<std::uint32_t>(weights.blocks.size());
  const std::uint32_t layers = weights.plan.dimensions().layers;
  const auto tokens = static_cast<std::uint32_t>(run.tokens.size());
  const bool single =
      workspace.shapes.front().tokens == 1 && (run.draws > 0 || (tokens == 1 && !run.list));
  const std::uint32_t passes = single ? tokens + run.draws - (run.readsLast ? 0 : 1) : 1;
  ChunkArguments arguments = argumentsOf(weights, workspace, run, passes);
  const auto fits = [&](const LaunchShape& shape) { return single || shape.tokens >= tokens; };
  if (run.list)
    launchListed(workspace, run, arguments, grid, stream);
  else
    launch(*std::ranges::find_if(workspace.shapes, fits), arguments, grid, stream);
  workspace.sequence += single ? passes * (layers + 1) : layers;
  if (!single) workspace.awaited += (kMeetingsPerLayer * layers + (run.logits ? 1 : 0)) * grid;
}

}  // namespace mb::cuda
