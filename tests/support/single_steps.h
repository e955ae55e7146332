// A text read one byte at a time by a runner of its own: what everything cleverer has to equal.
#pragma once

#include <vector>

#include "engine/model/model.h"
#include "engine/types.h"

namespace mb::test {

struct SingleSteps {
  std::vector<std::vector<float>> logits;  ///< [i] predicts byte i; [0] is empty
  State state;                             ///< after the text
};

inline SingleSteps readSingly(const Model& model, ByteView text) {
  const auto runner = model.newRunner();
  SingleSteps steps{std::vector<std::vector<float>>(1), model.newState()};
  for (const Byte byte : text) {
    const Token token = byte;
    runner->advance(steps.state, steps.state, {&token, 1}, {});
    steps.logits.emplace_back(runner->logits(0).begin(), runner->logits(0).end());
  }
  return steps;
}

inline std::vector<std::vector<float>> logitsAlong(const Model& model, ByteView text) {
  return readSingly(model, text).logits;
}

}  // namespace mb::test
