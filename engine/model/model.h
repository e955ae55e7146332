// The one interface between decoding and devices: const weights, and runners that move states over
// chunks of tokens. Prefill, decode, verification and evaluation are all `advance`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/model_config.h"
#include "engine/model/state.h"
#include "engine/model/taps.h"
#include "engine/types.h"

namespace mb {

/// How weights are kept in memory. A_log, D, norms, biases, Δ, states and sums are always float32.
enum class WeightPrecision : std::uint8_t { BFloat16, Float32 };

/// "bf16" or "f32".
std::string nameOf(WeightPrecision precision);

/// After which tokens of a chunk the logits are wanted.
enum class LogitsWanted : std::uint8_t { None, Last, All };

struct ChunkRequest {
  LogitsWanted logits = LogitsWanted::All;
  TapRequest taps;
  std::stop_token stop;
};

/// How a runner draws tokens by itself: temperature (0 takes the most probable), top-k (0 for all),
/// top-p and min-p as in SamplerSettings.
struct Drawing {
  double temperature = 0;
  std::size_t topK = 0;
  double topP = 1;
  double minP = 0;
  std::vector<std::uint64_t> keys;  ///< of the random numbers of each token to draw
};

/// When a runner lets a guessed token stand.
struct Judgement {
  /// While fewer tokens than this are more probable; without it while `drawing` draws the token.
  std::optional<std::size_t> beta;
  Drawing drawing;  ///< with a key for each guess
};

/// Throws RequestError for a chunk that is too long or holds a token outside the vocabulary.
void checkChunk(const ModelConfig& config, TokenView tokens, std::size_t most);

class RunnerPair;
class TokenTree;

/// Runs chunks of one model on one device. Owns the scratch memory; use from one thread at a time.
/// The model must outlive it.
class Runner {
 public:
  virtual ~Runner() = default;

  /// Most tokens of a chunk: of a call that gives bit for bit what its tokens one by one give.
  virtual std::size_t maxChunk() const = 0;
  /// Tokens of a chunk behind which one more makes it much dearer; at least two.
  virtual std::size_t cheapChunk() const { return maxChunk(); }
  /// Most tokens of any call. Those longer than a chunk are for reading texts: they are fast, but
  /// may round differently and cannot be rewound.
  virtual std::size_t maxRead() const { return maxChunk(); }
  /// The same of a call that wants taps.
  virtual std::size_t maxTappedRead() const { return maxRead(); }

  /// Sets `to` to the state after `tokens` from `from`. `from` and `to` have the model's shape;
  /// they may be the same object, but then rewind() is not possible afterwards. n tokens in one
  /// chunk give bit for bit the states and logits of n calls with one token. Throws Stopped when
  /// request.stop is triggered, at the latest after one layer; `to` is then unspecified. Throws
  /// RequestError for a token outside the vocabulary.
  virtual void advance(const State& from, State& to, TokenView tokens,
                       const ChunkRequest& request) = 0;

  /// advance() over `first`, and then over tokens that the runner draws where the logits are, each
  /// after the one before it: no pass waits for the caller. Returns them, at most
  /// drawing.keys.size(); a runner that cannot draw returns none. They are what a Sampler draws
  /// from the same logits, but for rounding: draw again and rewind() where it differs. Of `to`, at
  /// least one, the i-th takes the state after i + 1 tokens, and the last what all lead to.
  virtual TokenView advanceDrawing(const State& from, std::span<State> to, Token first,
                                   const Drawing& drawing, const ChunkRequest& request);

  /// advance() over `tokens`, of which all but the first are guesses, except that `to` becomes the
  /// state after the first and those guesses that stand: up to the first that does not. Returns how
  /// many tokens those are; a runner that cannot judge lets all stand. They are what the host finds
  /// from the same logits, but for rounding: judge again and rewind() where it differs.
  virtual std::size_t advanceJudging(const State& from, State& to, TokenView tokens,
                                     const Judgement& judgement, const ChunkRequest& request);

  /// Sets `to` to the state after the first `kept` tokens of the last advance(), which started at
  /// `from`. Replays the recurrence; reads no weights.
  virtual void rewind(const State& from, State& to, std::size_t kept) = 0;

  /// Logits after token `index` of the last advance() (or after the last token, index ignored, when
  /// only that was wanted): vocabSize values, valid until the next advance().
  virtual std::span<const float> logits(std::size_t index) const = 0;

  /// Lets this runner, of a model of bytes, verify what `drafter` drafts of these tokens without a
  /// wait between them. Null when they cannot, as on different devices.
  virtual std::unique_ptr<RunnerPair> pairWith(Runner& drafter,
                                               std::shared_ptr<const TokenTree> tokens);

  /// Taps of the last advance(); count is 0 when none were wanted.
  virtual const TapBlock& taps() const = 0;
};

/// What a model is and where it came from, for people and manifests.
struct ModelInfo {
  std::string name;              ///< folder name, or the name of a random shape
  std::filesystem::path folder;  ///< empty for random weights
  std::vector<std::filesystem::path> files;
  std::filesystem::path tokenizer;  ///< of a subword model, or empty
  std::string storedType;           ///< type of the projections in the file
  WeightPrecision precision = WeightPrecision::BFloat16;
  std::size_t weightBytes = 0;  ///< bytes read to decode one token
  std::string device;           ///< "CPU, avx512, 2 threads"
};

/// Weights on one device. Immutable and shared; every method is const and thread-safe.
class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelConfig& config() const = 0;
  virtual const ModelInfo& info() const = 0;
  virtual std::unique_ptr<Runner> newRunner() const = 0;

  /// The same weights for runners on a thread of their own, which may run at the same time as those
  /// of this model; null on a device that has no threads.
  virtual std::shared_ptr<const Model> onOwnThread() const { return nullptr; }

  /// How often the host has waited for this model's device so far; 0 where there is no wait.
  virtual std::uint64_t waits() const { return 0; }

  State newState() const { return State(StateShape(config())); }
};

}  // namespace mb
