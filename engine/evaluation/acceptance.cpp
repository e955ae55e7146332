#include "engine/evaluation/acceptance.h"

#include <string>

#include "engine/error.h"

namespace mb {

SpeculationTotals measureAcceptance(std::shared_ptr<const Model> verifier,
                                    std::shared_ptr<Drafter> drafter, ByteView text,
                                    const GenerationSettings& generation,
                                    const AcceptanceOptions& options,
                                    const AcceptanceProgress& progress, std::stop_token stop) {
  if (text.size() < options.promptBytes || options.promptBytes == 0)
    throw RequestError("text to take prompts from: expected at least " +
                       std::to_string(std::max<std::size_t>(1, options.promptBytes)) +
                       " bytes, found " + std::to_string(text.size()));
  Session session(std::move(verifier), std::move(drafter));
  RoundCounter rounds;
  const std::size_t places = text.size() - options.promptBytes + 1;
  for (std::size_t i = 0; i < options.prompts; ++i) {
    if (progress) progress(i, options.prompts);
    session.replace(0, session.text().size(),
                    text.subspan(i * places / options.prompts, options.promptBytes));
    session.generate(options.bytes, generation, rounds, stop);
  }
  return rounds.totals();
}

}  // namespace mb
