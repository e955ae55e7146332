#include "engine/checkpoint/json_reader.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "engine/checkpoint/tensor.h"
#include "engine/error.h"

namespace mb {

namespace {

constexpr std::size_t kShownCharacters = 60;

std::string describe(const nlohmann::json& value) {
  if (value.is_structured()) return value.is_array() ? "an array" : "an object";
  return inQuotes(value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
}

}  // namespace

nlohmann::json parseJson(std::string_view text, const std::filesystem::path& file,
                         const std::string& subject) {
  try {
    return nlohmann::json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::parse_error& error) {
    throw FormatError(file, subject, "valid JSON",
                      "an error at byte " + std::to_string(error.byte));
  } catch (const nlohmann::json::exception&) {
    throw FormatError(file, subject, "valid JSON", "a number out of range");
  }
}

std::string inQuotes(std::string_view text) {
  std::string shown = "\"";
  for (const char c : text.substr(0, kShownCharacters))
    shown += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return shown + (text.size() > kShownCharacters ? "…\"" : "\"");
}

JsonReader::JsonReader(const nlohmann::json& json, const std::filesystem::path& file,
                       std::string subject)
    : m_json(json), m_file(file), m_subject(std::move(subject)) {
  if (!json.is_object()) throw FormatError(file, m_subject, "a JSON object", describe(json));
}

bool JsonReader::has(const std::string& key) const {
  const auto entry = m_json.find(key);
  return entry != m_json.end() && !entry->is_null();
}

const nlohmann::json& JsonReader::at(const std::string& key) const {
  const auto entry = m_json.find(key);
  if (entry == m_json.end()) {
    throw FormatError(m_file, m_subject, "an entry " + inQuotes(key), "none");
  }
  return *entry;
}

void JsonReader::fail(const std::string& key, const std::string& expected,
                      const nlohmann::json& found) const {
  throw FormatError(m_file, m_subject + " " + inQuotes(key), expected, describe(found));
}

std::string JsonReader::text(const std::string& key) const {
  const nlohmann::json& value = at(key);
  if (!value.is_string()) fail(key, "text", value);
  return value.get<std::string>();
}

std::string JsonReader::text(const std::string& key, const std::string& fallback) const {
  return has(key) ? text(key) : fallback;
}

bool JsonReader::flag(const std::string& key, bool fallback) const {
  if (!has(key)) return fallback;
  const nlohmann::json& value = at(key);
  if (!value.is_boolean()) fail(key, "true or false", value);
  return value.get<bool>();
}

double JsonReader::number(const std::string& key, double fallback) const {
  if (!has(key)) return fallback;
  const nlohmann::json& value = at(key);
  if (!value.is_number()) fail(key, "a number", value);
  return value.get<double>();
}

std::size_t JsonReader::size(const std::string& key, std::size_t least, std::size_t most) const {
  const nlohmann::json& value = at(key);
  const std::string expected =
      "a whole number from " + std::to_string(least) + " to " + std::to_string(most);
  if (!value.is_number_unsigned()) fail(key, expected, value);
  const auto number = value.get<std::uint64_t>();
  if (number < least || number > most) fail(key, expected, value);
  return static_cast<std::size_t>(number);
}

std::size_t JsonReader::size(const std::string& key, std::size_t least, std::size_t most,
                             std::size_t fallback) const {
  return has(key) ? size(key, least, most) : fallback;
}

std::vector<std::size_t> JsonReader::sizes(const std::string& key) const {
  const nlohmann::json& value = at(key);
  if (!value.is_array()) fail(key, "an array of sizes", value);
  std::vector<std::size_t> result;
  for (const nlohmann::json& extent : value) {
    if (!extent.is_number_unsigned()) fail(key, "an array of sizes", extent);
    result.push_back(extent.get<std::size_t>());
  }
  return result;
}

const nlohmann::json& JsonReader::object(const std::string& key) const {
  const nlohmann::json& value = at(key);
  if (!value.is_object()) fail(key, "an object", value);
  return value;
}

std::size_t JsonReader::product(const std::vector<std::size_t>& shape) const {
  try {
    return elementCount(shape);
  } catch (const std::overflow_error&) {
    throw FormatError(m_file, m_subject, "a shape that fits in memory", toString(shape));
  }
}

}  // namespace mb
