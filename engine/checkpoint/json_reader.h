// JSON from files nobody has checked: every access names the file and what was wrong.
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace mb {

/// Parses JSON text; throws FormatError instead of the parser's own exceptions.
nlohmann::json parseJson(std::string_view text, const std::filesystem::path& file,
                         const std::string& subject);

/// The text in quotation marks, shortened and with control bytes masked, fit for a message.
std::string inQuotes(std::string_view text);

/// Typed look-ups in one JSON object. The object and the path must outlive the reader.
class JsonReader {
 public:
  /// Throws FormatError when `json` is not an object.
  JsonReader(const nlohmann::json& json, const std::filesystem::path& file, std::string subject);

  /// False for an absent key and for null.
  bool has(const std::string& key) const;
  std::string text(const std::string& key) const;
  std::string text(const std::string& key, const std::string& fallback) const;
  bool flag(const std::string& key, bool fallback) const;
  double number(const std::string& key, double fallback) const;
  /// A whole number in [least, most].
  std::size_t size(const std::string& key, std::size_t least, std::size_t most) const;
  std::size_t size(const std::string& key, std::size_t least, std::size_t most,
                   std::size_t fallback) const;
  std::vector<std::size_t> sizes(const std::string& key) const;
  const nlohmann::json& object(const std::string& key) const;

  /// Product of the extents; throws FormatError when it overflows.
  std::size_t product(const std::vector<std::size_t>& shape) const;

 private:
  const nlohmann::json& at(const std::string& key) const;
  [[noreturn]] void fail(const std::string& key, const std::string& expected,
                         const nlohmann::json& found) const;

  const nlohmann::json& m_json;
  const std::filesystem::path& m_file;
  std::string m_subject;
};

}  // namespace mb
