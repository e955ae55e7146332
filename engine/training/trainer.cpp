#include "engine/training/trainer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numbers>

#include "engine/checkpoint/mapped_file.h"
#include "engine/error.h"
#include "engine/file_io.h"
#include "engine/training/cpu_training_device.h"
#include "engine/training/gradient.h"

namespace mb {

namespace {

constexpr const char* kStateFile = "trainer.bin";
constexpr const char* kFormat = "mambabyte trainer 2";

void expect(bool holds, const char* what, const std::string& expected, const std::string& found) {
  if (!holds) throw RequestError(std::string(what) + ": expected " + expected + ", found " + found);
}

std::size_t countTargets(std::span<const Lesson> lessons) {
  std::size_t count = 0;
  for (const Lesson& lesson : lessons)
    count += lesson.targets.size() -
             static_cast<std::size_t>(std::ranges::count(lesson.targets, kNoTarget));
  return count;
}

/// Takes values out of a file one after the other.
class Reader {
 public:
  explicit Reader(const std::filesystem::path& file) : m_file(file), m_mapped(file) {}

  std::uint64_t number() {
    std::uint64_t value = 0;
    take(&value, sizeof value);
    return value;
  }
  std::string text() {
    const std::uint64_t size = number();
    if (size > m_mapped.bytes().size()) throw broken("a text of " + std::to_string(size));
    std::string text(size, '\0');
    take(text.data(), text.size());
    return text;
  }
  void values(std::vector<float>& to) { take(to.data(), to.size() * sizeof(float)); }
  void end() const {
    if (m_at != m_mapped.bytes().size()) throw broken("nothing more");
  }

 private:
  FormatError broken(const std::string& expected) const {
    return {m_file, "length", expected,
            std::to_string(m_mapped.bytes().size()) + " bytes, of which " + std::to_string(m_at) +
                " were read"};
  }
  void take(void* to, std::size_t size) {
    if (size > m_mapped.bytes().size() - m_at) throw broken(std::to_string(size) + " bytes more");
    std::memcpy(to, m_mapped.bytes().data() + m_at, size);
    m_at += size;
  }

