// How many blocks a kernel is launched with.
#pragma once

#include <cstddef>

namespace mb::cuda {

/// Blocks of `each` that hold `count`.
constexpr unsigned blocksFor(std::size_t count, std::size_t each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

}  // namespace mb::cuda
