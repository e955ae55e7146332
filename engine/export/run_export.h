// Runs as JSON: the record stream, its summary and the manifest that lets anyone repeat it.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>

#include "engine/decoding/generator.h"
#include "engine/decoding/records.h"
#include "engine/model/model.h"

namespace mb {

/// Version of this program, from the build.
std::string programVersion();

/// A model as a manifest names it.
struct DescribedModel {
  ModelConfig config;
  ModelInfo info;
  std::string hash;  ///< of its weight files, or empty
};
/// Hashes the model's files.
DescribedModel described(const Model& model);

/// Name, hash, shape, precision and device.
nlohmann::json describeModel(const DescribedModel& model);
nlohmann::json describeSettings(const GenerationSettings& settings);

/// One object a byte: index, byte, origin, round (or null), surprisal_bits and rank (or null), and
/// candidates as [byte, probability] pairs.
nlohmann::json describeByte(std::size_t index, const ByteRecord& record);
/// One object a round: counts, the draft's bytes and tokens, times in seconds.
nlohmann::json describeRound(const RoundRecord& round);
/// bytes, seconds, bytes_per_second, rounds, drafted, tested, accepted, rejected, ignored,
/// corrected, bonus, acceptance, bytes_per_round, mean_accepted_length, per-position acceptance,
/// times.
nlohmann::json describeTotals(const SpeculationTotals& totals, std::size_t bytes, double seconds);

/// What there is to say of a run.
struct RunReport {
  std::span<const ByteRecord> bytes = {};  ///< of the whole text
  std::span<const RoundRecord> rounds = {};
  std::size_t promptBytes = 0;
  SpeculationTotals totals = {};
  std::size_t written = 0;
  double seconds = 0;
  GenerationSettings settings = {};
  std::optional<DescribedModel> verifier = {};
  std::optional<DescribedModel> drafter = {};
};

/// The totals, at the top level and under "summary"; "manifest"; "byte_records"; "round_records".
nlohmann::json describeRun(const RunReport& run);

/// JSON text of any value; bytes that are not UTF-8 are replaced.
std::string toJsonText(const nlohmann::json& json);

}  // namespace mb
