// Owned device memory, streams and events. Every call is checked.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>
#include <stdexcept>
#include <string>
#include <utility>

namespace mb::cuda {

/// A CUDA call failed. `what()` names the call and CUDA's reason.
class CudaError : public std::runtime_error {
 public:
  CudaError(const std::string& call, cudaError_t code)
      : std::runtime_error(call + ": " + cudaGetErrorString(code)), m_code(code) {}
  cudaError_t code() const { return m_code; }

 private:
  cudaError_t m_code;
};

inline void check(cudaError_t code, const char* call) {
  if (code != cudaSuccess) throw CudaError(call, code);
}

/// Values in device memory; new ones are zero.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(std::size_t size) : m_size(size) {
    if (size == 0) return;
    check(cudaMalloc(reinterpret_cast<void**>(&m_data), size * sizeof(T)), "cudaMalloc");
    check(cudaMemset(m_data, 0, size * sizeof(T)), "cudaMemset");
  }
  ~DeviceArray() { cudaFree(m_data); }
  DeviceArray(DeviceArray&& other) noexcept
      : m_data(std::exchange(other.m_data, nullptr)), m_size(std::exchange(other.m_size, 0)) {}
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(m_data, other.m_data);
    std::swap(m_size, other.m_size);
    return *this;
  }

  T* data() { return m_data; }
  const T* data() const { return m_data; }
  std::size_t size() const { return m_size; }
  std::size_t bytes() const { return m_size * sizeof(T); }

  /// Copies `count` values from the host to [first, first + count) and waits.
  void upload(const T* values, std::size_t count, std::size_t first = 0) {
    check(cudaMemcpy(m_data + first, values, count * sizeof(T), cudaMemcpyHostToDevice),
          "cudaMemcpy to the device");
  }

 private:
  T* m_data = nullptr;
  std::size_t m_size = 0;
};

/// Page-locked host memory, which the device reads and writes without a detour.
template <class T>
class PinnedArray {
 public:
  PinnedArray() = default;
  explicit PinnedArray(std::size_t size) : m_size(size) {
    if (size == 0) return;
    check(cudaMallocHost(reinterpret_cast<void**>(&m_data), size * sizeof(T)), "cudaMallocHost");
  }
  ~PinnedArray() { cudaFreeHost(m_data); }
  PinnedArray(PinnedArray&& other) noexcept
      : m_data(std::exchange(other.m_data, nullptr)), m_size(std::exchange(other.m_size, 0)) {}
  PinnedArray& operator=(PinnedArray&& other) noexcept {
    std::swap(m_data, other.m_data);
    std::swap(m_size, other.m_size);
    return *this;
  }

  T* data() { return m_data; }
  const T* data() const { return m_data; }
  std::size_t size() const { return m_size; }

 private:
  T* m_data = nullptr;
  std::size_t m_size = 0;
};

/// Ordered with the default stream, which copies states. Threads may share one.
class Stream {
 public:
  Stream() { check(cudaStreamCreate(&m_stream), "cudaStreamCreate"); }
  ~Stream() { cudaStreamDestroy(m_stream); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  operator cudaStream_t() const { return m_stream; }
  void wait() const {
    ++m_waits;
    check(cudaStreamSynchronize(m_stream), "cudaStreamSynchronize");
  }
  /// How often wait() was called.
  std::uint64_t waits() const { return m_waits; }

 private:
  cudaStream_t m_stream = nullptr;
  mutable std::atomic<std::uint64_t> m_waits = 0;
};

/// A point in a stream's work.
class Event {
 public:
  Event() { check(cudaEventCreate(&m_event), "cudaEventCreate"); }
  ~Event() { cudaEventDestroy(m_event); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  operator cudaEvent_t() const { return m_event; }
  void record(cudaStream_t stream = nullptr) {
    check(cudaEventRecord(m_event, stream), "cudaEventRecord");
  }
  double secondsSince(const Event& start) const {
    float milliseconds = 0;
    check(cudaEventSynchronize(m_event), "cudaEventSynchronize");
    check(cudaEventElapsedTime(&milliseconds, start.m_event, m_event), "cudaEventElapsedTime");
    return milliseconds * 1e-3;
  }

 private:
  cudaEvent_t m_event = nullptr;
};

}  // namespace mb::cuda
