#include "engine/training/trainer.h"

#include <algorithm>
#include <array>
#include <cblas.h>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numbers>

#include "engine/checkpoint/mapped_file.h"
#include "engine/error.h"
#include "engine/file_io.h"
#include "engine/model/mix.h"

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
  return {{"steps", o.steps},
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
    : m_layout(layout),
      m_source(std::move(source)),
      m_options(options),
      m_pool(pool),
      m_parameters(std::move(parameters)),
      m_momentum(layout.size()),
      m_squares(layout.size()),
      m_streams(options.streams) {
  checkOptions(options);
  if (options.ema > 0) m_average = m_parameters;
  openblas_set_num_threads(1);  // streams are what threads share
  m_lessons.resize(options.streams * options.accumulate);
  for (std::size_t i = 0; i < m_streams.size(); ++i) {
    m_streams[i].state = emptyState<float>(layout.config());
    m_streams[i].place = m_source->firstPlace(i);
  }
  const std::size_t members = std::min(pool.size(), options.streams);
  for (std::size_t i = 0; i < members; ++i) {
    m_backprops.emplace_back(layout);
    m_gradients.emplace_back(layout.size());
  }
}

/// Sets the step's lessons: those of the first stream, then those of the next.
void Trainer::prepare(std::vector<Stream>& streams) {
  for (std::size_t i = 0; i < m_lessons.size(); ++i)
    m_source->next(streams[i / m_options.accumulate].place, m_step * m_lessons.size() + i,
                   m_lessons[i]);
}

/// Loss of a stream's lesson in bits, each target's weighed with `scale`; adds to the member's
/// gradient.
double Trainer::run(Stream& stream, const Lesson& lesson, std::size_t member, float scale,
                    std::stop_token stop) {
  if (lesson.beginsAnew) std::ranges::fill(stream.state, 0.0f);
  const float loss = m_backprops[member].run(m_parameters,
                                             {.inputs = lesson.inputs,
                                              .targets = lesson.targets,
                                              .stateIn = stream.state,
                                              .stateOut = stream.state,
                                              .gradient = m_gradients[member]},
                                             scale, std::move(stop));
  return static_cast<double>(loss) / std::numbers::ln2;
}

TrainingStep Trainer::step(std::stop_token stop) {
  std::vector<Stream> streams = m_streams;  // as they were, should the step not come to its end
  prepare(streams);
  const std::size_t members = m_backprops.size();
  std::vector<double> bits(members);
  for (auto& gradient : m_gradients) std::ranges::fill(gradient, 0.0f);
  const float scale = 1 / static_cast<float>(std::max<std::size_t>(1, countTargets(m_lessons)));
  m_pool.run([&](std::size_t member) {
    if (member >= members) return;
    const cpu::Range own = cpu::share(m_options.streams, member, members);
    try {
      for (std::size_t i = own.begin; i < own.end; ++i)
        for (std::size_t part = 0; part < m_options.accumulate; ++part)
          bits[member] +=
              run(streams[i], m_lessons[i * m_options.accumulate + part], member, scale, stop);
    } catch (const Stopped&) {  // the others see it for themselves
    }
  });
  if (stop.stop_requested()) throw Stopped();
  TrainingStep done;
  for (const double part : bits) done.bits += part;
  done.gradientNorm = addGradients();
  if (!std::isfinite(done.bits) || !std::isfinite(done.gradientNorm))
    throw DivergedError("the loss of step " + std::to_string(m_step + 1) +
                        " is not a number; a lower learning rate may help");
  done.learningRate = learningRateAt(m_options, m_step);
  const bool clips = m_options.clip > 0 && done.gradientNorm > m_options.clip;
  update(done.learningRate, clips ? m_options.clip / done.gradientNorm : 1);
  m_streams = std::move(streams);
  done.step = ++m_step;
  for (const Lesson& lesson : m_lessons) m_tokens += lesson.inputs.size();
  done.tokens = m_tokens;
  return done;
}

/// Adds the members' gradients to the first one, in their order; returns the norm.
double Trainer::addGradients() {
  std::vector<double> squares(m_pool.size());
  m_pool.run([&](std::size_t member) {
    const cpu::Range own = cpu::share(m_layout.size(), member, m_pool.size());
    for (std::size_t i = own.begin; i < own.end; ++i) {
      float sum = m_gradients[0][i];
      for (std::size_t other = 1; other < m_gradients.size(); ++other) sum += m_gradients[other][i];
      m_gradients[0][i] = sum;
      squares[member] += static_cast<double>(sum) * static_cast<double>(sum);
    }
  });
  double sum = 0;
  for (const double part : squares) sum += part;
  return std::sqrt(sum);
}

/// AdamW: Loshchilov and Hutter, arXiv 1711.05101.
void Trainer::update(double learningRate, double factor) {
  const double count = static_cast<double>(m_step + 1);
  const auto rate = static_cast<float>(learningRate / (1 - std::pow(m_options.beta1, count)));
  const auto correction = static_cast<float>(1 / (1 - std::pow(m_options.beta2, count)));
  const auto beta1 = static_cast<float>(m_options.beta1);
  const auto beta2 = static_cast<float>(m_options.beta2);
  const auto epsilon = static_cast<float>(m_options.epsilon);
  const auto clip = static_cast<float>(factor);
  const auto stays = static_cast<float>(std::min(m_options.ema, count / (count + 9)));
  const auto& parameters = m_layout.parameters();
  m_pool.run([&](std::size_t member) {
    const cpu::Range own = cpu::share(parameters.size(), member, m_pool.size());
    for (std::size_t p = own.begin; p < own.end; ++p) {
      const Parameter& parameter = parameters[p];
      const auto keep =
          static_cast<float>(1 - (parameter.decays ? learningRate * m_options.weightDecay : 0.0));
      for (std::size_t i = parameter.offset; i < parameter.offset + parameter.size; ++i) {
        const float gradient = m_gradients[0][i] * clip;
        m_momentum[i] = beta1 * m_momentum[i] + (1 - beta1) * gradient;
        m_squares[i] = beta2 * m_squares[i] + (1 - beta2) * gradient * gradient;
        m_parameters[i] = keep * m_parameters[i] -
                          rate * m_momentum[i] / (std::sqrt(m_squares[i] * correction) + epsilon);
      }
      if (m_average.empty()) continue;
      for (std::size_t i = parameter.offset; i < parameter.offset + parameter.size; ++i)
        m_average[i] = stays * m_average[i] + (1 - stays) * m_parameters[i];
    }
  });
}

double Trainer::validate(TokenView text, std::stop_token stop) {
  expect(text.size() > 1, "text to validate with", "at least 2 tokens",
         std::to_string(text.size()));
  std::vector<float> state = emptyState<float>(m_layout.config());
  double nats = 0;
  for (std::size_t first = 0; first + 1 < text.size(); first += m_options.segment) {
    const std::size_t count = std::min(m_options.segment, text.size() - 1 - first);
    nats += static_cast<double>(m_backprops[0].run(kept(),
                                                   {.inputs = text.subspan(first, count),
                                                    .targets = text.subspan(first + 1, count),
                                                    .stateIn = state,
                                                    .stateOut = state,
                                                    .gradient = {}},
                                                   1, stop));
  }
  return nats / std::numbers::ln2 / static_cast<double>(text.size() - 1);
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

/// The file that says that a checkpoint is complete comes last.
void Trainer::write(const std::filesystem::path& folder) const {
  writeModel(folder, m_layout, kept());
  const std::string head = nlohmann::json({{"format", kFormat},
                                           {"options", describe(m_options)},
                                           {"data", m_source->hash()},
                                           {"threads", m_backprops.size()}})
                               .dump();
  std::vector<std::uint64_t> numbers{m_step, m_tokens};
  for (const Stream& stream : m_streams) numbers.push_back(stream.place);
  const std::uint64_t length = head.size();
  std::vector<std::span<const std::byte>> parts = {
      std::as_bytes(std::span(&length, 1)), std::as_bytes(std::span(head)),
      std::as_bytes(std::span(numbers)), std::as_bytes(std::span(m_momentum)),
      std::as_bytes(std::span(m_squares))};
  for (const Stream& stream : m_streams) parts.push_back(std::as_bytes(std::span(stream.state)));
  if (!m_average.empty()) parts.push_back(std::as_bytes(std::span(m_parameters)));
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
  same("threads", m_backprops.size());
  const std::uint64_t step = reader.number();
  const std::uint64_t tokens = reader.number();
  std::vector<Stream> streams = m_streams;
  for (Stream& stream : streams) stream.place = reader.number();
  std::vector<float> momentum(m_layout.size());
  std::vector<float> squares(m_layout.size());
  reader.values(momentum);
  reader.values(squares);
  for (Stream& stream : streams) reader.values(stream.state);
  std::vector<float> parameters = readParameters(m_layout, checkpoint);
  std::vector<float> average;
  if (!m_average.empty()) {
    average = parameters;
    reader.values(parameters);
  }
  reader.end();
  m_average = std::move(average);
  m_parameters = std::move(parameters);
  m_step = step;
  m_tokens = tokens;
  m_streams = std::move(streams);
  m_momentum = std::move(momentum);
  m_squares = std::move(squares);
}

}  // namespace mb
