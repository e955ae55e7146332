// mambabyte generate: writes text, plainly or speculatively, and records how.
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/mambabyte/command.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/decoding/subword_drafter.h"
#include "engine/error.h"
#include "engine/export/run_export.h"
#include "engine/file_io.h"
#include "engine/session/session.h"

namespace mb::cli {

namespace {

struct Arguments {
  std::string model;
  std::string draft;
  std::string prompt;
  std::string promptFile;
  std::size_t bytes = 200;
  std::string speculate;
  GenerationSettings settings;
  bool noHealing = false;
  std::string output;
  std::string json;
  DeviceArguments device;
};

/// Streams the text and keeps the records.
class Recorder : public SessionListener {
 public:
  explicit Recorder(std::size_t promptSize) : m_promptSize(promptSize) {}

  void bytesScored(std::size_t first, std::span<const ByteRecord> records) override {
    for (const ByteRecord& record : records) {
      bytes.push_back(record);
      if (first++ >= m_promptSize) std::fputc(record.byte, stdout);
    }
    std::fflush(stdout);
  }
  void roundFinished(const RoundRecord& round) override {
    rounds.push_back(round);
    totals.add(round);
  }

  std::vector<ByteRecord> bytes;
  std::vector<RoundRecord> rounds;
  SpeculationTotals totals;

