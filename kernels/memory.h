// Owned, aligned memory on the host. Device memory has its own owner in kernels/cuda.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <utility>
#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace mb {

/// States are copied and dropped all the time, each some hundred kilobytes. Kept apart from small
/// allocations they leave no holes behind; glibc would mix them in after the first. For programs
/// that run for long, called before anything else.
inline void keepLargeBlocksApart() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
#endif
}

/// Number of channels or rows that one block of the CPU layouts holds; arrays are padded to it.
inline constexpr std::size_t kBlockRows = 16;

constexpr std::size_t roundUp(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// Offset of state 0 of a channel in an array of blocks [channels / 16][states][16].
constexpr std::size_t blockOffset(std::size_t channel, std::size_t states) {
  return channel / kBlockRows * kBlockRows * states + channel % kBlockRows;
}

/// Array of trivially copyable values aligned to 64 bytes. New elements are zero. Copies are deep.
template <class T>
class AlignedArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  AlignedArray() = default;
  explicit AlignedArray(std::size_t size) : m_data(allocate(size)), m_size(size) {
    if (size) std::memset(static_cast<void*>(m_data.get()), 0, size * sizeof(T));
  }
  AlignedArray(const AlignedArray& other) : m_data(allocate(other.m_size)), m_size(other.m_size) {
    if (m_size) std::memcpy(static_cast<void*>(m_data.get()), other.data(), m_size * sizeof(T));
  }
  AlignedArray(AlignedArray&& other) noexcept
      : m_data(std::move(other.m_data)), m_size(std::exchange(other.m_size, 0)) {}
  /// Copies in place when the sizes agree, so that copying a state allocates nothing.
  AlignedArray& operator=(const AlignedArray& other) {
    if (this == &other) return *this;
    if (m_size == other.m_size) {
      if (m_size) std::memcpy(static_cast<void*>(m_data.get()), other.data(), m_size * sizeof(T));
      return *this;
    }
    AlignedArray copy(other);
    *this = std::move(copy);
    return *this;
  }
  AlignedArray& operator=(AlignedArray&& other) noexcept {
    m_data = std::move(other.m_data);
    m_size = std::exchange(other.m_size, 0);
    return *this;
  }

  T* data() { return m_data.get(); }
  const T* data() const { return m_data.get(); }
  std::size_t size() const { return m_size; }
  bool empty() const { return m_size == 0; }
  T& operator[](std::size_t i) { return m_data.get()[i]; }
  const T& operator[](std::size_t i) const { return m_data.get()[i]; }
  std::span<T> span() { return {data(), m_size}; }
  std::span<const T> span() const { return {data(), m_size}; }

  bool operator==(const AlignedArray& other) const {
    return m_size == other.m_size &&
           (m_size == 0 || std::memcmp(data(), other.data(), m_size * sizeof(T)) == 0);
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* p) const { ::operator delete(static_cast<void*>(p), kAlignment); }
  };
  static std::unique_ptr<T, Free> allocate(std::size_t size) {
    if (size == 0) return nullptr;
    return std::unique_ptr<T, Free>(static_cast<T*>(::operator new(size * sizeof(T), kAlignment)));
  }

  std::unique_ptr<T, Free> m_data;
  std::size_t m_size = 0;
};

}  // namespace mb
