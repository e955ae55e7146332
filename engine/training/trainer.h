// Training of a model: lessons for several streams, AdamW, checkpoints that go on exactly.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/training/data_source.h"
#include "engine/training/parameters.h"
#include "engine/training/training_device.h"
#include "engine/types.h"
#include "kernels/cpu/thread_pool.h"

namespace mb {

/// How the learning rate falls after the warm-up.
enum class Schedule : std::uint8_t { Cosine, Linear };

/// Whatever changes what is learned; a run that goes on must have the same.
struct TrainingOptions {
  std::uint64_t steps = 1000;  ///< of the optimiser
  std::size_t segment = 256;   ///< tokens of a stream in a step
  std::size_t streams = 8;     ///< places of the text that are read side by side
  std::size_t accumulate = 1;  ///< segments of each stream a step
  double learningRate = 1e-3;  ///< the highest
  double finalShare = 0.1;     ///< of it, at the end
  std::uint64_t warmUp = 50;   ///< steps in which it rises from zero
  Schedule schedule = Schedule::Cosine;
  double weightDecay = 0.1;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double clip = 1;  ///< largest norm of the gradient; 0 does not clip
  /// States go on from segment to segment (truncated back-propagation through time). Otherwise
  /// every segment begins anywhere in the text, with empty states.
  bool carryState = true;
  /// Segments after which a stream that carries its state goes elsewhere in the text, with an empty
  /// one; 0 lets it read on to the text's end. A step then sees many places, and the model learns
  /// to begin.
  std::size_t run = 0;
  /// What stays, each step, of a moving average of the weights, which is then validated and kept in
  /// their place; 0 keeps the weights themselves. The first steps weigh more: 1 / (steps + 9) stays
  /// out at least.
  double ema = 0;
  std::uint64_t seed = 0;

  bool operator==(const TrainingOptions&) const = default;
};

/// Throws RequestError that names what is out of range.
void checkOptions(const TrainingOptions& options);

/// Every option by name.
nlohmann::json describe(const TrainingOptions& options);

/// The learning rate of a step, counted from 0.
double learningRateAt(const TrainingOptions& options, std::uint64_t step);

/// One step of the optimiser.
struct TrainingStep {
  std::uint64_t step = 0;    ///< done by now
  std::uint64_t tokens = 0;  ///< read by now
  double bits = 0;           ///< mean loss in bits a target
  double gradientNorm = 0;   ///< before clipping
  double learningRate = 0;
};

/// With the same options, data and device (on the CPU: number of threads) the weights are the same,
/// bit for bit, also across save() and resume().
class Trainer {
 public:
  /// The device must be for as many streams, and for lessons as long as the source's. Throws
  /// RequestError for options out of range. The layout must outlive the trainer; the source's
  /// tokens must lie within the vocabulary.
  Trainer(const ParameterLayout& layout, std::unique_ptr<const DataSource> source,
          const TrainingOptions& options, std::unique_ptr<TrainingDevice> device);
  /// On the CPU; the pool too must outlive the trainer.
  Trainer(const ParameterLayout& layout, std::vector<float> parameters,
          std::unique_ptr<const DataSource> source, const TrainingOptions& options,
          cpu::ThreadPool& pool);

  std::uint64_t steps() const { return m_step; }
  bool isDone() const { return m_step >= m_options.steps; }
  std::span<const float> parameters() const { return m_device->parameters(); }
  /// What is validated and saved as the model: the moving average, or the parameters without one.
  std::span<const float> kept() const { return m_device->kept(); }
  const TrainingDevice& device() const { return *m_device; }

  /// One step. Throws Stopped, within a layer of a segment, with nothing changed; DivergedError
  /// when the loss is not a number, with the weights of the step before; DeviceError when the
  /// device fails, after which only the last checkpoint is left.
  TrainingStep step(std::stop_token stop);

  /// Mean loss of kept() in bits a token, on a text that is read from its beginning, the state
  /// carried on.
  double validate(TokenView text, std::stop_token stop);

  /// Writes the weights as a model, and beside them what resume() needs, all of it or nothing: a
  /// crash leaves the checkpoint before. Throws FileError.
  void save(const std::filesystem::path& folder) const;
  /// Goes on where save() was called. Throws FileError, or FormatError when the checkpoint is of
  /// another model, other data or other options.
  void resume(const std::filesystem::path& folder);

  /// The checkpoint to read in a folder that save() wrote to, also after a crash in the middle.
  static std::filesystem::path newest(const std::filesystem::path& folder);

 private:
  std::vector<SegmentTokens> prepare(std::vector<std::uint64_t>& places);
  void write(const std::filesystem::path& folder) const;

  const ParameterLayout& m_layout;
  std::unique_ptr<const DataSource> m_source;
  TrainingOptions m_options;
  std::unique_ptr<TrainingDevice> m_device;
  std::vector<std::uint64_t> m_places;  ///< of the streams, as the source counts
  std::vector<Lesson> m_lessons;        ///< of the step: [streams][accumulate]
  std::uint64_t m_step = 0;
  std::uint64_t m_tokens = 0;  ///< read by now
};

}  // namespace mb
