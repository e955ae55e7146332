#include "engine/export/run_export.h"

#include <nlohmann/json.hpp>

#include "engine/checkpoint/checkpoint.h"
#include "engine/version.h"

namespace mb {

using Json = nlohmann::json;

std::string programVersion() {
  return MB_VERSION;
}

DescribedModel described(const Model& model) {
  const ModelInfo& info = model.info();
  return {model.config(), info, info.files.empty() ? std::string() : hashOfFiles(info.files)};
}

Json describeModel(const DescribedModel& model) {
  const auto& [config, info, hash] = model;
  return {{"name", info.name},
          {"hash", hash.empty() ? Json() : Json(hash)},
          {"parameters", config.parameterCount()},
          {"vocab_size", config.vocabSize},
          {"d_model", config.dModel},
          {"d_inner", config.dInner},
          {"d_state", config.dState},
          {"d_conv", config.dConv},
          {"dt_rank", config.dtRank},
          {"layers", config.layers},
          {"dtype", nameOf(info.precision)},
          {"stored_dtype", info.storedType},
          {"device", info.device}};
}

Json describeSettings(const GenerationSettings& settings) {
  const SamplerSettings& sampler = settings.sampler;
  return {{"speculate", nameOf(settings.speculation)},
          {"draft_tokens", settings.draftTokens},
          {"beta", settings.beta},
          {"healing", settings.healing},
          {"draft_confidence", settings.leastConfidence},
          {"cuts_drafts", settings.cutsDrafts},
          {"temperature", sampler.temperature},
          {"top_k", sampler.topK},
          {"top_p", sampler.topP},
          {"min_p", sampler.minP},
          {"repetition_penalty", sampler.repetitionPenalty},
          {"repetition_window", sampler.repetitionWindow},
          {"seed", sampler.seed}};
}

Json describeByte(std::size_t index, const ByteRecord& record) {
  Json candidates = Json::array();
  if (record.scored) {
    for (const Candidate& candidate : record.prediction.candidates)
      candidates.push_back({candidate.byte, candidate.probability});
  }
  return {{"index", index},
          {"byte", record.byte},
          {"origin", nameOf(record.origin)},
          {"round", record.round < 0 ? Json() : Json(record.round)},
          {"surprisal_bits", record.scored ? Json(record.surprisal) : Json()},
          {"rank", record.scored ? Json(record.rank) : Json()},
          {"candidates", std::move(candidates)}};
}

Json describeRound(const RoundRecord& round) {
  Json tokens = Json::array();
  for (const DraftToken& token : round.tokens)
    tokens.push_back({{"id", token.id}, {"begin", token.begin}, {"end", token.end}});
  return {{"index", round.index},
          {"position", round.position},
          {"draft", round.draft},
          {"tokens", std::move(tokens)},
          {"drafted", round.drafted()},
          {"tested", round.tested()},
          {"accepted", round.accepted},
          {"rejected", round.rejected},
          {"ignored", round.ignored},
          {"corrected", round.corrected},
          {"bonus", round.bonus},
          {"seconds",
           {{"draft", round.times.draft},
            {"verify", round.times.verify},
            {"correct", round.times.correct},
            {"rollback", round.times.rollback},
            {"total", round.times.total}}}};
}

Json describeTotals(const SpeculationTotals& totals, std::size_t bytes, double seconds) {
  return {{"bytes", bytes},
          {"seconds", seconds},
          {"bytes_per_second", seconds > 0 ? static_cast<double>(bytes) / seconds : 0},
          {"rounds", totals.rounds},
          {"drafted", totals.drafted},
          {"tested", totals.tested},
          {"accepted", totals.accepted},
          {"rejected", totals.rejected},
          {"ignored", totals.ignored},
          {"corrected", totals.corrected},
          {"bonus", totals.bonus},
          {"drafted_tokens", totals.draftedTokens},
          {"tested_tokens", totals.testedTokens},
          {"accepted_tokens", totals.acceptedTokens},
          {"acceptance", totals.acceptance()},
          {"token_acceptance", totals.tokenAcceptance()},
          {"mean_accepted_length", totals.meanAcceptedLength()},
          {"bytes_per_round", totals.bytesPerRound()},
          {"tested_at", totals.testedAt},
          {"accepted_at", totals.acceptedAt},
          {"seconds_draft", totals.times.draft},
          {"seconds_verify", totals.times.verify},
          {"seconds_correct", totals.times.correct},
          {"seconds_rollback", totals.times.rollback},
          {"seconds_rounds", totals.times.total}};
}

Json describeRun(const RunReport& run) {
  const Json summary = describeTotals(run.totals, run.written, run.seconds);
  Json result = summary;  // the figures stand at the top level too, as eval's do
  result["summary"] = summary;
  result["manifest"] = {{"version", programVersion()},
                        {"model", run.verifier ? describeModel(*run.verifier) : Json()},
                        {"draft", run.drafter ? describeModel(*run.drafter) : Json()},
                        {"settings", describeSettings(run.settings)},
                        {"prompt_bytes", run.promptBytes}};
  Json& bytes = result["byte_records"] = Json::array();
  for (std::size_t i = 0; i < run.bytes.size(); ++i) bytes.push_back(describeByte(i, run.bytes[i]));
  Json& rounds = result["round_records"] = Json::array();
  for (const RoundRecord& round : run.rounds) rounds.push_back(describeRound(round));
  return result;
}

std::string toJsonText(const Json& json) {
  return json.dump(1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace mb
