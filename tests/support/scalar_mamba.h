// A whole Mamba-1 model in plain double-precision loops, straight from MODEL.md section 1.
#pragma once

#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/types.h"
#include "tests/support/scalar_kernels.h"

namespace mb::scalar {

/// Per channel of one layer, as TapKind names them.
struct LayerTaps {
  Values delta;
  Values stateNorm;
  Values decay;
};

struct StepResult {
  Values logits;
  std::vector<LayerTaps> layers;
};

class Mamba {
 public:
  /// Copies the weights. With `rounded`, those that a bfloat16 model rounds (embedding, head and
  /// projections) are rounded first, to nearest even.
  explicit Mamba(const WeightSource& source, bool rounded = false);

  /// Reads one token; starts from the zero state.
  StepResult step(Token token);
  /// s of a layer, [e][n].
  const std::vector<Values>& hidden(std::size_t layer) const { return m_hidden[layer]; }

 private:
  struct Layer {
    Values norm, normBias, inProj, inBias, conv, convBias, xProj, dtProj, dtBias, aLog, d, outProj,
        outBias;
  };
  Values runLayer(std::size_t index, const Values& h, LayerTaps& taps);
  Values convolveAll(std::size_t index, const Values& u);

  ModelConfig m_config;
  Values m_embedding, m_head, m_norm, m_normBias;
  std::vector<Layer> m_layers;
  std::vector<std::vector<Values>> m_hidden;  ///< [layer][e][n]
  std::vector<std::vector<Values>> m_inputs;  ///< [layer][e][k-1]
};

}  // namespace mb::scalar
