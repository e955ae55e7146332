#include "kernels/cuda/training/plan.h"

#include "kernels/memory.h"

namespace mb::cuda::training {

namespace {

std::uint32_t padded(std::uint32_t extent, std::uint32_t multiple) {
  return static_cast<std::uint32_t>(roundUp(extent, multiple));
}

}  // namespace

std::uint32_t Extents::modelPadded() const {
  return padded(model, 16);
}
std::uint32_t Extents::innerPadded() const {
  return padded(inner, 64);
}
std::uint32_t Extents::statesPadded() const {
  return states <= 16 ? 16 : kMostTrainedStates;
}
std::uint32_t Extents::rankPadded() const {
  return padded(rank, 16);
}
std::uint32_t Extents::vocabularyPadded() const {
  return padded(vocabulary, 16);
}

Plan::Plan(const Extents& sizes) : extents(sizes) {
  const std::uint32_t d = sizes.modelPadded();
  const std::uint32_t e = sizes.innerPadded();
  const std::uint32_t v = sizes.vocabularyPadded();
  embedding = take(v, d, false);
  for (std::uint32_t i = 0; i < sizes.layers; ++i) {
    LayerTensors layer;
    layer.norm = take(1, d, false);
    layer.inProj = take(2 * e, d, true);
    layer.conv = take(e, sizes.taps, true);
    layer.convBias = take(1, e, false);
    layer.xProj = take(sizes.selected(), e, true);
    layer.dtProj = take(e, sizes.rankPadded(), true);
    layer.dtBias = take(1, e, false);
    layer.decay = take(e, sizes.statesPadded(), false);
    layer.skip = take(1, e, false);
    layer.outProj = take(d, e, true);
    layers.push_back(layer);
  }
  finalNorm = take(1, d, false);
  head = sizes.tiedHead ? embedding : take(v, d, true);
}

Tensor Plan::take(std::uint32_t rows, std::uint32_t columns, bool decay) {
  const Tensor tensor{size, rows, columns, decay};
  size += roundUp(tensor.size(), kTensorGrain);
  decays.resize(size / kTensorGrain, decay ? 1 : 0);
  return tensor;
}

}  // namespace mb::cuda::training
