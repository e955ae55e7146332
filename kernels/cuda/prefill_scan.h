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
  const Value* expanded;  ///< W_dt δ, z: [tokens][2][inner]
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
};

/// s_t = Ā s_{t-1} + Δ u' B, y = (s_t C + D u') SiLU(z) on the current device, the channels
/// shared out among its multiprocessors.
class TextScan {
 public:
  TextScan(const Dimensions& size, std::uint32_t inner);

  /// `Value` is float when the weights have several planes, else bfloat16.
  template <class Value>
  void run(ScanArguments<Value> arguments, cudaStream_t stream) const {
    launch(&arguments, arguments.inner, stream);
  }

 private:
  struct Launch {
    const void* kernel = nullptr;
    std::uint32_t width = 0;  ///< channels of a block
    std::uint32_t threads = 0;
    std::size_t sharedBytes = 0;
  };
  template <class Value, class Shape>
  static Launch shaped();
  template <class Value>
  static Launch bestLaunch(std::uint32_t states, std::uint32_t inner, std::uint32_t sharedBytes);
  void launch(void* arguments, std::uint32_t inner, cudaStream_t stream) const;

  Launch m_launch;
};

}  // namespace mb::cuda
