#include <algorithm>
#include <cuda_bf16.h>

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/prefill.h"

namespace mb::cuda {

namespace {

constexpr std::uint32_t kRowThreads = 256;   // of kernels that take a token a block
constexpr std::uint32_t kConvTokens = 8;     // of one thread
constexpr int kFewTaps = 4;                  // that all published models have
constexpr std::uint32_t kScanChannels = 32;  // of one block
constexpr std::uint32_t kScanLanes = 4;      // threads that share a channel's states
constexpr std::uint32_t kScanThreads = kScanChannels * kScanLanes;
constexpr std::uint32_t kScanTokens = 32;  // of one tile
constexpr std::uint32_t kMostSegments = 16;
constexpr std::size_t kBlocksPerProcessor = 8;
constexpr std::uint32_t kLeastSegment = 256;  // tokens
constexpr std::uint32_t kTokenStep = 256;     // that the capacity is a multiple of
constexpr std::uint32_t kMostRead = 8192;
constexpr std::size_t kMostLogitBytes = 64u << 20;

// ---- values: bfloat16 or float32, in pairs

using bf16 = __nv_bfloat16;

__device__ inline float2 pairAt(const bf16* p) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(p));
}
__device__ inline float2 pairAt(const float* p) {
  return *reinterpret_cast<const float2*>(p);
}
__device__ inline void setPair(bf16* p, float2 v) {
  *reinterpret_cast<__nv_bfloat162*>(p) = __floats2bfloat162_rn(v.x, v.y);
}
__device__ inline void setPair(float* p, float2 v) {
  *reinterpret_cast<float2*>(p) = v;
}

__device__ inline float4 quadAt(const bf16* p) {
  const uint2 packed = *reinterpret_cast<const uint2*>(p);
  return {__uint_as_float(packed.x << 16), __uint_as_float(packed.x & 0xffff0000u),
          __uint_as_float(packed.y << 16), __uint_as_float(packed.y & 0xffff0000u)};
}
__device__ inline float4 quadAt(const float* p) {
  return *reinterpret_cast<const float4*>(p);
}
__device__ inline void setQuad(bf16* p, const float4& v) {
  const __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(v.x, v.y),
                                   __floats2bfloat162_rn(v.z, v.w)};
  uint2 packed;
  memcpy(&packed, pairs, sizeof packed);
  *reinterpret_cast<uint2*>(p) = packed;
}
__device__ inline void setQuad(float* p, const float4& v) {
  *reinterpret_cast<float4*>(p) = v;
}

/// Applies an operation to each of four.
template <class Operation>
__device__ inline float4 each(Operation operation, const float4& a) {
  return {operation(a.x), operation(a.y), operation(a.z), operation(a.w)};
}
template <class Operation>
__device__ inline float4 each(Operation operation, const float4& a, const float4& b) {
  return {operation(a.x, b.x), operation(a.y, b.y), operation(a.z, b.z), operation(a.w, b.w)};
}
__device__ inline float4 operator+(const float4& a, const float4& b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}
__device__ inline float4 operator*(const float4& a, const float4& b) {
  return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w};
}

