// Runs as JSON: the record stream, its summary and the manifest that lets anyone repeat it.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "engine/decoding/generator.h"
#include "engine/decoding/records.h"
#include "engine/model/model.h"

namespace mb {

/// Version of this program, from the build.
std::string programVersion();

/// Name, hash, shape, precision and device of a model. Hashing reads the weight files.
nlohmann::json describeModel(const Model& model);
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

/// JSON text of any value; bytes that are not UTF-8 are replaced.
std::string toJsonText(const nlohmann::json& json);

}  // namespace mb
