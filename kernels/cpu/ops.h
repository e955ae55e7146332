// The CPU's vector operations, compiled once per instruction set and chosen at run time.
//
// All of them keep one promise: a value depends only on its own inputs, never on how many bytes or
// channels were computed beside it, on the number of threads, or (where fused multiply-add exists)
// on the vector width. Running n bytes as one chunk therefore gives the bits of n single steps.
//
// "Channels" arrays are padded to kBlockRows floats; the padding is computed along and stays zero.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "kernels/cpu/packed_matrix.h"

namespace mb::cpu {

/// Inputs that a matrix product takes at a time on most processors; more take their weights from
/// the cache again.
inline constexpr std::size_t kTileInputs = 6;

/// output[i][row] = (accumulate ? output[i][row] : 0) + bias[row] + sum_c weights[row][c]
/// input[i][c] for i < count and the rows of blocks [blockBegin, blockEnd). Each weight is read
/// once for up to 32 inputs. The sum runs over c in ascending order with one rounding (FMA) a term;
/// for bfloat16 weights on AMX see matmulAmx().
struct MatmulArgs {
  const PackedMatrix* weights = nullptr;
  std::size_t blockBegin = 0;
  std::size_t blockEnd = 0;
  const float* input = nullptr;  ///< [count][inputStride], inputStride >= weights->paddedColumns()
  std::size_t inputStride = 0;
  float* output = nullptr;  ///< [count][outputStride], outputStride >= 16 * blockEnd
  std::size_t outputStride = 0;
  const float* bias = nullptr;  ///< [16 * blocks] or null
  std::size_t count = 0;
  bool accumulate = false;
};

/// RMSNorm: y = x / sqrt(mean(x²) + ε) ⊙ weight. With a bias, LayerNorm: x is centred first and the
/// bias added after.
struct NormArgs {
  const float* input = nullptr;  ///< [size]
  float* output = nullptr;       ///< [size], may alias input
  std::size_t size = 0;
  const float* weight = nullptr;  ///< [size]
  const float* bias = nullptr;    ///< [size] or null
  float epsilon = 0;
};

/// Depthwise causal convolution and SiLU: u'_t = SiLU(bias + sum_j weight_j ⊙ u_{t-taps+1+j}).
struct ConvArgs {
  const float* input = nullptr;  ///< u [count][inputStride]
  std::size_t inputStride = 0;
  const float* history = nullptr;  ///< taps-1 inputs before the chunk, oldest first [][channels]
  float* output = nullptr;         ///< u' [count][outputStride]
  std::size_t outputStride = 0;
  const float* weight = nullptr;  ///< [taps][channels]
  const float* bias = nullptr;    ///< [channels] or null
  std::size_t channels = 0;       ///< padded
  std::size_t taps = 0;
  std::size_t channelBegin = 0;  ///< multiples of 16
  std::size_t channelEnd = 0;
  std::size_t count = 0;
};

/// The selective scan: s_t = exp(Δ_t ⊗ A) ⊙ s_{t-1} + (Δ_t ⊙ u'_t) ⊗ B_t,
/// y_t = (s_t C_t + D ⊙ u'_t) ⊙ SiLU(z_t).
/// With output == null only the state is advanced (a replay for roll-back).
/// A and the state lie in blocks of 16 channels, [channels / 16][states][16], so that one block's
/// rows do not fall on the same cache lines.
struct ScanArgs {
  const float* delta = nullptr;  ///< Δ [count][stride]
  const float* input = nullptr;  ///< u' [count][stride]
  std::size_t stride = 0;        ///< of delta, input, output and the two taps
  const float* gate = nullptr;   ///< z [count][gateStride]
  std::size_t gateStride = 0;
  const float* b = nullptr;  ///< B [count][bcStride]
  const float* c = nullptr;  ///< C [count][bcStride]
  std::size_t bcStride = 0;
  const float* aLog2e = nullptr;   ///< A · log2(e), in blocks
  const float* d = nullptr;        ///< D [channels]
  const float* stateIn = nullptr;  ///< in blocks
  float* stateOut = nullptr;       ///< in blocks, may equal stateIn
  float* output = nullptr;         ///< y [count][stride] or null
  /// Per byte and channel, written only when both are given: sum_n s², mean_n Ā. [count][stride]
  float* stateSquared = nullptr;
  float* meanDecay = nullptr;
  std::size_t states = 0;
  std::size_t channelBegin = 0;  ///< multiples of 16
  std::size_t channelEnd = 0;
  std::size_t count = 0;
};

/// Sums over groups of 16 channels, for display: output[t][group] = {sum Δ, sum ‖s‖, sum Ā} where
/// ‖s‖ = sqrt(stateSquared) of each channel. Padded channels are left out.
struct TapArgs {
  const float* delta = nullptr;         ///< [count][stride]
  const float* stateSquared = nullptr;  ///< [count][stride]
  const float* meanDecay = nullptr;     ///< [count][stride]
  std::size_t stride = 0;
  std::size_t channels = 0;      ///< real ones, without padding
  float* output = nullptr;       ///< [count][groups][3]
  std::size_t groups = 0;        ///< of 16 channels, padding included
  std::size_t channelBegin = 0;  ///< multiples of 16
  std::size_t channelEnd = 0;
  std::size_t count = 0;
};

struct Ops {
  void (*matmul)(const MatmulArgs&);
  void (*norm)(const NormArgs&);
  void (*convolve)(const ConvArgs&);
  void (*scan)(const ScanArgs&);
  void (*reduceTaps)(const TapArgs&);
  /// x = softplus(x) over count values, count a multiple of 16.
  void (*softplus)(float* x, std::size_t count);
  /// weights[i] = exp((x[i] - shift) · scale), no less than 2^-126. Returns their sum.
  float (*exponentials)(const float* x, std::size_t count, float shift, float scale,
                        float* weights);
  /// times[i] = an exponentially distributed number, mean 1, that is a pure function of `key` and
  /// i.
  void (*arrivals)(std::uint64_t key, std::size_t count, float* times);
  /// Index of the first largest value.
  std::size_t (*argmax)(const float* x, std::size_t count);
  /// Inputs of a product of bfloat16 weights behind which one more becomes dear.
  std::size_t cheapInputs;
};

/// One compiled instruction set.
struct SimdLevel {
  std::string_view name;  ///< "amx", "avx512", "avx2", "sse4", "neon", "baseline"
  const Ops* ops;
};

/// The levels this processor can run, fastest first; never empty.
std::vector<SimdLevel> availableSimdLevels();

/// The operations of the fastest of them.
const Ops& fastestOps();

}  // namespace mb::cpu