__device__ inline float sumOfBlock(float value) {
  __shared__ float sums[kRowThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  __syncthreads();
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (const float part : sums) sum += part;
  return sum;
}

// ---- rows

struct EmbedArguments {
  const std::int32_t* tokens;
  const std::uint16_t* embedding;  // [planes][V][d]
  std::uint32_t planes;
  std::uint32_t vocabulary;
  std::uint32_t model;
  float* residual;
};

__global__ void embedKernel(EmbedArguments a) {
  const std::size_t token = static_cast<std::size_t>(a.tokens[blockIdx.x]);
  for (std::uint32_t k = 2 * threadIdx.x; k < a.model; k += 2 * blockDim.x) {
    float2 sum{0, 0};
    for (std::uint32_t plane = a.planes; plane-- > 0;) {
      const std::size_t at = (std::size_t{plane} * a.vocabulary + token) * a.model + k;
      const float2 part = pairAt(reinterpret_cast<const bf16*>(a.embedding) + at);
      sum.x += part.x;
      sum.y += part.y;
    }
    setPair(a.residual + std::size_t{blockIdx.x} * a.model + k, sum);
  }
}

struct NormArguments {
  float* residual;  // [tokens][stride]
  const float* weight;
  const float* addend;  // what the layer's output has for a bias, or null
  std::uint32_t model;
  std::uint32_t stride;
  float epsilon;
  bool layerNorm;
};

/// norm(x) without the norm's bias, which the projection behind it has; adds the bias of the
/// layer's output to the residual on the way.
template <class Value>
__global__ void normKernel(NormArguments a, Value* out) {
  float* row = a.residual + std::size_t{blockIdx.x} * a.stride;
  float sum = 0;
  if (a.layerNorm) {
    for (std::uint32_t k = threadIdx.x; k < a.model; k += blockDim.x) sum += row[k];
    sum = sumOfBlock(sum);
  }
  const float mean = sum / static_cast<float>(a.model);
  float squares = 0;
  for (std::uint32_t k = threadIdx.x; k < a.model; k += blockDim.x) {
    const float centred = row[k] - mean;
    squares = fmaf(centred, centred, squares);
  }
  squares = sumOfBlock(squares);
  const float scale = rsqrtf(squares / static_cast<float>(a.model) + a.epsilon);
  for (std::uint32_t k = 2 * threadIdx.x; k < a.stride; k += 2 * blockDim.x) {
    const float2 x = pairAt(row + k);
    const float2 w = pairAt(a.weight + k);  // zero behind the last
    setPair(out + std::size_t{blockIdx.x} * a.stride + k,
            {(x.x - mean) * scale * w.x, (x.y - mean) * scale * w.y});
    if (a.addend) {
      const float2 b = pairAt(a.addend + k);
      setPair(row + k, {x.x + b.x, x.y + b.y});
    }
  }
}

/// The first `count` values of rows.
template <class Value>
__global__ void narrowKernel(const float* from, std::uint32_t stride, std::uint32_t count,
                             std::uint32_t rows, Value* to) {
  const std::uint32_t i = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
  const std::uint32_t row = i / count;
  if (row < rows) setPair(to + i, pairAt(from + std::size_t{row} * stride + i % count));
}

__global__ void addBiasKernel(float* rows, const float* bias, std::uint32_t width,
                              std::uint32_t stride, std::size_t size) {
  const std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < size && i % stride < width) rows[i] += bias[i % stride];
}

// ---- convolution

struct ConvArguments {
  const float* channels;  // [field][inner]
  const float* memory;    // [k - 1][inner]
  std::uint32_t inner;
  std::uint32_t taps;
  std::uint32_t tokens;
};

/// u' = SiLU(conv(u)). A thread takes four channels of kConvTokens tokens. Models with fewer than
/// TAPS taps have zeros before theirs.
template <class Value, int TAPS>
__global__ void convKernel(ConvArguments a, const Value* __restrict__ expanded,
                           Value* __restrict__ out) {
  const std::uint32_t channel = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  if (channel >= a.inner) return;
  const int first = static_cast<int>(blockIdx.y * kConvTokens);
  const int memory = static_cast<int>(a.taps) - 1;
  const float4 none{0, 0, 0, 0};
  const auto field = [&](std::uint32_t f) { return quadAt(a.channels + f * a.inner + channel); };
  const float4 inBias = field(kInBiasU);
  const float4 bias = field(kConvBias);
  const auto inputAt = [&](int token) {
    if (token >= static_cast<int>(a.tokens) || token < -memory) return none;
    if (token < 0) return quadAt(a.memory + std::size_t(token + memory) * a.inner + channel);
    return quadAt(expanded + std::size_t(token) * 2 * a.inner + channel) + inBias;
  };
  float4 weights[TAPS];
#pragma unroll
  for (int tap = 0; tap < TAPS; ++tap) {
    const int own = tap - TAPS + static_cast<int>(a.taps);
    weights[tap] = own < 0 ? none : field(kConvWeights + own);
  }
  float4 inputs[TAPS - 1 + kConvTokens];
#pragma unroll
  for (int i = 0; i < TAPS - 1 + static_cast<int>(kConvTokens); ++i)
    inputs[i] = inputAt(first + i - TAPS + 1);
#pragma unroll
  for (int i = 0; i < static_cast<int>(kConvTokens); ++i) {
    if (first + i >= static_cast<int>(a.tokens)) return;
    float4 sum = bias;
#pragma unroll
    for (int tap = 0; tap < TAPS; ++tap) {
      sum.x = fmaf(weights[tap].x, inputs[i + tap].x, sum.x);
      sum.y = fmaf(weights[tap].y, inputs[i + tap].y, sum.y);
      sum.z = fmaf(weights[tap].z, inputs[i + tap].z, sum.z);
      sum.w = fmaf(weights[tap].w, inputs[i + tap].w, sum.w);
    }
    setQuad(out + std::size_t(first + i) * a.inner + channel, each(silu, sum));
  }
}

// ---- scan

struct ScanArguments {
  const float* channels;  // [field][inner]
  const float* selected;  // δ, B, C
  std::uint32_t selectedStride;
  std::uint32_t bOffset;
  std::uint32_t cOffset;
  std::uint32_t inner;
  std::uint32_t states;
  std::uint32_t taps;
  std::uint32_t tokens;
  std::uint32_t segment;  // tokens
  const float* stateIn;   // of the layer
  float* stateOut;
  float* ends;
  float* sums;
};

