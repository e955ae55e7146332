#include "engine/training/run_folder.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "engine/checkpoint/model_writer.h"
#include "engine/error.h"
#include "engine/file_io.h"
#include "engine/text_file.h"

namespace mb {

namespace {

std::filesystem::path sampleFile(const std::filesystem::path& folder, std::uint64_t step) {
  return folder / "samples" / (std::to_string(step) + ".txt");
}

template <class Number>
Number numberOf(const nlohmann::json& entry, const char* key, Number otherwise) {
  const auto found = entry.find(key);
  return found != entry.end() && found->is_number() ? found->get<Number>() : otherwise;
}

/// Hands out the lines that the first `steps` steps left; returns their length.
template <class Use>
std::uintmax_t readLines(const std::filesystem::path& file, std::uint64_t steps, const Use& use) {
  std::ifstream log(file);
  std::uintmax_t length = 0;
  for (std::string line; std::getline(log, line) && !log.eof(); length += line.size() + 1) {
    const nlohmann::json entry = nlohmann::json::parse(line, nullptr, false);
    if (!entry.is_object()) break;
    const std::uint64_t step = numberOf(entry, "step", ~std::uint64_t{0});
    if (step > steps) break;
    use(step, entry);
  }
  return length;
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
  m_length = readLines(logFile(), steps, [&](std::uint64_t step, const nlohmann::json& entry) {
    end.seconds = numberOf(entry, "seconds", end.seconds);
    if (!entry.contains("validation_bits_per_token")) return;
    end.validated = step;
    end.validationBits = numberOf(entry, "validation_bits_per_token", 0.0);
  });
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
  const std::filesystem::path file = sampleFile(m_folder, step);
  makeFolder(file.parent_path());
  writeFileAtomically(file, toText(text));
}

void RunFolder::save(const Trainer& trainer) const {
  trainer.save(checkpoint());
  if (!m_tokenizer.empty()) keepTokenizer(m_tokenizer, checkpoint());
}

std::vector<TrainingEvent> eventsOf(const std::filesystem::path& folder, std::uint64_t steps) {
  std::vector<TrainingEvent> events;
  std::uint64_t newest = ~std::uint64_t{0};  // step of the line before
  readLines(folder / "log.jsonl", steps, [&](std::uint64_t step, const nlohmann::json& entry) {
    const auto number = [&](const char* key) { return numberOf(entry, key, 0.0); };
    if (entry.contains("validation_bits_per_token"))
      events.push_back(TrainingValidated{step, number("validation_bits_per_token"),
                                         number("validation_bits_per_byte")});
    else if (entry.contains("accuracy"))
      events.push_back(TrainingExamined{step, number("accuracy")});
    else
      events.push_back(
          TrainingStepped{.step = {.step = step,
                                   .tokens = numberOf(entry, "tokens", std::uint64_t{0}),
                                   .bits = number("bits_per_token"),
                                   .gradientNorm = number("gradient_norm"),
                                   .learningRate = number("learning_rate")},
                          .bitsPerByte = number("bits_per_byte"),
                          .seconds = number("seconds"),
                          .tokensPerSecond = number("tokens_per_second")});
    const std::filesystem::path sample = sampleFile(folder, step);
    if (std::exchange(newest, step) != step && std::filesystem::exists(sample))
      events.push_back(TrainingSampled{step, readText(sample)});
  });
  return events;
}

}  // namespace mb
