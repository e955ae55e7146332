// States that no text led to.
#pragma once

#include "engine/model/model.h"
#include "tests/support/random_values.h"

namespace mb::test {

/// A state as after some text: every real channel holds something, the padding nothing.
inline State randomState(const Model& model, Random& random) {
  const ModelConfig& c = model.config();
  State state = model.newState();
  for (std::size_t layer = 0; layer < c.layers; ++layer) {
    for (std::size_t channel = 0; channel < c.dInner; ++channel) {
      for (std::size_t n = 0; n < c.dState; ++n)
        state.hidden(layer)[blockOffset(channel, c.dState) + n * kBlockRows] =
            random.uniform(-2, 2);
      for (std::size_t i = 0; i + 1 < c.dConv; ++i)
        state.convolution(layer)[i * state.shape().stride() + channel] = random.uniform(-2, 2);
    }
  }
  state.setPosition(random.below(100000));
  return state;
}

}  // namespace mb::test