/// One block scans kScanChannels channels over a segment of the text, a thread SPL states of one
/// channel. Without OUTPUT it starts from zero and leaves the segment's end and the sum of its Δ;
/// with OUTPUT it starts from what those of the segments before make of the first state, and
/// writes (s C + D u') SiLU(z) in the place of W_dt δ. The last segment leaves the state.
template <class Value, int SPL, bool OUTPUT>
class Scan {
 public:
  __device__ Scan(const ScanArguments& a, const Value* __restrict__ expanded,
                  const Value* __restrict__ convolved, Value* delta)
      : a(a),
        m_expanded(expanded),
        m_convolved(convolved),
        m_delta(delta),
        m_first(blockIdx.y * a.segment),
        m_last(min(m_first + a.segment, a.tokens)),
        m_channel(blockIdx.x * kScanChannels + threadIdx.x / kScanLanes),
        m_lane(threadIdx.x % kScanLanes),
        m_eighth(blockIdx.x * kScanChannels + m_lane * 8) {}

  __device__ void run() {
    const bool active = m_channel < a.inner;
#pragma unroll
    for (int i = 0; i < SPL; ++i) {
      const std::uint32_t n = m_lane * SPL + i;
      const bool real = active && n < a.states;
      m_rate[i] = real ? a.channels[(kConvWeights + a.taps + n) * a.inner + m_channel] : 0.0f;
      m_state[i] = OUTPUT && real ? stateBefore(n) : 0.0f;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t channel = m_eighth + 4 * half;
      const bool real = channel < a.inner;
      const auto field = [&](std::uint32_t f) {
        return real ? quadAt(a.channels + f * a.inner + channel) : float4{0, 0, 0, 0};
      };
      m_dtBias[half] = field(kDtBias);
      if (OUTPUT) m_skip[half] = field(kSkip);
      if (OUTPUT) m_gateBias[half] = field(kInBiasZ);
    }
    Raw now;
    load(m_first, now);
    float deltas = 0;
    for (std::uint32_t token = m_first; token < m_last; token += kScanTokens) {
      prepare(token, now);
      __syncthreads();
      Raw next;
      if (token + kScanTokens < m_last) load(token + kScanTokens, next);
      deltas += scanTile();
      __syncthreads();
      if (OUTPUT) write(token, now);
      now = next;
    }
    if (!active) return;
    float* to = OUTPUT ? a.stateOut : a.ends + std::size_t{blockIdx.y} * a.states * a.inner;
    if (!OUTPUT && m_lane == 0) a.sums[std::size_t{blockIdx.y} * a.inner + m_channel] = deltas;
    if (OUTPUT && m_last < a.tokens) return;
    if (OUTPUT && m_lane == 0) remember();
#pragma unroll
    for (int i = 0; i < SPL; ++i) {
      const std::uint32_t n = m_lane * SPL + i;
      if (n < a.states) to[placeOf(n)] = m_state[i];
    }
  }

 private:
  static constexpr std::uint32_t kStates = kScanLanes * SPL;
  static constexpr int kGroup = 32 / SPL;  // tokens
  static constexpr int kQuads = kScanTokens * 2 * kStates / 4 / kScanThreads;
  static_assert(kScanThreads * 8 == kScanTokens * kScanChannels);

  /// What a thread holds of a tile: eight channels of one token, and its part of B and C.
  struct Raw {
    float4 input[2];
    float4 delta[2];
    float4 gate[2];
    float4 selected[kQuads];
  };

  struct Shared {
    alignas(16) float2 steps[kScanTokens][kScanChannels];  // Δ and Δ u'
    alignas(16) float selected[kScanTokens][2 * kStates];  // B, C
    alignas(16) float outputs[kScanTokens][kScanChannels + 4];
  };
  __device__ static Shared& shared() {
    __shared__ Shared memory;
    return memory;
  }

  __device__ std::size_t placeOf(std::uint32_t n) const {
    return std::size_t{m_channel / 16} * 16 * a.states + n * 16 + m_channel % 16;
  }

  /// The convolution's memory after the text: its last k - 1 inputs.
  __device__ void remember() const {
    const std::uint32_t memory = a.taps - 1;
    const std::size_t offset = std::size_t{a.states} * a.inner + m_channel;
    for (std::uint32_t i = 0; i < memory; ++i) {
      const std::uint32_t at = a.tokens + i;
      a.stateOut[offset + i * a.inner] =
          at < memory
              ? a.stateIn[offset + at * a.inner]
              : static_cast<float>(m_expanded[std::size_t{at - memory} * 2 * a.inner + m_channel]) +
                    a.channels[kInBiasU * a.inner + m_channel];
    }
  }

