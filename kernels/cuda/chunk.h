// Mamba-1 over a chunk of tokens in one kernel: every multiprocessor streams its share of the
// weights once, from the first layer to the head, while the chunk's activations travel between the
// blocks through the level 2 cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>
#include <span>
#include <vector>

#include "kernels/cuda/memory.h"
#include "kernels/cuda/token_tree.h"
#include "kernels/cuda/weights.h"

namespace mb::cuda {

inline constexpr std::uint32_t kMostTokens = 32;  ///< of one chunk
inline constexpr std::int32_t kNoToken = -1;      ///< behind the last that was drawn
inline constexpr std::uint32_t kMostStates = 64;  ///< n that the scan takes
inline constexpr std::uint32_t kMostTaps = 9;     ///< k that the convolution takes

/// Where a block keeps what, in bytes of its shared memory. The ring is at the beginning. For
/// single tokens only ringSync, draw, tree, and the sums and the record, twice each.
struct ChunkMemory {
  int ringSync;
  int draw;
  int tree;    // 0 where there is none
  int stages;  // of the inbox: 2^supplyShift
  int supplyShift;
  int inboxSync;
  int mail;
  int operands;  // of x_proj
  int sums;      // of the warps, [warps][tile rows][token blocks][16][8]
  int record;
  int history;  // [k - 1][channels]
  int u;        // and z, convolved, delta: [tokens][tokenStride floats]
  int z;
  int convolved;
  int delta;
  int scales;    // [tokens], of the norm
  int means;     // [tokens]
  int residual;  // [tokens][rows]: the block's part of x
  int size;
  int tokenStride;
};

/// How a kernel for chunks of some size is launched.
struct LaunchShape {
  std::uint32_t tokens = 0;  ///< most tokens
  int threads = 0;           ///< of a block
  bool paired = false;       ///< neighbouring blocks are a cluster
  int slots = 0;             ///< stages of the ring; 0 when the kernel does not fit
  ChunkMemory memory{};
  const void* kernel = nullptr;
  const void* treeKernel = nullptr;  ///< for tokens drawn from a tree
};

/// Memory that chunks of one model need on the way.
struct Workspace {
  Workspace(const DeviceWeights& weights, std::uint32_t tokens);

  std::uint32_t tokens;  ///< capacity

  // What blocks tell each other, see ChunkArguments.
  DeviceArray<uint2> inputOperands;
  DeviceArray<uint2> outputOperands;
  DeviceArray<float> moments;
  DeviceArray<uint4> partials;
  DeviceArray<uint4> selected;
  DeviceArray<uint4> packets;
  PinnedArray<float> logits;           ///< [tokens][V], written by the kernel
  PinnedArray<std::int32_t> drawn;     ///< [tokens]: what was drawn, written by the kernel
  PinnedArray<DrawnBytes> drawnBytes;  ///< [1]: of those, from a tree, written by the kernel
  std::vector<LaunchShape> shapes;     ///< by size, smallest first
  DeviceArray<float> traceInput;       ///< u: [L][tokens][e], for replay
  DeviceArray<float> traceConvolved;   ///< u'
  DeviceArray<float> traceDelta;       ///< Δ
  DeviceArray<float> traceB;           ///< [L][tokens][n]
  DeviceArray<std::uint32_t> stands;   ///< [kMostTokens]: whether guess i does, by judge()
  PinnedArray<std::uint32_t> kept;     ///< [1]: tokens that replayStanding() kept
  DeviceArray<float> taps;  ///< Δ, ‖s‖, mean Ā: [L][tokens][3][e]; empty without taps
  DeviceArray<std::uint32_t> arrivals;  ///< of the barrier across the grid
  bool passing;                         ///< weights do not stay in the level 2 cache
  std::uint32_t awaited = 0;            ///< arrivals when the last launch has ended
  std::uint32_t sequence = 1;           ///< that no packet has yet
};

/// A chunk's tokens in device memory, where one kernel leaves them for the next.
struct TokenList {
  std::uint32_t count = 0;
  std::int32_t tokens[kMostTokens] = {};
};

/// The bytes that tokens stand for, in device memory: those of token t begin at begins[t] and end
/// where the next one's do.
struct Spelling {
  const std::uint32_t* begins = nullptr;  ///< [V + 1]
  const std::uint8_t* bytes = nullptr;
};

/// Bytes that a token has to agree with: its own start with them, or are their start.
struct Agreement {
  Spelling spelling{};     ///< of the vocabulary
  std::uint32_t size = 0;  ///< 0 where any token will do
  std::uint8_t bytes[kMostTokens] = {};
};

/// How tokens are drawn: by temperature, then the most probable k, those that make up p of the
/// probability, and those that have at least a share of the largest.
struct Drawing {
  double temperature = 0;  ///< 0 takes the most probable
  std::uint32_t topK = 0;  ///< 0 for all
  double topP = 1;
  double minP = 0;
  std::uint64_t keys[kMostTokens] = {};  ///< of the random numbers of each draw
};

struct ChunkRun {
  std::span<const std::int32_t> tokens;
  /// Instead of `tokens`, for chunks that draw nothing: tokens that an earlier kernel of the stream
  /// leaves, from 1 to `mostListed`; best with at least `usuallyListed`.
  const TokenList* list = nullptr;
  std::uint32_t usuallyListed = 1;
  std::uint32_t mostListed = 0;
  const float* stateIn = nullptr;  ///< as on the host; may be stateOut
  float* stateOut = nullptr;
  bool logits = false;
  bool trace = false;  ///< leaves behind what replay() needs
  bool taps = false;
  /// Tokens to draw behind the given ones, each read before the next is drawn; needs logits and
  /// canDraw(). They and the given ones are at most the workspace's capacity.
  std::uint32_t draws = 0;
  bool readsLast = true;  ///< of the tokens drawn
  /// Instead of stateOut, where draws > 0: the states after each token that is read; the last takes
  /// what remains. The first may be stateIn.
  std::span<float* const> statesOut{};
  Drawing drawing{};
  Agreement agreement{};  ///< of the first token that is drawn
  /// Where tokens are drawn from a tree, which needs canDrawFromTree(): the drawing is that of the
  /// bytes that they bring, with a key for each. When a token is a start of what it had to agree
  /// with, the next has to agree with the rest.
  TokenTree tree{};
  /// For such tokens: none is drawn behind so many that bring bytes.
  std::uint32_t draftTokens = 0;
  /// And none behind one that brings a byte with less confidence (see TokenChooser) than this,
  /// beginning at `confidence`: that byte is not sure. With a temperature of 0 the tokens are the
  /// most probable ones.
  double leastConfidence = 0;
  double confidence = 1;
};

/// Whether runChunk() can draw tokens so with this workspace. Of large vocabularies it takes only
/// the most probable.
bool canDraw(const DeviceWeights& weights, const Workspace& workspace, const Drawing& drawing);
bool canDrawFromTree(const Workspace& workspace);

/// The largest chunk that this device has shared memory for: 8, 16 or 32; 0 when the model does not
/// fit at all.
std::uint32_t mostTokens(const DeviceWeights& weights);

/// Launches the kernel; results are ready when the stream is. For a list, a kernel of every size
/// that it may have: all but one find that it is not theirs.
void runChunk(const DeviceWeights& weights, Workspace& workspace, const ChunkRun& run,
              cudaStream_t stream);

/// The state after the first `kept` tokens of the last traced run, without reading weights.
void replay(const DeviceWeights& weights, const Workspace& workspace, std::uint32_t kept,
            const float* stateIn, float* stateOut, cudaStream_t stream);

}  // namespace mb::cuda
