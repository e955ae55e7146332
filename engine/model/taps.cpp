#include "engine/model/taps.h"

#include <algorithm>

#include "kernels/memory.h"

namespace mb {

std::size_t tapBins(std::size_t channels, std::size_t wanted) {
  const std::size_t groups = roundUp(channels, kBlockRows) / kBlockRows;
  return std::clamp<std::size_t>(wanted, 1, groups);
}

}  // namespace mb
