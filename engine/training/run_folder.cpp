#include "engine/training/run_folder.h"

#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <utility>

#include "engine/checkpoint/mapped_file.h"
#include "engine/error.h"
#include "engine/file_io.h"

namespace mb {

namespace {

constexpr std::size_t kLargestTokenizer = 64u << 20;

void makeFolder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw FileError(folder, "cannot be made: " + error.message());
}

template <class Number>
Number numberOf(const nlohmann::json& entry, const char* key, Number otherwise) {
  const auto found = entry.find(key);
  return found != entry.end() && found->is_number() ? found->get<Number>() : otherwise;
}

/// Length of the lines that the first `steps` steps left, and what they say.
std::pair<std::uintmax_t, LogEnd> readLog(const std::filesystem::path& file, std::uint64_t steps) {
  constexpr auto kNone = ~std::uint64_t{0};
  std::ifstream log(file);
  std::uintmax_t length = 0;
  LogEnd end;
  for (std::string line; std::getline(log, line) && !log.eof(); length += line.size() + 1) {
    const nlohmann::json entry = nlohmann::json::parse(line, nullptr, false);
    if (!entry.is_object()) break;
    const std::uint64_t step = numberOf(entry, "step", kNone);
    if (step > steps) break;
    end.seconds = numberOf(entry, "seconds", end.seconds);
    if (!entry.contains("validation_bits_per_token")) continue;
    end.validated = step;
    end.validationBits = numberOf(entry, "validation_bits_per_token", 0.0);
  }
  return {length, end};
}

}  // namespace

RunFolder::RunFolder(std::filesystem::path folder, bool resume, std::filesystem::path tokenizer)
    : m_folder(std::move(folder)), m_tokenizer(std::move(tokenizer)) {
  const bool holdsRun = std::filesystem::exists(Trainer::newest(checkpoint()));
  if (holdsRun && !resume)
    throw RequestError(m_folder.string() +
                       " holds a run; give --resume to go on with it, or another --out");
  if (!holdsRun && resume) throw FileError(m_folder, "holds no checkpoint to go on from");
  makeFolder(m_folder);
}

LogEnd RunFolder::openLog(std::uint64_t steps) {
  LogEnd end;
  std::tie(m_length, end) = readLog(logFile(), steps);
  reopenLog();
  return end;
}

void RunFolder::reopenLog() {
  m_log.close();  // and with it goes what the disk did not take
  std::error_code error;
  if (std::filesystem::exists(logFile())) std::filesystem::resize_file(logFile(), m_length, error);
  m_log = std::ofstream(logFile(), std::ios::app);
  if (error || !m_log) throw FileError(logFile(), "cannot be written");
}

void RunFolder::log(const nlohmann::json& line) {
  m_waiting += line.dump() + '\n';
  if (!m_log) reopenLog();
  m_log << m_waiting << std::flush;
  if (!m_log) throw FileError(logFile(), "cannot be written; is the disk full?");
  m_length += m_waiting.size();
  m_waiting.clear();
}

void RunFolder::describe(const nlohmann::json& run) const {
  writeFileAtomically(m_folder / "run.json", run.dump(2) + "\n");
}

void RunFolder::keepSample(std::uint64_t step, ByteView text) const {
  makeFolder(m_folder / "samples");
  writeFileAtomically(m_folder / "samples" / (std::to_string(step) + ".txt"), toText(text));
}

void RunFolder::save(const Trainer& trainer) const {
  trainer.save(checkpoint());
  if (!m_tokenizer.empty()) keepTokenizer(m_tokenizer, checkpoint());
}

void keepTokenizer(const std::filesystem::path& tokenizer, const std::filesystem::path& folder) {
  writeFileAtomically(folder / "tokenizer.json", readTextFile(tokenizer, kLargestTokenizer));
}

}  // namespace mb
