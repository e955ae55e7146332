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

/// Of the widths that fit `sharedBytes`, takes that with which the multiprocessors are done first:
/// measured, the time of a block grows with its channels and 16 more.
template <class Value>
TextScan::Launch TextScan::bestLaunch(std::uint32_t states, std::uint32_t inner,
                                      std::uint32_t sharedBytes) {
  const std::uint32_t processors = attribute(cudaDevAttrMultiProcessorCount);
  std::uint32_t least = ~0u;
  Launch best;
  const auto consider = [&](const Launch& launch) {
    const std::uint32_t blocks = (inner + launch.width - 1) / launch.width;
    const std::uint32_t time = (blocks + processors - 1) / processors * (launch.width + 16);
    if (launch.sharedBytes > sharedBytes || time > least) return;
    least = time;
    best = launch;
  };
  if (states <= FewChannels::kStates) {
    consider(shaped<Value, FewChannels>());
    consider(shaped<Value, SomeChannels>());
    consider(shaped<Value, ManyChannels>());
  }
  if (best.kernel == nullptr) consider(shaped<Value, ManyStates>());
  return best;
}

TextScan::TextScan(const Dimensions& size, std::uint32_t inner) {
  const std::uint32_t sharedBytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  m_launch = size.planes > 1 ? bestLaunch<float>(size.states, inner, sharedBytes)
                             : bestLaunch<bf16>(size.states, inner, sharedBytes);
  if (m_launch.kernel == nullptr)
    throw CudaError("fitting the scan into shared memory", cudaErrorInvalidConfiguration);
  check(cudaFuncSetAttribute(m_launch.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(m_launch.sharedBytes)),
        "cudaFuncSetAttribute");
}

void TextScan::launch(void* arguments, std::uint32_t inner, cudaStream_t stream) const {
  check(cudaLaunchKernel(m_launch.kernel, dim3((inner + m_launch.width - 1) / m_launch.width),
                         dim3(m_launch.threads), &arguments, m_launch.sharedBytes, stream),
        "scanning");
}

}  // namespace mb::cuda
