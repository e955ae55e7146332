// libFuzzer's entry point; one program a target.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mb::fuzz;
  static const Target* const kTarget = findTarget(MB_FUZZ_TARGET);
  static const ScratchFolder kScratch;
  const Outcome outcome = tryInput(*kTarget, {data, size}, kScratch);
  if (outcome.problem.empty()) return 0;
  std::fprintf(stderr, "%s: %s\n", MB_FUZZ_TARGET, outcome.problem.c_str());
  std::abort();
}