 private:
  std::size_t m_promptSize;
};

Bytes readPrompt(const Arguments& arguments) {
  if (arguments.promptFile.empty()) return toBytes(arguments.prompt);
  const MappedFile file(arguments.promptFile);
  const auto* data = reinterpret_cast<const Byte*>(file.bytes().data());
  return Bytes(data, data + file.bytes().size());
}

Speculation speculationOf(const Arguments& arguments) {
  if (arguments.draft.empty()) return Speculation::Off;
  return arguments.speculate == "topb" ? Speculation::TopBeta : Speculation::Exact;
}

void printSummary(const Recorder& recorder, std::size_t written, double seconds) {
  const SpeculationTotals& totals = recorder.totals;
  std::fprintf(stderr, "%zu bytes in %.3f s: %.0f bytes/s", written, seconds,
               seconds > 0 ? static_cast<double>(written) / seconds : 0.0);
  if (totals.rounds > 0) {
    std::fprintf(stderr,
                 "; %llu rounds, %.2f bytes a round, accepted %llu of %llu tested (%.1f %%), "
                 "%llu never tested",
                 static_cast<unsigned long long>(totals.rounds), totals.bytesPerRound(),
                 static_cast<unsigned long long>(totals.accepted),
                 static_cast<unsigned long long>(totals.tested), 100 * totals.acceptance(),
                 static_cast<unsigned long long>(totals.ignored));
  }
  std::fprintf(stderr, "\n");
}

int generate(Arguments& arguments) {
  const std::stop_token stop = interruption();
  const Bytes prompt = readPrompt(arguments);
  if (prompt.empty()) throw RequestError("the prompt is empty; the model needs at least one byte");
  for (const std::string& file : {arguments.output, arguments.json})
    if (!file.empty()) expectWritable(file);  // before the work, not after it
  arguments.settings.speculation = speculationOf(arguments);
  arguments.settings.healing = !arguments.noHealing;
  ModelLoader loader(arguments.device.options());
  const auto verifier = loader.open(modelFolder(arguments.model, "books"), stop);
  const auto drafter =
      arguments.draft.empty() ? nullptr : openDrafter(loader, arguments.draft, stop);
  sayWhenGivenUp(loader);

  Session session(verifier, drafter);
  session.replace(0, 0, prompt);
  Recorder recorder(prompt.size());
  session.prepare(arguments.settings, recorder, stop);  // reading the prompt is not decoding
  const auto start = std::chrono::steady_clock::now();
  bool interrupted = false;
  try {
    session.generate(arguments.bytes, arguments.settings, recorder, stop);
  } catch (const Stopped&) {
    interrupted = true;  // what was written is still worth its summary and files
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::size_t written = recorder.bytes.size() - prompt.size();
  std::fputc('\n', stdout);
  printSummary(recorder, written, seconds);
  if (!arguments.output.empty())
    writeFileAtomically(arguments.output, toText(ByteView(session.text()).last(written)));
  if (!arguments.json.empty()) {
    RunReport report{.bytes = recorder.bytes,
                     .rounds = recorder.rounds,
                     .promptBytes = prompt.size(),
                     .totals = recorder.totals,
                     .written = written,
                     .seconds = seconds,
                     .settings = arguments.settings,
                     .verifier = described(*verifier)};
    if (drafter) report.drafter = described(drafter->model());
    writeJson(arguments.json, describeRun(report));
  }
  if (interrupted) throw Stopped();
  return 0;
}

void addSampling(CLI::App& command, SamplerSettings& sampler) {
  command.add_option("--temperature", sampler.temperature, "0 is greedy")
      ->check(Between(0.0, 100.0))
      ->capture_default_str();
  command.add_option("--top-k", sampler.topK, "Keep the k most probable bytes; 0 keeps all")
      ->check(AtLeast(0))
      ->capture_default_str();
  command.add_option("--top-p", sampler.topP, "Keep the smallest set with this probability")
      ->check(Between(0.0, 1.0))
      ->capture_default_str();
  command.add_option("--min-p", sampler.minP, "Keep at least this share of the best probability")
      ->check(Between(0.0, 1.0))
      ->capture_default_str();
  command
      .add_option("--repetition-penalty", sampler.repetitionPenalty,
                  "Divides the logits of recent bytes; 1 is off")
      ->check(Between(0.01, 100.0))
      ->capture_default_str();
  command.add_option("--seed", sampler.seed, "Same seed, same bytes")
      ->check(AtLeast(0))
      ->capture_default_str();
}

}  // namespace

Run addGenerate(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *app.add_subcommand("generate", "Write text after a prompt");
  command.add_option("--model", arguments->model, "Verifier folder; default the bundled model");
  command.add_option("--draft", arguments->draft, "Drafter folder; switches speculation on");
  auto* text = command.add_option("--prompt", arguments->prompt, "Text to go on from");
  auto* file = command.add_option("--prompt-file", arguments->promptFile, "File to go on from");
  text->excludes(file);
  command.add_option("--bytes", arguments->bytes, "Bytes to write")
      ->check(CLI::Range(std::size_t{0}, std::size_t{1} << 32))
      ->capture_default_str();
  command
      .add_option("--speculate", arguments->speculate,
                  "exact: the bytes of plain decoding; topb: the paper's top-beta rule")
      ->check(CLI::IsMember({"exact", "topb"}))
      ->needs("--draft");
  command
      .add_option("--draft-tokens", arguments->settings.draftTokens, "Tokens drafted a round, m")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command.add_option("--beta", arguments->settings.beta, "Rank within which topb accepts a byte")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command
      .add_option(
          "--draft-confidence", arguments->settings.leastConfidence,
          "Draft bytes only while the drafter expects the draft to be kept with this probability; "
          "0 always drafts whole tokens")
      ->check(Between(0.0, 1.0))
      ->capture_default_str();
  command.add_flag("!--whole-drafts", arguments->settings.cutsDrafts,
                   "Do not end exact drafts where verifying one more byte takes much longer");
  command.add_flag("--no-healing", arguments->noHealing,
                   "After a correction let the verifier write up to the next space, as the paper");
  addSampling(command, arguments->settings.sampler);
  command.add_option("--output", arguments->output, "File for exactly the written bytes");
  command.add_option("--json", arguments->json, "File for the record stream and the summary");
  arguments->device.addTo(command);
  command.callback([text, file] {
    if (text->empty() && file->empty())
      throw CLI::RequiredError("one of --prompt and --prompt-file");
  });
  return [arguments] { return generate(*arguments); };
}

}  // namespace mb::cli
