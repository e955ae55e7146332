// What the tests of training have in common, on whatever device.
#pragma once

#include <QTest>
#include <cstdint>
#include <vector>

#include "engine/training/trainer.h"

namespace mb::test {

/// Takes steps up to the one numbered `end`, and returns their losses.
inline std::vector<double> lossesOf(Trainer& trainer, std::uint64_t end) {
  std::vector<double> losses;
  while (trainer.steps() < end) losses.push_back(trainer.step({}).bits);
  return losses;
}

/// Rows of a test that goes on from a checkpoint: what there is to be kept.
inline void addWaysToGoOn() {
  QTest::addColumn<bool>("carry");
  QTest::addColumn<std::size_t>("run");
  QTest::addColumn<double>("ema");
  QTest::newRow("states carried") << true << std::size_t{0} << 0.0;
  QTest::newRow("states carried through runs") << true << std::size_t{3} << 0.0;
  QTest::newRow("anywhere in the text") << false << std::size_t{0} << 0.0;
  QTest::newRow("with a moving average") << true << std::size_t{0} << 0.9;
}

}  // namespace mb::test
