#include "engine/evaluation/acceptance.h"

#include <string>

#include "engine/error.h"

namespace mb {

std::vector<ByteView> promptsIn(ByteView text, const AcceptanceOptions& options) {
  if (text.size() < options.promptBytes || options.promptBytes == 0)
    throw RequestError("text to take prompts from: expected at least " +
                       std::to_string(std::max<std::size_t>(1, options.promptBytes)) +
                       " bytes, found " + std::to_string(text.size()));
  const std::size_t places = text.size() - options.promptBytes + 1;
  std::vector<ByteView> prompts;
  for (std::size_t i = 0; i < options.prompts; ++i)
    prompts.push_back(text.subspan(i * places / options.prompts, options.promptBytes));
  return prompts;
}

SpeculationTotals measureAcceptance(std::shared_ptr<const Model> verifier,
                                    std::shared_ptr<Drafter> drafter, ByteView text,
                                    const GenerationSettings& generation,
                                    const AcceptanceOptions& options,
                                    const AcceptanceProgress& progress, std::stop_token stop) {
  const std::vector<ByteView> prompts = promptsIn(text, options);
  Session session(std::move(verifier), std::move(drafter));
  RoundCounter rounds;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (progress) progress(i, prompts.size());
    session.replace(0, session.text().size(), prompts[i]);
    session.generate(options.bytes, generation, rounds, stop);
  }
  return rounds.totals();
}

}  // namespace mb
