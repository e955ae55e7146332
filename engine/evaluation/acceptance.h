// How much of what a drafter proposes a verifier accepts: what a drafter is for.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <stop_token>
#include <vector>

#include "engine/decoding/records.h"
#include "engine/session/session.h"

namespace mb {

/// Adds up the rounds of a session.
class RoundCounter : public SessionListener {
 public:
  void bytesScored(std::size_t, std::span<const ByteRecord>) override {}
  void roundFinished(const RoundRecord& round) override { m_totals.add(round); }
  const SpeculationTotals& totals() const { return m_totals; }

 private:
  SpeculationTotals m_totals;
};

struct AcceptanceOptions {
  std::size_t prompts = 16;       ///< places of the text, evenly spread
  std::size_t promptBytes = 100;  ///< read at each
  std::size_t bytes = 400;        ///< written behind each
};

/// Where `text` is written on from. Throws RequestError for a text shorter than a prompt.
std::vector<ByteView> promptsIn(ByteView text, const AcceptanceOptions& options);

/// Called now and then with prompts done and prompts in all.
using AcceptanceProgress = std::function<void(std::uint64_t done, std::uint64_t total)>;

/// Writes behind prompts of a text as `generation` says, which has to speculate. Throws
/// RequestError for a text shorter than a prompt, Stopped.
SpeculationTotals measureAcceptance(std::shared_ptr<const Model> verifier,
                                    std::shared_ptr<Drafter> drafter, ByteView text,
                                    const GenerationSettings& generation,
                                    const AcceptanceOptions& options,
                                    const AcceptanceProgress& progress, std::stop_token stop);

}  // namespace mb
