#include "kernels/cuda/fingerprint.h"

namespace mb::cuda {

namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kBlocks = 1024;

/// The finaliser of SplitMix64.
__device__ std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

/// Integers, so that the order of the additions does not matter. Grid: any.
template <class Bits>
__global__ void fingerprintKernel(const Bits* values, std::uint32_t rows, std::uint32_t columns,
                                  std::uint32_t stride, unsigned long long* sum) {
  std::uint64_t own = 0;
  for (std::uint32_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const Bits* from = values + std::size_t{row} * stride;
    for (std::uint32_t column = threadIdx.x; column < columns; column += blockDim.x)
      own += mixed((std::uint64_t{row} * columns + column) << 32 | from[column]);
  }
  for (int offset = 16; offset > 0; offset /= 2) own += __shfl_xor_sync(~0u, own, offset);
  if (threadIdx.x % 32 == 0) atomicAdd(sum, static_cast<unsigned long long>(own));
}

}  // namespace

std::uint64_t Fingerprint::of(const void* values, bool wide, std::uint32_t rows,
                              std::uint32_t columns, std::uint32_t stride, cudaStream_t stream) {
  if (m_sum.size() == 0) m_sum = DeviceArray<unsigned long long>(1);
  check(cudaMemsetAsync(m_sum.data(), 0, m_sum.bytes(), stream), "cudaMemsetAsync");
  const auto launch = [&](const auto* bits) {
    fingerprintKernel<<<kBlocks, kThreads, 0, stream>>>(bits, rows, columns, stride, m_sum.data());
  };
  if (wide)
    launch(static_cast<const std::uint32_t*>(values));
  else
    launch(static_cast<const std::uint16_t*>(values));
  check(cudaGetLastError(), "taking a fingerprint");
  unsigned long long sum = 0;
  check(cudaMemcpyAsync(&sum, m_sum.data(), sizeof sum, cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  return sum;
}

}  // namespace mb::cuda
