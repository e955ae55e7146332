// Training of a model on a text: segments of several streams, AdamW, checkpoints that go on
// exactly.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

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
  std::uint64_t seed = 0;

  bool operator==(const TrainingOptions&) const = default;
};

/// Throws RequestError that names what is out of range.
void checkOptions(const TrainingOptions& options);

/// The learning rate of a step, counted from 0.
double learningRateAt(const TrainingOptions& options, std::uint64_t step);

/// One step of the optimiser.
struct TrainingStep {
  std::uint64_t step = 0;    ///< done by now
  std::uint64_t tokens = 0;  ///< read by now
  double bits = 0;           ///< mean loss in bits a token
  double gradientNorm = 0;   ///< before clipping
  double learningRate = 0;
};

/// With the same options, text and device (on the CPU: number of threads) the weights are the same,
/// bit for bit, also across save() and resume().
class Trainer {
 public:
  /// The device must be for as many streams. Throws RequestError for options out of range, a text
  /// of fewer tokens than one segment and its target, or tokens outside the vocabulary. Layout and
  /// text must outlive the trainer.
  Trainer(const ParameterLayout& layout, TokenView text, const TrainingOptions& options,
          std::unique_ptr<TrainingDevice> device);
  /// On the CPU; the pool too must outlive the trainer.
  Trainer(const ParameterLayout& layout, std::vector<float> parameters, TokenView text,
          const TrainingOptions& options, cpu::ThreadPool& pool);

  std::uint64_t steps() const { return m_step; }
  bool isDone() const { return m_step >= m_options.steps; }
  std::span<const float> parameters() const { return m_device->parameters(); }
  const TrainingDevice& device() const { return *m_device; }

  /// One step. Throws Stopped between segments, with nothing changed; DivergedError when the loss
  /// is not a number, with the weights of the step before; DeviceError when the device fails, after
  /// which only the last checkpoint is left.
  TrainingStep step(std::stop_token stop);

  /// Mean loss in bits a token of a text that is read from its beginning, the state carried on.
  double validate(TokenView text, std::stop_token stop);

  /// Writes the weights as a model, and beside them what resume() needs, all of it or nothing: a
  /// crash leaves the checkpoint before. Throws FileError.
  void save(const std::filesystem::path& folder) const;
  /// Goes on where save() was called. Throws FileError, or FormatError when the checkpoint is of
  /// another model, text or other options.
  void resume(const std::filesystem::path& folder);

  /// The checkpoint to read in a folder that save() wrote to, also after a crash in the middle.
  static std::filesystem::path newest(const std::filesystem::path& folder);

 private:
  bool place(std::uint64_t& position, std::uint64_t index) const;
  std::vector<SegmentTokens> nextSegments(std::vector<std::uint64_t>& positions) const;
  void write(const std::filesystem::path& folder) const;
  std::uint64_t textHash() const;

  const ParameterLayout& m_layout;
  TokenView m_text;
  TrainingOptions m_options;
  std::unique_ptr<TrainingDevice> m_device;
  std::vector<std::uint64_t> m_positions;  ///< of the streams in the text
  std::uint64_t m_step = 0;
};

}  // namespace mb