  std::filesystem::path m_file;
  MappedFile m_mapped;
  std::size_t m_at = 0;
};

}  // namespace

nlohmann::json describe(const TrainingOptions& o) {
  nlohmann::json options = {{"steps", o.steps},
                            {"segment", o.segment},
                            {"streams", o.streams},
                            {"accumulate", o.accumulate},
                            {"learning_rate", o.learningRate},
                            {"final_share", o.finalShare},
                            {"warm_up", o.warmUp},
                            {"schedule", o.schedule == Schedule::Cosine ? "cosine" : "linear"},
                            {"weight_decay", o.weightDecay},
                            {"beta1", o.beta1},
                            {"beta2", o.beta2},
                            {"epsilon", o.epsilon},
                            {"clip", o.clip},
                            {"carry_state", o.carryState},
                            {"ema", o.ema},
                            {"seed", o.seed}};
  if (o.run > 0) options["run"] = o.run;  // runs of before there was one go on
  return options;
}

void checkOptions(const TrainingOptions& o) {
  const auto atLeastOne = [](const char* what, std::uint64_t value) {
    expect(value >= 1, what, "at least 1", std::to_string(value));
  };
  atLeastOne("steps", o.steps);
  atLeastOne("tokens of a segment", o.segment);
  atLeastOne("streams", o.streams);
  atLeastOne("segments of a step", o.accumulate);
  const auto between = [](const char* what, double value, double least, double most) {
    expect(value >= least && value <= most, what,
           "from " + std::to_string(least) + " to " + std::to_string(most), std::to_string(value));
  };
  between("learning rate", o.learningRate, 0, 1);
  between("final share of the learning rate", o.finalShare, 0, 1);
  between("weight decay", o.weightDecay, 0, 10);
  between("beta1", o.beta1, 0, 0.999999);
  between("beta2", o.beta2, 0, 0.999999);
  between("epsilon", o.epsilon, 0, 1);
  between("clipping norm", o.clip, 0, 1e9);
  between("share of the moving average that stays", o.ema, 0, 0.999999);
}

double learningRateAt(const TrainingOptions& o, std::uint64_t step) {
  if (step < o.warmUp)
    return o.learningRate * static_cast<double>(step + 1) / static_cast<double>(o.warmUp);
  const std::uint64_t falling = std::max<std::uint64_t>(1, o.steps - std::min(o.steps, o.warmUp));
  const double done =
      std::min(1.0, static_cast<double>(step - o.warmUp) / static_cast<double>(falling));
  const double share =
      o.schedule == Schedule::Cosine ? (1 + std::cos(std::numbers::pi * done)) / 2 : 1 - done;
  return o.learningRate * (o.finalShare + (1 - o.finalShare) * share);
}

Trainer::Trainer(const ParameterLayout& layout, std::vector<float> parameters,
                 std::unique_ptr<const DataSource> source, const TrainingOptions& options,
                 cpu::ThreadPool& pool)
    : Trainer(layout, std::move(source), options,
              std::make_unique<CpuTrainingDevice>(layout, std::move(parameters), options.streams,
                                                  pool)) {}

Trainer::Trainer(const ParameterLayout& layout, std::unique_ptr<const DataSource> source,
                 const TrainingOptions& options, std::unique_ptr<TrainingDevice> device)
    : m_layout(layout),
      m_source(std::move(source)),
      m_options(options),
      m_device(std::move(device)),
      m_places(options.streams) {
  checkOptions(options);
  m_lessons.resize(options.streams * options.accumulate);
  for (std::size_t i = 0; i < m_places.size(); ++i) m_places[i] = m_source->firstPlace(i);
}

/// Sets the step's lessons: those of the first stream, then those of the next.
std::vector<SegmentTokens> Trainer::prepare(std::vector<std::uint64_t>& places) {
  std::vector<SegmentTokens> segments;
  for (std::size_t i = 0; i < m_lessons.size(); ++i) {
    Lesson& lesson = m_lessons[i];
    m_source->next(places[i / m_options.accumulate], m_step * m_lessons.size() + i, lesson);
    segments.push_back({lesson.inputs, lesson.targets, lesson.beginsAnew});
  }
  return segments;
}

TrainingStep Trainer::step(std::stop_token stop) {
  std::vector<std::uint64_t> places = m_places;
  const std::vector<SegmentTokens> segments = prepare(places);
  const std::size_t targets = std::max<std::size_t>(1, countTargets(m_lessons));
  TrainingStep done;
  done.bits = m_device->learn(segments, 1 / static_cast<float>(targets), std::move(stop)) /
              std::numbers::ln2;
  done.gradientNorm = m_device->gradientNorm();
  if (!std::isfinite(done.bits) || !std::isfinite(done.gradientNorm))
    throw DivergedError("the loss of step " + std::to_string(m_step + 1) +
                        " is not a number; a lower learning rate may help");
  done.learningRate = learningRateAt(m_options, m_step);
  const bool clips = m_options.clip > 0 && done.gradientNorm > m_options.clip;
  const double count = static_cast<double>(m_step + 1);
  m_device->update({.count = m_step + 1,
                    .learningRate = done.learningRate,
                    .weightDecay = m_options.weightDecay,
                    .beta1 = m_options.beta1,
                    .beta2 = m_options.beta2,
                    .epsilon = m_options.epsilon,
                    .factor = clips ? m_options.clip / done.gradientNorm : 1,
                    .averaged = std::min(m_options.ema, count / (count + 9))});
  m_places = std::move(places);
  done.step = ++m_step;
  for (const Lesson& lesson : m_lessons) m_tokens += lesson.inputs.size();
  done.tokens = m_tokens;
  return done;
}

double Trainer::validate(TokenView text, std::stop_token stop) {
  expect(text.size() > 1, "text to validate with", "at least 2 tokens",
         std::to_string(text.size()));
  return m_device->lossOf(text, m_options.segment, std::move(stop)) / std::numbers::ln2 /
         static_cast<double>(text.size() - 1);
}

/// A new folder takes the old one's place, which is moved aside until then.
void Trainer::save(const std::filesystem::path& folder) const {
  const std::filesystem::path fresh = folder.string() + ".new";
  const std::filesystem::path old = folder.string() + ".old";
  try {
    std::filesystem::remove_all(fresh);
    write(fresh);
    std::filesystem::remove_all(old);
    if (std::filesystem::exists(folder)) std::filesystem::rename(folder, old);
    std::filesystem::rename(fresh, folder);
    std::filesystem::remove_all(old);
  } catch (const std::filesystem::filesystem_error& error) {
    throw FileError(folder, "the checkpoint cannot be put in place: " + error.code().message());
  }
}

/// The file that says that a checkpoint is complete comes last. Beside an average, which is the
/// model, lie the parameters.
void Trainer::write(const std::filesystem::path& folder) const {
  const TrainedState state = m_device->state();
  const bool averages = !state.average.empty();
  writeModel(folder, m_layout, averages ? state.average : state.parameters);
  const std::string head = nlohmann::json({{"format", kFormat},
                                           {"options", describe(m_options)},
                                           {"data", m_source->hash()},
                                           {"threads", m_device->threads()},
                                           {"averages", averages}})
                               .dump();
  const std::array<std::uint64_t, 2> counts{m_step, m_tokens};
  const std::uint64_t length = head.size();
  std::vector<std::span<const std::byte>> parts = {
      std::as_bytes(std::span(&length, 1)),     std::as_bytes(std::span(head)),
      std::as_bytes(std::span(counts)),         std::as_bytes(std::span(m_places)),
      std::as_bytes(std::span(state.momentum)), std::as_bytes(std::span(state.squares))};
  for (const auto& stream : state.states) parts.push_back(std::as_bytes(std::span(stream)));
  if (averages) parts.push_back(std::as_bytes(std::span(state.parameters)));
  writeFileAtomically(folder / kStateFile, parts);
}

std::filesystem::path Trainer::newest(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / kStateFile)) return folder;
  for (const char* aside : {".new", ".old"}) {
    const std::filesystem::path other = folder.string() + aside;
    if (std::filesystem::exists(other / kStateFile)) return other;
  }
  return folder;
}

