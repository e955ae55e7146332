// One text and everything known about it: the core of the playground and of the command line.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <vector>

#include "engine/decoding/cursor.h"
#include "engine/decoding/drafter.h"
#include "engine/decoding/generator.h"
#include "engine/decoding/records.h"
#include "engine/model/model.h"
#include "engine/session/snapshot_store.h"
#include "engine/types.h"

namespace mb {

/// Hears what a session finds out, in order, on the thread that runs it.
class SessionListener {
 public:
  virtual ~SessionListener() = default;
  /// Records of the bytes from `first` on: new bytes at the end of the text, or bytes scored
  /// (again).
  virtual void bytesScored(std::size_t first, std::span<const ByteRecord> records) = 0;
  virtual void roundFinished(const RoundRecord&) {}
  /// The first `count` entries of `taps` belong to the bytes from `first` on.
  virtual void tapsRead(std::size_t /*first*/, std::size_t /*count*/, const TapBlock& /*taps*/) {}
};

/// Not thread-safe. The text can change at any time between calls; what it invalidates is worked
/// out again by the next call of score() or generate().
class Session : private GenerationSink {
 public:
  /// `drafter` may be null. Throws RequestError when the verifier is not a byte model.
  Session(std::shared_ptr<const Model> verifier, std::shared_ptr<Drafter> drafter);

  const Model& verifier() const { return *m_verifier; }
  Drafter* drafter() const { return m_drafter.get(); }

  const Bytes& text() const { return m_text; }
  Origin origin(std::size_t index) const { return m_origins[index]; }

  /// Replaces `removed` bytes at `at`. Cheap: states behind `at` are dropped, nothing is computed.
  void replace(std::size_t at, std::size_t removed, ByteView inserted,
               Origin origin = Origin::Prompt);
  /// Likewise with an origin for each inserted byte.
  void replace(std::size_t at, std::size_t removed, ByteView inserted,
               std::span<const Origin> origins);

  /// Becomes a session on the same text as `other`, which ran on a device that failed: with its
  /// scores, and from its newest snapshot that the device still hands out, or from the beginning.
  /// Needs models of the same shapes.
  void takeOver(const Session& other);

  /// What later calls observe while they read.
  void setTaps(const TapRequest& taps) { m_taps = taps; }

  /// Bytes whose scores are up to date.
  std::size_t scored() const { return m_scored; }
  /// The scores from there on did not arrive: they are to be made again.
  void forgetScores(std::size_t from);
  /// Scores up to `most` bytes more. True when the whole text is done. Throws Stopped.
  bool scoreSome(std::size_t most, SessionListener& listener, std::stop_token stop);
  /// Scores whatever is not up to date. Throws Stopped; a later call resumes.
  void score(SessionListener& listener, std::stop_token stop);

  /// What generate() does before its first byte: scores the text and lets the drafter read it.
  /// Calling it first keeps that out of a timing.
  void prepare(const GenerationSettings& settings, SessionListener& listener, std::stop_token stop);

  /// Writes `count` bytes at the end of the text, which it prepares first. Afterwards, also after
  /// Stopped, the last byte may not have been read yet; score() does that.
  /// Throws RequestError for an empty text: a model without a first byte expects nothing.
  void generate(std::size_t count, const GenerationSettings& settings, SessionListener& listener,
                std::stop_token stop);

  /// Reads [first, last) again only to report its taps.
  void observe(std::size_t first, std::size_t last, const TapRequest& taps,
               SessionListener& listener, std::stop_token stop);

  /// Seconds that it takes to go on from `first` for as many bytes as [first, last), as `settings`
  /// say, while nobody listens. Reading up to `first` is not counted.
  double timeDecoding(std::size_t first, std::size_t last, const GenerationSettings& settings,
                      std::stop_token stop);

  /// What the model expects after the text; nothing before score() or for an empty text.
  std::optional<Prediction> next() const;
  /// State after the text. Scores what is missing. Throws Stopped.
  Snapshot snapshot(std::stop_token stop);

  std::size_t snapshotCount() const { return m_snapshots.count(); }
  std::size_t stateBytes() const { return m_cursor.state().bytes(); }

 private:
  void wrote(std::span<const ByteRecord> records) override;
  void finishedRound(const RoundRecord& round) override;
  void keepSnapshot();
  void goBack(std::size_t at);
  Drafter* startDrafter(const GenerationSettings& settings, ByteView text, std::stop_token stop);
  ChunkRequest request(std::stop_token stop) const;
  std::size_t nextChunk() const;
  Cursor cursorAt(std::size_t position, std::stop_token stop);

  std::shared_ptr<const Model> m_verifier;
  std::shared_ptr<Drafter> m_drafter;
  std::unique_ptr<Runner> m_runner;
  std::unique_ptr<RunnerPair> m_pair;  ///< of m_drafter and m_runner, if they make one
  Cursor m_cursor;
  SnapshotStore m_snapshots;
  Bytes m_text;
  std::vector<Origin> m_origins;
  std::size_t m_scored = 0;      ///< bytes before this have valid scores
  std::uint64_t m_editedAt = 0;  ///< where the last edit was
  std::int32_t m_rounds = 0;
  TapRequest m_taps;
  SessionListener* m_listener = nullptr;  ///< of the call in progress
};

}  // namespace mb