  __device__ float stateBefore(std::uint32_t n) const {
    float s = a.stateIn[placeOf(n)];
    const float rate = a.channels[(kConvWeights + a.taps + n) * a.inner + m_channel];
    for (std::uint32_t g = 0; g < blockIdx.y; ++g) {
      const float kept = power2(rate * a.sums[std::size_t{g} * a.inner + m_channel]);
      s = fmaf(kept, s, a.ends[std::size_t{g} * a.states * a.inner + placeOf(n)]);
    }
    return s;
  }

  __device__ void load(std::uint32_t first, Raw& raw) const {
    const std::uint32_t token = first + threadIdx.x / kScanLanes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t channel = m_eighth + 4 * half;
      raw.input[half] = raw.delta[half] = raw.gate[half] = {0, 0, 0, 0};
      if (token >= m_last || channel >= a.inner) continue;
      const std::size_t at = std::size_t{token} * a.inner + channel;
      raw.input[half] = quadAt(m_convolved + at);
      raw.delta[half] = quadAt(m_delta + at);
      if (OUTPUT) raw.gate[half] = quadAt(m_expanded + at + std::size_t{token + 1} * a.inner);
    }
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const std::uint32_t at = (threadIdx.x + i * kScanThreads) * 4;
      const std::uint32_t token = first + at / (2 * kStates);
      const std::uint32_t n = at % kStates;
      const bool isC = at % (2 * kStates) >= kStates;
      const bool real = token < m_last && n < (a.states + 15) / 16 * 16 && (OUTPUT || !isC);
      const float* row = a.selected + std::size_t{token} * a.selectedStride;
      raw.selected[i] =
          real ? *reinterpret_cast<const float4*>(row + (isC ? a.cOffset : a.bOffset) + n)
               : float4{0, 0, 0, 0};
    }
  }

  /// Lays a tile out for the scan. Tokens behind the last have Δ = 0 and change nothing.
  __device__ void prepare(std::uint32_t first, const Raw& raw) const {
    Shared& to = shared();
    const std::uint32_t row = threadIdx.x / kScanLanes;
    const bool real = first + row < m_last;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float4 delta = each(softplus, raw.delta[half] + m_dtBias[half]);
      if (!real) delta = {0, 0, 0, 0};
      const float4 gained = delta * raw.input[half];
      auto* steps = reinterpret_cast<float4*>(&to.steps[row][m_lane * 8 + 4 * half]);
      steps[0] = {delta.x, gained.x, delta.y, gained.y};
      steps[1] = {delta.z, gained.z, delta.w, gained.w};
    }
#pragma unroll
    for (int i = 0; i < kQuads; ++i)
      reinterpret_cast<float4*>(to.selected)[threadIdx.x + i * kScanThreads] = raw.selected[i];
  }

  /// Tokens in groups, all loads of a group before its sums and its one store: a warp has to hide
  /// its own latencies. Returns the sum of Δ.
  __device__ float scanTile() {
    Shared& tile = shared();
    const std::uint32_t column = threadIdx.x / kScanLanes;
    float deltas = 0;
#pragma unroll 1
    for (std::uint32_t t = 0; t < kScanTokens; t += kGroup) {
      float2 step[kGroup];
      float b[kGroup][SPL];
      float c[kGroup][SPL];
#pragma unroll
      for (int g = 0; g < kGroup; ++g) {
        step[g] = tile.steps[t + g][column];
#pragma unroll
        for (int i = 0; i < SPL; i += 4) {
          const float* row = tile.selected[t + g] + m_lane * SPL + i;
          *reinterpret_cast<float4*>(b[g] + i) = *reinterpret_cast<const float4*>(row);
          if (OUTPUT)
            *reinterpret_cast<float4*>(c[g] + i) = *reinterpret_cast<const float4*>(row + kStates);
        }
      }
      float y[kGroup];
#pragma unroll
      for (int g = 0; g < kGroup; ++g) {
        y[g] = 0;
        deltas += step[g].x;
#pragma unroll
        for (int i = 0; i < SPL; ++i) {
          m_state[i] = fmaf(power2(step[g].x * m_rate[i]), m_state[i], step[g].y * b[g][i]);
          if (OUTPUT) y[g] = fmaf(m_state[i], c[g][i], y[g]);
        }
      }
      if (OUTPUT) keepOutputs(t, column, y);
    }
    return deltas;
  }

  /// Sums over a channel's lanes. Each round halves what a lane holds: it gives one half away and
  /// adds what it gets to the other.
  __device__ void keepOutputs(std::uint32_t first, std::uint32_t column, float (&y)[kGroup]) const {
    static_assert(kGroup >= 2 && kScanLanes == 4);
    const bool upper = m_lane & 2;
    constexpr int kHalf = kGroup / 2;
#pragma unroll
    for (int g = 0; g < kHalf; ++g) {
      const float got = __shfl_xor_sync(~0u, upper ? y[g] : y[g + kHalf], 2);
      y[g] = (upper ? y[g + kHalf] : y[g]) + got;
    }
    const std::uint32_t token = first + (upper ? kHalf : 0);
#pragma unroll
    for (int g = 0; g < kHalf; ++g) y[g] += __shfl_xor_sync(~0u, y[g], 1);
#pragma unroll
    for (int g = 0; g < kHalf; ++g)
      if (g % 2 == static_cast<int>(m_lane & 1)) shared().outputs[token + g][column] = y[g];
  }

  __device__ void write(std::uint32_t first, const Raw& raw) const {
    const std::uint32_t row = threadIdx.x / kScanLanes;
    if (first + row >= m_last) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t channel = m_eighth + 4 * half;
      if (channel >= a.inner) return;
      const float4 y = quadAt(shared().outputs[row] + m_lane * 8 + 4 * half);
      setQuad(m_delta + std::size_t{first + row} * a.inner + channel,
              (y + m_skip[half] * raw.input[half]) * each(silu, raw.gate[half] + m_gateBias[half]));
    }
  }

  const ScanArguments& a;
  const Value* m_expanded;
  const Value* m_convolved;
  Value* m_delta;
  std::uint32_t m_first;
  std::uint32_t m_last;
  std::uint32_t m_channel;
  std::uint32_t m_lane;
  std::uint32_t m_eighth;  ///< first of the channels it loads
  float4 m_dtBias[2];
  float4 m_skip[2];
  float4 m_gateBias[2];
  float m_rate[SPL];
  float m_state[SPL];
};

