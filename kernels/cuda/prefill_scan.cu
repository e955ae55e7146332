#include <algorithm>

#include "kernels/cuda/prefill_scan.cuh"

namespace mb::cuda {

namespace {

// The fewer channels a block has, the more threads share the states of each.
using FewChannels = ScanShape<8, 2, 8, 32>;
using SomeChannels = ScanShape<8, 2, 16, 32>;
using ManyChannels = ScanShape<4, 4, 32, 32>;
using ManyStates = ScanShape<16, 4, 8, 16>;  // and little shared memory
static_assert(ManyStates::kStates == kMostStates);

std::uint32_t attribute(cudaDeviceAttr which) {
  int device = 0;
  int value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return static_cast<std::uint32_t>(value);
}

}  // namespace

template <class Value, class Shape>
TextScan::Launch TextScan::shaped() {
  static_assert(Shape::kThreads <= kMostScanThreads);
  return {reinterpret_cast<const void*>(scanKernel<Value, Shape>), Shape::kColumns, Shape::kThreads,
          sizeof(ScanTiles<Value, Shape>)};
}

/// Where shared memory is scarce it has shorter tiles, with the same bits.
template <class Value, class Shape>
TextScan::Launch TextScan::tapping(std::uint32_t sharedBytes) {
  const Launch whole = shaped<Value, Tapped<Shape>>();
  if (whole.sharedBytes <= sharedBytes) return whole;
  if constexpr (Shape::kKeepers % 64 == 0) {
    const Launch half = shaped<Value, Tapped<typename Shape::HalfTile>>();
    if (half.sharedBytes <= sharedBytes) return half;
  }
  return {};
}

/// Of the widths that fit `sharedBytes`, takes that with which the multiprocessors are done first:
/// measured, the time of a block grows with its channels and 16 more.
template <class Value>
TextScan::Kernels TextScan::bestKernels(std::uint32_t states, std::uint32_t inner,
                                        std::uint32_t sharedBytes) {
  const std::uint32_t processors = attribute(cudaDevAttrMultiProcessorCount);
  std::uint32_t least = ~0u;
  Kernels best;
  const auto consider = [&]<class Shape>(Shape) {
    const Launch launch = shaped<Value, Shape>();
    const std::uint32_t blocks = (inner + launch.width - 1) / launch.width;
    const std::uint32_t time = (blocks + processors - 1) / processors * (launch.width + 16);
    if (launch.sharedBytes > sharedBytes || time > least) return;
    least = time;
    best = {launch, tapping<Value, Shape>(sharedBytes)};
  };
  if (states <= FewChannels::kStates) {
    consider(FewChannels());
    consider(SomeChannels());
    consider(ManyChannels());
  }
  if (best.plain.kernel == nullptr) consider(ManyStates());
  return best;
}

TextScan::TextScan(const Dimensions& size, std::uint32_t inner, std::uint32_t sharedBytes) {
  sharedBytes = std::min(sharedBytes, attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  m_kernels = size.planes > 1 ? bestKernels<float>(size.states, inner, sharedBytes)
                              : bestKernels<bf16>(size.states, inner, sharedBytes);
  if (m_kernels.plain.kernel == nullptr)
    throw CudaError("fitting the scan into shared memory", cudaErrorInvalidConfiguration);
  for (const Launch& launch : {m_kernels.plain, m_kernels.tapping}) {
    if (launch.kernel == nullptr) continue;
    check(cudaFuncSetAttribute(launch.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(launch.sharedBytes)),
          "cudaFuncSetAttribute");
  }
}

void TextScan::launch(const Launch& launch, void* arguments, std::uint32_t inner,
                      cudaStream_t stream) {
  check(cudaLaunchKernel(launch.kernel, dim3((inner + launch.width - 1) / launch.width),
                         dim3(launch.threads), &arguments, launch.sharedBytes, stream),
        "scanning");
}

}  // namespace mb::cuda
