// The decode loop: plain, and speculative in both modes of MODEL.md section 5.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "engine/decoding/cursor.h"
#include "engine/decoding/drafter.h"
#include "engine/decoding/records.h"
#include "engine/decoding/sampler.h"
#include "engine/types.h"

namespace mb {

enum class Speculation : std::uint8_t {
  Off,
  /// A drafted byte is accepted only if the verifier draws the same: the text is, byte for byte,
  /// what plain decoding with this seed writes.
  Exact,
  /// A drafted byte is accepted while it ranks within the verifier's top β (MambaByte, Algorithm
  /// 1).
  TopBeta
};

/// "off", "exact", "topb".
std::string_view nameOf(Speculation speculation);

struct GenerationSettings {
  Speculation speculation = Speculation::Off;
  std::size_t draftTokens = 2;  ///< m, tokens drafted a round; few, where testing a byte is dear
  std::size_t beta = 3;         ///< β of TopBeta
  /// After a correction: resume drafting at once with a healed token (true), or let the verifier
  /// write alone up to the next space or newline, as in the paper (false).
  bool healing = true;
  double leastConfidence = 0;  ///< see DraftSettings
  /// Exact drafts end where a chunk becomes much dearer by one byte more. What they bring seldom
  /// goes far, and is the same text wherever a draft ends.
  bool cutsDrafts = true;
  SamplerSettings sampler;
};

/// Receives what the loop writes, in text order, on the thread that runs it.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  /// Bytes that have just been appended to the text.
  virtual void wrote(std::span<const ByteRecord> bytes) = 0;
  /// A finished round; its bytes have been reported before.
  virtual void finishedRound(const RoundRecord& round) = 0;
};

class Generator {
 public:
  /// `cursor` has read all of `text` but for its pending byte, and has read or pending at least
  /// one; `drafter` follows `text`. A null drafter, or Speculation::Off, decodes plainly. All must
  /// outlive the generator. Rounds count from `firstRound`. `pair`, if any, is of the drafter and
  /// the cursor's runner.
  Generator(Cursor& cursor, Drafter* drafter, const GenerationSettings& settings, Bytes& text,
            std::int32_t firstRound, RunnerPair* pair = nullptr);

  /// Appends exactly `count` bytes to the text. Throws Stopped; what was reported by then is in the
  /// text, and nothing else.
  void run(std::size_t count, const ChunkRequest& request, GenerationSink& sink);

 private:
  bool speculates() const;
  void writePlainly(std::size_t most, const ChunkRequest& request, GenerationSink& sink);
  std::optional<Judgement> judgement(std::size_t count) const;
  void runRound(const ChunkRequest& request, GenerationSink& sink);
  void writeWithoutDraft(const ChunkRequest& request, GenerationSink& sink);
  bool draftAndLook(std::size_t most, const ChunkRequest& request);
  std::size_t mostDrafted() const;
  void propose(const ChunkRequest& request);
  void look(const ChunkRequest& request);
  void verify(const ChunkRequest& request, GenerationSink& sink);
  void writeAfterDraft(GenerationSink& sink);
  void correctSerially(const ChunkRequest& request, GenerationSink& sink);
  void closeRound(GenerationSink& sink);
  ByteRecord writeOwn(Origin origin, GenerationSink& sink);
  /// The byte the verifier itself writes at the end of the text.
  Byte draw(std::span<const float> logits);
  bool stands(Byte drafted, std::span<const float> logits);

  Cursor& m_cursor;
  Drafter* m_drafter;
  RunnerPair* m_pair;
  GenerationSettings m_settings;
  Sampler m_sampler;
  Bytes& m_text;
  std::size_t m_end = 0;      ///< text size at which the run is done
  RoundRecord m_round;        ///< being filled
  bool m_looked = false;      ///< at a draft of this round, which may not be the proposed one
  bool m_roundOpen = false;   ///< m_round has bytes in the text and is not reported yet
  bool m_correcting = false;  ///< writing alone up to a boundary
  std::int32_t m_nextRound = 0;
};

}  // namespace mb
