// Runs many inputs of one target in a child process, so that a crash costs one input and not the
// run.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/fuzz/targets.h"

namespace mb::fuzz {

struct CampaignOptions {
  std::uint64_t seed = 1;
  /// Mutated inputs; the seeds and the hostile inputs come on top.
  std::uint64_t runs = 1000;
  /// Memory a child may take beyond what it starts with; three times as much under
  /// AddressSanitizer, which keeps freed memory for a while.
  std::size_t memoryBytes = std::size_t{1} << 30;
  /// An input that takes longer than this hangs.
  double hangSeconds = 60;
  /// Stop a target after so many failures.
  std::size_t mostFailures = 10;
  /// Where failing inputs are kept.
  std::filesystem::path failureFolder;
};

struct Failure {
  std::uint64_t index = 0;     ///< see inputAt()
  std::string what;            ///< the broken promise, the signal, or "hangs"
  std::filesystem::path file;  ///< the input
};

struct CampaignResult {
  std::uint64_t accepted = 0;
  std::uint64_t refused = 0;
  double seconds = 0;
  double slowestSeconds = 0;  ///< processor time of one input
  std::uint64_t slowest = 0;
  std::size_t peakBytes = 0;  ///< resident memory of the children
  std::vector<Failure> failures;
};

/// The inputs of a campaign in order: all seeds, all hostile inputs, then mutated ones without end.
class Inputs {
 public:
  Inputs(const Target& target, std::uint64_t seed);

  std::uint64_t fixed() const { return m_seeds.size() + m_hostile.size(); }
  Sample at(std::uint64_t index) const;
  bool isSeed(std::uint64_t index) const { return index < m_seeds.size(); }

 private:
  const Target& m_target;
  std::uint64_t m_seed;
  std::vector<Sample> m_seeds;
  std::vector<Sample> m_hostile;
};

/// Runs the target's fixed inputs and `options.runs` mutated ones.
CampaignResult runCampaign(const Target& target, const CampaignOptions& options);

}  // namespace mb::fuzz