void Trainer::resume(const std::filesystem::path& folder) {
  const Checkpoint checkpoint(folder);
  const std::filesystem::path file = folder / kStateFile;
  if (!(checkpoint.config() == m_layout.config()))
    throw FormatError(folder, "model", "the shape that is trained", "another");
  Reader reader(file);
  const nlohmann::json head = nlohmann::json::parse(reader.text(), nullptr, false);
  const auto same = [&](const char* what, const nlohmann::json& expected) {
    const nlohmann::json found = head.is_object() && head.contains(what) ? head[what] : nullptr;
    if (found != expected) throw FormatError(file, what, expected.dump(), found.dump());
  };
  same("format", kFormat);
  same("options", describe(m_options));
  same("data", m_source->hash());
  // Another device goes on too, but only the same one exactly.
  if (m_device->threads() > 0 && head.value("threads", 0u) > 0)
    same("threads", m_device->threads());
  const std::uint64_t step = reader.number();
  const std::uint64_t tokens = reader.number();
  std::vector<std::uint64_t> places = m_places;
  for (std::uint64_t& place : places) place = reader.number();
  TrainedState state;
  state.momentum.resize(m_layout.size());
  state.squares.resize(m_layout.size());
  state.states.assign(m_places.size(), emptyState<float>(m_layout.config()));
  reader.values(state.momentum);
  reader.values(state.squares);
  for (std::vector<float>& stream : state.states) reader.values(stream);
  state.parameters = readParameters(m_layout, checkpoint);
  if (head.value("averages", false)) {
    state.average = state.parameters;
    reader.values(state.parameters);
  }
  reader.end();
  m_device->setState(std::move(state));
  m_places = std::move(places);
  m_step = step;
  m_tokens = tokens;
}

}  // namespace mb
