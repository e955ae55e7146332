#include "engine/decoding/generator.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "engine/error.h"

namespace mb {

namespace {

/// Adds the time from construction to destruction to a sum of seconds.
class Stopwatch {
 public:
  explicit Stopwatch(double& sum) : m_sum(sum), m_start(Clock::now()) {}
  ~Stopwatch() { m_sum += std::chrono::duration<double>(Clock::now() - m_start).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  double& m_sum;
  Clock::time_point m_start;
};

/// Bytes of plain decoding that a runner may draw before it is looked after: stopping waits for
/// them.
constexpr std::size_t kDrawnAhead = 32;

/// Where the paper hands the pen back to the drafter.
bool isBoundary(Byte byte) {
  return byte == ' ' || byte == '\n';
}

/// Fills the counts of a round whose first `accepted` drafted bytes stand.
void count(RoundRecord& round, std::size_t accepted) {
  round.accepted = static_cast<std::uint32_t>(accepted);
  round.rejected = accepted < round.draft.size() ? 1 : 0;
  round.ignored = round.drafted() - round.tested();
  for (const DraftToken& token : round.tokens) {
    if (token.begin < round.tested()) ++round.testedTokens;
    if (token.end <= round.accepted) ++round.acceptedTokens;
  }
}

/// A drafter that says more than it was asked for must not make the run longer.
void cut(Draft& draft, std::size_t most) {
  draft.bytes.resize(most);
  std::erase_if(draft.tokens, [&](const DraftToken& token) { return token.begin >= most; });
  for (DraftToken& token : draft.tokens)
    token.end = std::min(token.end, static_cast<std::uint16_t>(most));
}

std::vector<Token> toTokens(ByteView bytes) {
  return {bytes.begin(), bytes.end()};
}

}  // namespace

std::string_view nameOf(Speculation speculation) {
  static constexpr std::string_view kNames[] = {"off", "exact", "topb"};
  return kNames[static_cast<std::size_t>(speculation)];
}

Generator::Generator(Cursor& cursor, Drafter* drafter, const GenerationSettings& settings,
                     Bytes& text, std::int32_t firstRound, RunnerPair* pair)
    : m_cursor(cursor),
      m_drafter(drafter),
      m_pair(pair),
      m_settings(settings),
      m_sampler(settings.sampler),
      m_text(text),
      m_nextRound(firstRound) {}

bool Generator::speculates() const {
  return m_drafter && m_settings.speculation != Speculation::Off && m_settings.draftTokens > 0;
}

void Generator::run(std::size_t count, const ChunkRequest& request, GenerationSink& sink) {
  m_end = m_text.size() + count;
  try {
    while (m_text.size() < m_end) {
      if (request.stop.stop_requested()) throw Stopped();
      if (!speculates())
        writePlainly(m_end - m_text.size(), request, sink);
      else if (m_correcting)
        correctSerially(request, sink);
      else
        runRound(request, sink);
    }
  } catch (const Stopped&) {
    closeRound(sink);
    throw;
  }
  closeRound(sink);
}

Byte Generator::draw(std::span<const float> logits) {
  return static_cast<Byte>(m_sampler.draw(logits, m_text.size(), ByteView(m_text)));
}

/// The verifier's own byte, after everything read.
ByteRecord Generator::writeOwn(Origin origin, GenerationSink& sink) {
  const auto logits = m_cursor.expected(0);
  ByteRecord record = scoreByte(logits, draw(logits), origin);
  if (m_roundOpen) record.round = m_round.index;
  m_text.push_back(record.byte);
  m_cursor.push(record.byte);
  sink.wrote({&record, 1});
  return record;
}

/// How the runner is to judge a draft of `count` bytes by itself, if it can at all.
std::optional<Judgement> Generator::judgement(std::size_t count) const {
  if (m_settings.speculation == Speculation::TopBeta) return Judgement{m_settings.beta, {}};
  Judgement sameDraw{std::nullopt, m_sampler.drawing(m_text.size(), count)};
  if (sameDraw.drawing.keys.size() < count) return std::nullopt;
  return sameDraw;
}

/// Writes bytes as long as the runner had drawn the same by itself: at least one, at most `most`.
void Generator::writePlainly(std::size_t most, const ChunkRequest& request, GenerationSink& sink) {
  const std::size_t ahead = std::min(most, kDrawnAhead) - 1;
  const TokenView guess = m_cursor.lookAhead(m_sampler.drawing(m_text.size(), ahead), request);
  std::vector<ByteRecord> written;
  do {
    const auto logits = m_cursor.expected(written.size());
    written.push_back(scoreByte(logits, draw(logits), Origin::Plain));
    m_text.push_back(written.back().byte);
  } while (written.size() <= guess.size() && guess[written.size() - 1] == written.back().byte);
  sink.wrote(written);
  m_cursor.accept(written.size() - 1);
  m_cursor.push(written.back().byte);
}

void Generator::runRound(const ChunkRequest& request, GenerationSink& sink) {
  m_round = RoundRecord();
  m_round.position = m_text.size();
  double total = 0;
  {
    const Stopwatch watch(total);
    propose(request);
    if (m_round.draft.empty()) {
      writeWithoutDraft(request, sink);
      m_drafter->append(ByteView(m_text).last(1));
      return;
    }
    verify(request, sink);
    writeAfterDraft(sink);
    m_drafter->append(ByteView(m_text).subspan(m_round.position));
  }
  m_round.times.total = total;
  if (!m_correcting) closeRound(sink);
}

/// A byte where the drafter proposes nothing. A pair has read what comes before it.
void Generator::writeWithoutDraft(const ChunkRequest& request, GenerationSink& sink) {
  if (!m_looked || !m_cursor.guess().empty()) return writePlainly(1, request, sink);
  m_cursor.accept(0);
  writeOwn(Origin::Plain, sink);
}

/// Has a pair of runners draft, and look at the draft, in one go. Returns whether it could: the
/// drafter then proposes without waiting, as a rule what was looked at.
bool Generator::draftAndLook(std::size_t most, const ChunkRequest& request) {
  if (!m_pair || !m_cursor.hasPending()) return false;
  const std::optional<Judgement> judged = judgement(most);
  if (!judged) return false;
  double drafting = 0;
  double both = 0;
  bool looked = false;
  {
    const Stopwatch watch(both);
    looked = m_drafter->prepare(m_settings.draftTokens, most, [&](const DraftPass& pass) {
      const auto outcome = m_cursor.lookTogether(*m_pair, pass, most, *judged, request);
      drafting = outcome.draftSeconds;
      return outcome;
    });
  }
  if (!looked) drafting = both;
  m_round.times.draft += drafting;
  m_round.times.verify += both - drafting;
  return looked;
}

/// Bytes that the round may draft.
std::size_t Generator::mostDrafted() const {
  const bool cuts = m_settings.cutsDrafts && m_settings.speculation == Speculation::Exact;
  return std::min(m_end - m_text.size(), cuts ? m_cursor.cheapGuess() : m_cursor.maxGuess());
}

void Generator::propose(const ChunkRequest& request) {
  const std::size_t most = mostDrafted();
  m_looked = draftAndLook(most, request);
  const Stopwatch watch(m_round.times.draft);
  Draft draft = m_drafter->propose(m_settings.draftTokens, most, request.stop);
  if (draft.bytes.size() > most) cut(draft, most);
  m_round.draft = std::move(draft.bytes);
  m_round.tokens = std::move(draft.tokens);
}

void Generator::look(const ChunkRequest& request) {
  const std::vector<Token> guess = toTokens(m_round.draft);
  if (m_looked && std::ranges::equal(m_cursor.guess(), guess)) return;
  if (const auto judged = judgement(guess.size()))
    m_cursor.look(guess, *judged, request);
  else
    m_cursor.look(guess, request);
}

/// Tests the draft in one pass, keeps what stands and leaves the cursor behind it.
void Generator::verify(const ChunkRequest& request, GenerationSink& sink) {
  {
    const Stopwatch watch(m_round.times.verify);
    look(request);
    m_round.index = m_nextRound++;
    m_roundOpen = true;
    std::vector<ByteRecord> accepted;
    while (accepted.size() < m_round.draft.size()) {
      const Byte drafted = m_round.draft[accepted.size()];
      const auto logits = m_cursor.expected(accepted.size());
      if (!stands(drafted, logits)) break;
      accepted.push_back(scoreByte(logits, drafted, Origin::Accepted));
      accepted.back().round = m_round.index;
      m_text.push_back(drafted);
    }
    count(m_round, accepted.size());
    sink.wrote(accepted);
  }
  const Stopwatch watch(m_round.times.rollback);
  m_cursor.accept(m_round.accepted);
}

bool Generator::stands(Byte drafted, std::span<const float> logits) {
  if (m_settings.speculation == Speculation::Exact) return draw(logits) == drafted;
  const auto better = std::ranges::count_if(logits, [&](float l) { return l > logits[drafted]; });
  return static_cast<std::size_t>(better) < m_settings.beta;
}

/// The byte that the verifying pass gives for free: the correction, or the bonus.
void Generator::writeAfterDraft(GenerationSink& sink) {
  if (m_round.rejected > 0) {
    const Byte own = writeOwn(Origin::Corrected, sink).byte;
    ++m_round.corrected;
    m_correcting = !m_settings.healing && !isBoundary(own);
  } else if (m_text.size() < m_end) {
    writeOwn(Origin::Bonus, sink);
    ++m_round.bonus;
  }
}

/// One byte of the paper's step 4: the verifier writes alone up to a boundary.
void Generator::correctSerially(const ChunkRequest& request, GenerationSink& sink) {
  double seconds = 0;
  {
    const Stopwatch watch(seconds);
    m_cursor.settle(request);
    const Byte own = writeOwn(Origin::Corrected, sink).byte;
    ++m_round.corrected;
    m_drafter->append({&own, 1});
    m_correcting = !isBoundary(own);
  }
  m_round.times.correct += seconds;
  m_round.times.total += seconds;
  if (!m_correcting) closeRound(sink);
}

void Generator::closeRound(GenerationSink& sink) {
  if (!m_roundOpen) return;
  m_roundOpen = false;
  sink.finishedRound(m_round);
}

}  // namespace mb
