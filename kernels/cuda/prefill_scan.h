// The selective scan over a stretch of text: how it is launched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>

#include "kernels/cuda/memory.h"
#include "kernels/cuda/work_plan.h"

namespace mb::cuda {

inline constexpr std::uint32_t kMostScanThreads = 640;  ///< of a block

/// What a scan reads and writes. Channels are padded to 16, states lie as on the host.
template <class Value>
struct ScanArguments {
  const float* channels;  ///< [field][inner], see RecordField
  const float* selected;  ///< δ, B, C: [tokens][selectedStride]
  Value* expanded;        ///< W_dt δ, z: [tokens][2][inner]; with taps see TapSums
  Value* convolved;       ///< u', then (s C + D u') SiLU(z): [tokens][inner]
  const float* stateIn;   ///< of the layer; may be stateOut
  float* stateOut;
  std::uint32_t selectedStride;
  std::uint32_t bOffset;
  std::uint32_t cOffset;
  std::uint32_t inner;
  std::uint32_t states;
  std::uint32_t taps;
  std::uint32_t tokens;
  std::uint32_t tapped;  ///< channels that taps are wanted of: all real ones, or 0
};

/// s_t = Ā s_{t-1} + Δ u' B, y = (s_t C + D u') SiLU(z) on the current device, the channels
/// shared out among its multiprocessors. With taps all else has the same bits.
class TextScan {
 public:
  /// Uses at most `sharedBytes` of a multiprocessor's shared memory.
  TextScan(const Dimensions& size, std::uint32_t inner, std::uint32_t sharedBytes = ~0u);

  /// Whether there is shared memory enough for taps.
  bool canTap() const { return m_kernels.tapping.kernel != nullptr; }

  /// `Value` is float when the weights have several planes, else bfloat16.
  template <class Value>
  void run(ScanArguments<Value> arguments, cudaStream_t stream) const {
    launch(arguments.tapped > 0 ? m_kernels.tapping : m_kernels.plain, &arguments, arguments.inner,
           stream);
  }

 private:
  struct Launch {
    const void* kernel = nullptr;
    std::uint32_t width = 0;  ///< channels of a block
    std::uint32_t threads = 0;
    std::size_t sharedBytes = 0;
  };
  struct Kernels {
    Launch plain;
    Launch tapping;
  };
  template <class Value, class Shape>
  static Launch shaped();
  template <class Value, class Shape>
  static Launch tapping(std::uint32_t sharedBytes);
  template <class Value>
  static Kernels bestKernels(std::uint32_t states, std::uint32_t inner, std::uint32_t sharedBytes);
  static void launch(const Launch& launch, void* arguments, std::uint32_t inner,
                     cudaStream_t stream);

  Kernels m_kernels;
};

}  // namespace mb::cuda