template <class Value, int SPL, bool OUTPUT>
__global__ void __launch_bounds__(kScanThreads, SPL > 4 ? 2 : 4)
    scanKernel(const __grid_constant__ ScanArguments a, const Value* expanded,
               const Value* convolved, Value* delta) {
  Scan<Value, SPL, OUTPUT>(a, expanded, convolved, delta).run();
}

void checkBlas(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw CudaError(std::string(call) + ", " + cublasGetStatusString(status), cudaErrorUnknown);
}

template <class Value>
constexpr cudaDataType_t kTypeOf = sizeof(Value) == 2 ? CUDA_R_16BF : CUDA_R_32F;

/// A matrix, and what it is multiplied with and gives: rows of tokens.
template <class Value, class Result>
struct Product {
  const Value* matrix;  // [rows][columns]
  std::uint32_t rows;
  std::uint32_t columns;
  const Value* from;  // [tokens][columns]
  Result* to;         // [tokens][stride], of which `rows` values
  std::uint32_t stride;
  std::uint32_t tokens;
  bool add = false;  // to what is there
};

/// to = from · matrixᵀ. Row-major, all of it, which for cuBLAS is every matrix transposed.
template <class Value, class Result>
void multiply(const Blas& blas, const Product<Value, Result>& p) {
  const float one = 1;
  const float before = p.add ? 1 : 0;
  const auto narrow = [](std::uint32_t extent) { return static_cast<int>(extent); };
  checkBlas(cublasGemmEx(blas, CUBLAS_OP_T, CUBLAS_OP_N, narrow(p.rows), narrow(p.tokens),
                         narrow(p.columns), &one, p.matrix, kTypeOf<Value>, narrow(p.columns),
                         p.from, kTypeOf<Value>, narrow(p.columns), &before, p.to, kTypeOf<Result>,
                         narrow(p.stride), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
            "cublasGemmEx");
}

unsigned blocksFor(std::size_t count, std::size_t each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

}  // namespace

Blas::Blas() {
  checkBlas(cublasCreate(&m_handle), "cublasCreate");
}

std::uint32_t Prefill::mostTokens(const DeviceWeights& weights, std::size_t budget) {
  const Dimensions& d = weights.plan.dimensions();
  const ParameterLayout& layout = weights.layout;
  const std::size_t valueBytes = d.planes > 1 ? sizeof(float) : sizeof(bf16);
  const std::size_t perToken =
      valueBytes * (std::max(layout.paddedModel, d.dtRank) + 4 * layout.paddedInner) +
      sizeof(float) * (layout.paddedModel + projectedRows(d));
  const std::size_t withLogits = kMostLogitBytes / (sizeof(float) * d.vocabulary);
  const std::size_t fitting =
      std::clamp<std::size_t>(std::min(budget / perToken, withLogits), kTokenStep, kMostRead);
  return static_cast<std::uint32_t>(fitting / kTokenStep * kTokenStep);
}

Prefill::Prefill(const DeviceWeights& weights, std::uint32_t tokens)
    : m_weights(weights),
      m_size(weights.plan.dimensions()),
      m_model(weights.layout.paddedModel),
      m_inner(weights.layout.paddedInner),
      m_projected(projectedRows(m_size)),
      m_rank(kTileRows * tilesFor(m_size.dtRank)),
      m_valueBytes(m_size.planes > 1 ? sizeof(float) : sizeof(bf16)) {
  std::vector<UnpackRow> rows;
  std::size_t values = 0;
  const auto add = [&](Matrix matrix, std::size_t count, std::uint32_t columns) {
    m_offsets[static_cast<std::size_t>(matrix)] = values;
    addRows(matrix, columns, values, rows);
    values += count * columns;
  };
  add(Matrix::InProj, 2 * m_inner, m_model);
  add(Matrix::XProj, m_projected, m_inner);
  add(Matrix::DtProj, m_inner, m_rank);
  add(Matrix::OutProj, m_model, m_inner);
  m_layerRows = DeviceArray<UnpackRow>(rows.size());
  m_layerRows.upload(rows.data(), rows.size());
  m_matrices = DeviceArray<std::byte>(values * m_valueBytes);
  // The head comes last, piece by piece in the same place.
  rows.clear();
  addRows(Matrix::Head, m_model, 0, rows);
  const std::size_t piece = values / (std::size_t{kTileRows} * m_model);
  for (std::size_t i = 0; i < rows.size(); ++i)
    rows[i].offset -= i / piece * piece * kTileRows * m_model;
  m_headPiece = static_cast<std::uint32_t>(std::min(piece, rows.size()));
  m_headRows = DeviceArray<UnpackRow>(rows.size());
  m_headRows.upload(rows.data(), rows.size());
  m_channels =
      DeviceArray<float>(std::size_t{kConvWeights + m_size.taps + m_size.states} * m_inner);

  const std::size_t most = tokens;
  const std::size_t normed = std::max(m_model, m_rank);
  m_tokens = DeviceArray<std::int32_t>(most);
  m_residual = DeviceArray<float>(most * m_model);
  m_normed = DeviceArray<std::byte>(most * normed * m_valueBytes);
  m_expanded = DeviceArray<std::byte>(most * 2 * m_inner * m_valueBytes);
  m_convolved = DeviceArray<std::byte>(most * m_inner * m_valueBytes);
  m_delta = DeviceArray<std::byte>(most * m_inner * m_valueBytes);
  m_selected = DeviceArray<float>(most * m_projected);
  m_segmentEnds = DeviceArray<float>(std::size_t{kMostSegments} * m_size.states * m_inner);
  m_segmentSums = DeviceArray<float>(std::size_t{kMostSegments} * m_inner);
}

/// Where the tile rows of a matrix of layer 0 go in a padded one of so many columns.
void Prefill::addRows(Matrix matrix, std::uint32_t columns, std::size_t offset,
                      std::vector<UnpackRow>& to) const {
  const auto padded = [&](std::uint32_t row) {
    const std::uint32_t b = m_size.dtRank;
    const std::uint32_t c = b + m_size.states;
    const std::uint32_t paddedStates = kTileRows * tilesFor(m_size.states);
    if (matrix == Matrix::InProj && row >= m_size.inner) return row - m_size.inner + m_inner;
    if (matrix == Matrix::XProj && row >= c) return row - c + m_rank + paddedStates;
    if (matrix == Matrix::XProj && row >= b) return row - b + m_rank;
    return row;
  };
  for (TileRow& tileRow : m_weights.plan.tileRows(matrix, 0)) {
    for (std::int32_t& row : tileRow.rows)
      if (row >= 0) row = static_cast<std::int32_t>(padded(static_cast<std::uint32_t>(row)));
    to.push_back({tileRow, columns, static_cast<std::int64_t>(offset)});
  }
}

std::size_t Prefill::bytes() const {
  return m_matrices.bytes() + m_channels.bytes() + m_tokens.bytes() + m_residual.bytes() +
         m_normed.bytes() + m_expanded.bytes() + m_convolved.bytes() + m_delta.bytes() +
         m_selected.bytes() + m_segmentEnds.bytes() + m_segmentSums.bytes() + m_start.bytes() +
         m_logits.bytes();
}

void Prefill::reserveLogits(std::size_t rows) {
  const std::size_t size = rows * m_size.vocabulary;
  if (m_hostLogits.size() >= size) return;
  m_logits = DeviceArray<float>(rows * kTileRows * tilesFor(m_size.vocabulary));
  m_hostLogits = PinnedArray<float>(size);
}

/// Segments read the first state while the last one writes the new: they must not be the same.
void Prefill::run(const Run& wanted, cudaStream_t stream) {
  Run run = wanted;
  if (run.stateIn == run.stateOut) {
    const std::size_t size =
        std::size_t{m_size.layers} * (m_size.states + m_size.taps - 1) * m_inner;
    if (m_start.size() == 0) m_start = DeviceArray<float>(size);
    check(cudaMemcpyAsync(m_start.data(), run.stateIn, size * sizeof(float),
                          cudaMemcpyDeviceToDevice, stream),
          "copying a state");
    run.stateIn = m_start.data();
  }
  m_size.planes > 1 ? runAs<float>(run, stream) : runAs<bf16>(run, stream);
}

template <class Value>
void Prefill::runAs(const Run& run, cudaStream_t stream) {
  const auto tokens = static_cast<unsigned>(run.tokens.size());
  checkBlas(cublasSetStream(m_blas, stream), "cublasSetStream");
  check(cudaMemcpyAsync(m_tokens.data(), run.tokens.data(), run.tokens.size_bytes(),
                        cudaMemcpyHostToDevice, stream),
        "sending tokens");
  embedKernel<<<tokens, 128, 0, stream>>>({.tokens = m_tokens.data(),
                                           .embedding = m_weights.embedding.data(),
                                           .planes = m_size.planes,
                                           .vocabulary = m_size.vocabulary,
                                           .model = m_model,
                                           .residual = m_residual.data()});
  check(cudaGetLastError(), "looking up embeddings");
  for (std::uint32_t layer = 0; layer < m_size.layers; ++layer) runLayer<Value>(layer, run, stream);
  if (run.logits != Logits::None) runHead<Value>(run, stream);
}

template <class Value>
void Prefill::runLayer(std::uint32_t layer, const Run& run, cudaStream_t stream) {
  const auto tokens = static_cast<std::uint32_t>(run.tokens.size());
  const ParameterLayout& layout = m_weights.layout;
  const float* parameters = m_weights.parameters.data() + std::size_t{layer} * layout.layerSize;
  unpackTiles(m_weights, {m_layerRows.data(), m_layerRows.size()}, layer, m_matrices.data(),
              stream);
  unpackRecords(m_weights, layer, m_channels.data(), stream);
  const auto matrix = [&](Matrix which) {
    return reinterpret_cast<const Value*>(m_matrices.data()) +
           m_offsets[static_cast<std::size_t>(which)];
  };

  auto* normed = reinterpret_cast<Value*>(m_normed.data());
  auto* expanded = reinterpret_cast<Value*>(m_expanded.data());
  auto* convolved = reinterpret_cast<Value*>(m_convolved.data());
  auto* delta = reinterpret_cast<Value*>(m_delta.data());
  normKernel<<<tokens, kRowThreads, 0, stream>>>(
      {.residual = m_residual.data(),
       .weight = parameters + layout.norm,
       .addend = m_weights.outBias ? parameters + layout.outBias : nullptr,
       .model = m_size.model,
       .stride = m_model,
       .epsilon = m_weights.epsilon,
       .layerNorm = m_weights.layerNorm},
      normed);
  multiply(m_blas, Product<Value, Value>{matrix(Matrix::InProj), 2 * m_inner, m_model, normed,
                                         expanded, 2 * m_inner, tokens});

  const std::size_t stateOffset = std::size_t{layer} * (m_size.states + m_size.taps - 1) * m_inner;
  const std::size_t memoryOffset = stateOffset + std::size_t{m_size.states} * m_inner;
  const ConvArguments conv{.channels = m_channels.data(),
                           .memory = run.stateIn + memoryOffset,
                           .inner = m_inner,
                           .taps = m_size.taps,
                           .tokens = tokens};
  const auto convolve =
      m_size.taps <= kFewTaps ? convKernel<Value, kFewTaps> : convKernel<Value, int{kMostTaps}>;
  convolve<<<dim3(blocksFor(m_inner, 512), blocksFor(tokens, kConvTokens)), 128, 0, stream>>>(
      conv, expanded, convolved);
  multiply(m_blas, Product<Value, float>{matrix(Matrix::XProj), m_projected, m_inner, convolved,
                                         m_selected.data(), m_projected, tokens});
  narrowKernel<<<blocksFor(std::size_t{tokens} * m_rank, 512), 256, 0, stream>>>(
      m_selected.data(), m_projected, m_rank, tokens, normed);
  multiply(m_blas, Product<Value, Value>{matrix(Matrix::DtProj), m_inner, m_rank, normed, delta,
                                         m_inner, tokens});
  scan<Value>(layer, run, stream);
  multiply(m_blas, Product<Value, float>{matrix(Matrix::OutProj), m_model, m_inner, delta,
                                         m_residual.data(), m_model, tokens, true});
  check(cudaGetLastError(), "reading a layer");
}

template <class Value>
void Prefill::scan(std::uint32_t layer, const Run& run, cudaStream_t stream) {
  const auto tokens = static_cast<std::uint32_t>(run.tokens.size());
  const unsigned columns = blocksFor(m_inner, kScanChannels);
  // Segments that keep every multiprocessor busy are worth their second pass.
  const auto wanted =
      static_cast<std::uint32_t>(kBlocksPerProcessor * m_weights.blocks.size() / columns);
  const std::uint32_t segments =
      std::clamp(std::min(wanted, tokens / kLeastSegment), 1u, kMostSegments);
  const std::uint32_t segment = blocksFor(blocksFor(tokens, segments), kScanTokens) * kScanTokens;
  const std::size_t offset = std::size_t{layer} * (m_size.states + m_size.taps - 1) * m_inner;
  const ScanArguments arguments{
      .channels = m_channels.data(),
      .selected = m_selected.data(),
      .selectedStride = m_projected,
      .bOffset = m_rank,
      .cOffset = m_rank + kTileRows * tilesFor(m_size.states),
      .inner = m_inner,
      .states = m_size.states,
      .taps = m_size.taps,
      .tokens = tokens,
      .segment = segment,
      .stateIn = run.stateIn + offset,
      .stateOut = run.stateOut + offset,
      .ends = m_segmentEnds.data(),
      .sums = m_segmentSums.data(),
  };
  const auto* expanded = reinterpret_cast<const Value*>(m_expanded.data());
  const auto* convolved = reinterpret_cast<const Value*>(m_convolved.data());
  auto* delta = reinterpret_cast<Value*>(m_delta.data());
  const unsigned rows = blocksFor(tokens, segment);
  constexpr int kFew = 4;
  constexpr int kMany = kMostStates / kScanLanes;
  const bool few = m_size.states <= kFew * kScanLanes;
  const dim3 before(columns, rows - 1);
  const dim3 all(columns, rows);
  const auto launch = [&](auto kernel, dim3 grid) {
    if (grid.y > 0)
      kernel<<<grid, kScanThreads, 0, stream>>>(arguments, expanded, convolved, delta);
  };
  launch(few ? scanKernel<Value, kFew, false> : scanKernel<Value, kMany, false>, before);
  launch(few ? scanKernel<Value, kFew, true> : scanKernel<Value, kMany, true>, all);
}

template <class Value>
void Prefill::runHead(const Run& run, cudaStream_t stream) {
  const auto count = static_cast<std::uint32_t>(run.tokens.size());
  const std::uint32_t rows = run.logits == Logits::Last ? 1 : count;
  reserveLogits(rows);
  const std::uint32_t headRows = kTileRows * tilesFor(m_size.vocabulary);
  auto* normed = reinterpret_cast<Value*>(m_normed.data());
  normKernel<<<rows, kRowThreads, 0, stream>>>(
      {.residual = m_residual.data() + std::size_t{count - rows} * m_model,
       .weight =
           m_weights.parameters.data() + std::size_t{m_size.layers} * m_weights.layout.layerSize,
       .addend = nullptr,
       .model = m_size.model,
       .stride = m_model,
       .epsilon = m_weights.epsilon,
       .layerNorm = m_weights.layerNorm},
      normed);
  const auto* matrix = reinterpret_cast<const Value*>(m_matrices.data());
  for (std::uint32_t tile = 0; tile < m_headRows.size(); tile += m_headPiece) {
    const std::size_t tiles = std::min<std::size_t>(m_headPiece, m_headRows.size() - tile);
    unpackTiles(m_weights, {m_headRows.data() + tile, tiles}, 0, m_matrices.data(), stream);
    multiply(m_blas,
             Product<Value, float>{matrix, static_cast<std::uint32_t>(tiles) * kTileRows, m_model,
                                   normed, m_logits.data() + tile * kTileRows, headRows, rows});
  }
  // The layers' matrices rely on zeros behind their last rows and columns.
  check(cudaMemsetAsync(m_matrices.data(), 0, m_matrices.size(), stream), "cudaMemsetAsync");
  if (m_weights.headBias.size() > 0) {
    addBiasKernel<<<blocksFor(std::size_t{rows} * headRows, 256), 256, 0, stream>>>(
        m_logits.data(), m_weights.headBias.data(), m_size.vocabulary, headRows,
        std::size_t{rows} * headRows);
  }
  check(cudaMemcpy2DAsync(m_hostLogits.data(), m_size.vocabulary * sizeof(float), m_logits.data(),
                          headRows * sizeof(float), m_size.vocabulary * sizeof(float), rows,
                          cudaMemcpyDeviceToHost, stream),
        "fetching logits");
}

}  // namespace mb::cuda
