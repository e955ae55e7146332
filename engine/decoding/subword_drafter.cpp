#include "engine/decoding/subword_drafter.h"

#include <algorithm>
#include <utility>

#include "engine/decoding/sampler.h"
#include "engine/error.h"

namespace mb {

namespace {

/// Most bytes that are healed; more of a piece are read as tokens of their own. Few words are
/// longer, and a drafter reads blanks in a row again one by one.
constexpr std::size_t kLongestHealed = 16;

bool startsWith(ByteView bytes, ByteView prefix) {
  return bytes.size() >= prefix.size() && std::ranges::equal(prefix, bytes.first(prefix.size()));
}

}  // namespace

SubwordDrafter::SubwordDrafter(std::shared_ptr<const Model> model,
                               std::shared_ptr<const Tokenizer> tokenizer)
    : m_model(std::move(model)),
      m_tokenizer(std::move(tokenizer)),
      m_tree(std::make_shared<const TokenTree>(m_tokenizer)),
      m_runner(m_model->newRunner()),
      m_chooser(m_tree),
      m_sampler(m_settings.sampler),
      m_states(1),
      m_logits(1) {
  if (m_tokenizer->vocabularySize() > m_model->config().vocabSize) {
    throw RequestError("the tokenizer of " + m_model->info().name + " has " +
                       std::to_string(m_tokenizer->vocabularySize()) + " tokens, its model only " +
                       std::to_string(m_model->config().vocabSize));
  }
}

void SubwordDrafter::configure(const DraftSettings& settings) {
  m_settings = settings;
  m_sampler = Sampler(settings.sampler);
}

void SubwordDrafter::reset(ByteView text, std::stop_token stop) {
  m_firstPrepared.reset();
  const bool extends = m_ready && startsWith(text, m_text);
  if (!extends || text.size() - m_text.size() > kContextBytes)
    return startOver(Bytes(text.begin(), text.end()), stop);
  const Bytes added(text.begin() + static_cast<std::ptrdiff_t>(m_text.size()), text.end());
  follow(added, stop);
  catchUp(stop);
}

void SubwordDrafter::startOver(Bytes text, std::stop_token stop) {
  m_ready = false;
  m_text = std::move(text);
  const ByteView context = ByteView(m_text).last(std::min(m_text.size(), kContextBytes));
  m_pending.assign(context.begin(), context.end());
  m_states[0] = m_model->newState();
  m_unread.clear();
  readPending(stop);
}

/// Every piece but the last, which may become part of a longer token. A long piece is taken in
/// parts, so that no more than kLongestHealed bytes ever have to be healed. Where the parts end
/// depends on the text alone, not on how it came.
SubwordDrafter::Settled SubwordDrafter::settle() const {
  Settled settled;
  const auto take = [&](ByteView piece) {
    const std::vector<Token> tokens = m_tokenizer->encode(piece);
    settled.tokens.insert(settled.tokens.end(), tokens.begin(), tokens.end());
    settled.bytes += piece.size();
  };
  for (bool again = true; again;) {
    again = false;
    const ByteView rest = ByteView(m_pending).subspan(settled.bytes);
    const std::size_t stable = m_tokenizer->lastPieceStart(rest);
    std::size_t at = 0;
    for (const std::size_t length : m_tokenizer->pieces(rest)) {
      again = length > kLongestHealed;
      if (again) take(rest.subspan(at, kLongestHealed));
      if (again || at + length > stable) break;
      take(rest.subspan(at, length));
      at += length;
    }
  }
  return settled;
}

/// Moves the base boundary over pending bytes: the settled ones with healing, else all.
void SubwordDrafter::readPending(std::stop_token stop) {
  Settled settled;
  if (m_settings.healing) settled = settle();
  m_provisional = m_settings.healing && settled.bytes == 0 && !m_ready;
  if (!m_settings.healing || m_provisional)
    settled = {m_tokenizer->encode(m_pending), m_pending.size()};
  forgetSteps();
  if (settled.bytes == 0) return;
  m_ready = false;
  read(settled.tokens, stop);
  dropPending(settled.bytes);
  m_ready = true;
}

void SubwordDrafter::forgetSteps() {
  m_steps.clear();
  m_computed = 1;
}

/// Moves the base boundary over `tokens`, at least one.
void SubwordDrafter::read(TokenView tokens, std::stop_token stop) {
  State& base = m_states[0];
  ChunkRequest request;
  request.logits = LogitsWanted::Last;
  request.stop = stop;
  while (!tokens.empty()) {
    const TokenView chunk = tokens.first(std::min(tokens.size(), m_runner->maxRead()));
    m_runner->advance(base, base, chunk, request);
    tokens = tokens.subspan(chunk.size());
  }
  const auto logits = m_runner->logits(0);
  m_logits[0].assign(logits.begin(), logits.end());
}

/// Reads what the base has not read yet.
void SubwordDrafter::catchUp(std::stop_token stop) {
  if (m_unread.empty()) return;
  m_ready = false;  // until the base is behind them
  read(m_unread, stop);
  m_unread.clear();
  m_ready = true;
}

void SubwordDrafter::reserveBoundaries(std::size_t count) {
  if (m_states.size() >= count) return;
  m_states.resize(count, m_model->newState());
  m_logits.resize(count);
}

/// Computes boundary i + 1 from boundary i and the token chosen there, and where the runner can go
/// on by itself, taking the most probable tokens, up to `most` in all.
void SubwordDrafter::extend(std::size_t boundary, std::size_t most, std::stop_token stop) {
  const std::size_t first = boundary + 1;
  reserveBoundaries(first + most);
  ChunkRequest request;
  request.stop = stop;
  Drawing mostProbable;
  mostProbable.keys.resize(most - 1);
  const Token token = m_steps[boundary];
  const TokenView drawn = m_runner->advanceDrawing(
      m_states[boundary], std::span(m_states).subspan(first, most), token, mostProbable, request);
  keepBoundaries(first, drawn.size() + 1, 0, drawn);
}

/// Takes over `count` boundaries that the runner has just computed, the first with its logits at
/// `firstLogits`, and the tokens it has drawn there.
void SubwordDrafter::keepBoundaries(std::size_t first, std::size_t count, std::size_t firstLogits,
                                    TokenView drawn) {
  m_steps.resize(first);
  m_steps.insert(m_steps.end(), drawn.begin(), drawn.end());
  for (std::size_t i = 0; i < count; ++i) {
    const auto logits = m_runner->logits(firstLogits + i);
    m_logits[first + i].assign(logits.begin(), logits.end());
  }
  m_computed = first + count;
}

/// The token to draft at the current boundary, if any.
TokenChooser::Choice SubwordDrafter::choose(const Progress& progress, bool prepared) {
  if (prepared) {
    const Token token = m_steps[progress.boundary];
    return {m_tokenizer->bytes(token).empty() ? -1 : token, {}};
  }
  if (m_settings.sampler.isGreedy())
    return m_chooser.mostProbable(m_logits[progress.boundary], progress.agree,
                                  m_settings.leastConfidence > 0);
  return drawFor(progress);
}

/// Whether the step from the current boundary is what prepare() found for this proposal. When the
/// first token that a runner chooses ends before the text does, the next do not know what they have
/// to agree with.
bool SubwordDrafter::isPrepared(const Progress& progress) const {
  if (!m_firstPrepared || progress.boundary >= m_steps.size()) return false;
  return progress.agree.empty() || progress.boundary <= *m_firstPrepared || !runnerCanChoose();
}

TokenChooser::Choice SubwordDrafter::drawFor(const Progress& progress) {
  const Bytes& draft = progress.draft.bytes;
  const std::size_t window = std::min(m_text.size(), m_settings.sampler.repetitionWindow);
  Bytes recent(m_text.end() - static_cast<std::ptrdiff_t>(window), m_text.end());
  recent.insert(recent.end(), draft.begin(), draft.end());
  const std::size_t before = recent.size();
  const std::uint64_t position = m_text.size() + draft.size();
  return m_chooser.draw(m_logits[progress.boundary], progress.agree,
                        [&](std::span<const float> logits, ByteView drawn) {
                          recent.resize(before);
                          recent.insert(recent.end(), drawn.begin(), drawn.end());
                          return m_sampler.race(logits, position + drawn.size(), ByteView(recent));
                        });
}

/// Takes the token of step i, and keeps the boundary behind it when it is the one taken before.
void SubwordDrafter::takeStep(std::size_t i, Token token) {
  if (i < m_steps.size() && m_steps[i] == token) return;
  m_steps.resize(i);
  m_steps.push_back(token);
  m_computed = std::min(m_computed, i + 1);
}

Draft SubwordDrafter::propose(std::size_t tokens, std::size_t maxBytes, std::stop_token stop) {
  if (!m_ready) return {};
  catchUp({});
  if (!m_settings.healing) readPending(stop);
  Progress progress{.draft = {}, .agree = m_pending};
  while (!goOn(progress, tokens, maxBytes)) {
    const bool runsOn = progress.agree.empty() && runnerCanChoose();
    extend(progress.boundary - 1, runsOn ? tokens - progress.draft.tokens.size() : 1, stop);
  }
  // What was drawn behind them is not drafted.
  m_firstPrepared.reset();
  m_steps.resize(std::min(m_steps.size(), progress.boundary));
  m_computed = std::min(m_computed, progress.boundary + 1);
  return std::move(progress.draft);
}

/// Drafts as far as boundaries are computed. Returns whether that was all of it; otherwise the
/// current boundary is to be computed.
bool SubwordDrafter::goOn(Progress& progress, std::size_t tokens, std::size_t maxBytes) {
  Draft& draft = progress.draft;
  for (; draft.tokens.size() < tokens && draft.bytes.size() < maxBytes; ++progress.boundary) {
    if (progress.boundary >= m_computed) return false;
    ByteView& agree = progress.agree;
    const bool prepared = isPrepared(progress);
    const TokenChooser::Choice choice = choose(progress, prepared);
    if (choice.token < 0) break;
    const ByteView bytes = m_tokenizer->bytes(choice.token);
    const std::size_t known = std::min(bytes.size(), agree.size());
    const std::size_t fresh = bytes.size() - known;
    const std::size_t sure = sureBytes(progress, prepared, choice, fresh);
    if (fresh > 0 && sure == 0) break;
    takeStep(progress.boundary, choice.token);
    agree = agree.subspan(known);
    if (fresh == 0) continue;  // re-reads the text, drafts nothing
    const auto begin = static_cast<std::uint16_t>(draft.bytes.size());
    const ByteView taken = bytes.subspan(known, std::min(sure, maxBytes - begin));
    draft.bytes.insert(draft.bytes.end(), taken.begin(), taken.end());
    draft.tokens.push_back({choice.token, begin, static_cast<std::uint16_t>(draft.bytes.size())});
    if (sure < fresh) break;
    if (prepared)
      progress.confidence = m_preparedConfidence;
    else if (!choice.confidences.empty())
      progress.confidence *= choice.confidences.back();
  }
  return true;
}

/// How many of the `fresh` bytes that a token brings the drafter is sure enough of.
std::size_t SubwordDrafter::sureBytes(const Progress& progress, bool prepared,
                                      const TokenChooser::Choice& choice, std::size_t fresh) const {
  const double least = m_settings.leastConfidence;
  if (least <= 0) return fresh;
  if (prepared) return std::min(fresh, m_preparedBytes - progress.draft.bytes.size());
  const auto end = std::ranges::find_if(choice.confidences, [&](double confidence) {
    return progress.confidence * confidence < least;
  });
  return static_cast<std::size_t>(end - choice.confidences.begin());
}

std::unique_ptr<RunnerPair> SubwordDrafter::pairWith(Runner& verifier) {
  auto pair = verifier.pairWith(*m_runner, m_tree);
  m_pairWeighsBytes = pair && pair->weighsBytes();
  return pair;
}

/// Tokens that may only re-read the text and draft nothing, before others do. A runner that weighs
/// bytes stops when it needs no more.
std::size_t SubwordDrafter::mostRereading(ByteView agree) const {
  if (agree.empty()) return 0;
  return runnerCanChoose() ? 1 : m_tokenizer->encode(agree).size() + 1;
}

/// Runs from the base over what it has not read, or from the last computed boundary over the token
/// chosen there.
bool SubwordDrafter::prepare(std::size_t tokens, std::size_t maxBytes, const RunPass& run) {
  if (!m_ready || !m_settings.healing || !pairCanChoose()) return false;
  if (tokens == 0 || maxBytes == 0) return false;
  m_firstPrepared.reset();
  Progress progress{.draft = {}, .agree = m_pending};
  const bool fromBase = !m_unread.empty();
  if (!fromBase && goOn(progress, tokens, maxBytes)) return false;
  const Draft& draft = progress.draft;
  const std::size_t first = progress.boundary;  // 0 from the base
  DraftPass pass;
  pass.known = fromBase ? TokenView(m_unread) : TokenView(m_steps).subspan(first - 1, 1);
  pass.agree = progress.agree;
  pass.head = draft.bytes;
  pass.tokens = std::min(tokens - draft.tokens.size(), maxBytes - draft.bytes.size());
  if (pass.agree.size() > DraftPass::kMostAgreeing || pass.known.size() > m_runner->maxChunk())
    return false;
  const std::size_t draws = std::min(pass.tokens + mostRereading(pass.agree),
                                     m_runner->maxChunk() + 1 - pass.known.size());
  pass.drawing = m_sampler.drawing(m_text.size() + draft.bytes.size(), DraftPass::kMostKeys);
  pass.leastConfidence = m_settings.leastConfidence;
  pass.confidence = progress.confidence;
  reserveBoundaries(first + draws);
  pass.from = &m_states[fromBase ? 0 : first - 1];
  pass.to = std::span(m_states).subspan(first, draws);
  const std::size_t firstLogits = pass.known.size() - 1;
  const RunnerPair::Outcome outcome = run(pass);
  m_unread.clear();
  keepBoundaries(first, outcome.drawn.size(), firstLogits, outcome.drawn);
  m_firstPrepared = first;
  m_preparedBytes = outcome.chunk.size() - 1;
  m_preparedConfidence = outcome.confidence;
  return true;
}

/// Steps that the text confirms: with healing the tokens it has up to its last piece, whatever they
/// were drafted from ("the" + "n" is to become "then"); without, all whose bytes it holds.
std::size_t SubwordDrafter::confirmedSteps(TokenView settledTokens) const {
  if (m_settings.healing) {
    const auto differ = std::ranges::mismatch(m_steps, settledTokens);
    return static_cast<std::size_t>(differ.in1 - m_steps.begin());
  }
  std::size_t kept = 0;
  ByteView rest = m_pending;
  while (kept < m_steps.size() && startsWith(rest, m_tokenizer->bytes(m_steps[kept])))
    rest = rest.subspan(m_tokenizer->bytes(m_steps[kept++]).size());
  return kept;
}

void SubwordDrafter::append(ByteView bytes) {
  follow(bytes, {});
}

void SubwordDrafter::follow(ByteView bytes, std::stop_token stop) {
  const bool wasEmpty = m_text.empty();
  m_text.insert(m_text.end(), bytes.begin(), bytes.end());
  m_pending.insert(m_pending.end(), bytes.begin(), bytes.end());
  if ((m_ready && m_provisional) || wasEmpty) return startOver(m_text, stop);
  if (!m_ready) return;
  Settled settled;
  if (m_settings.healing) settled = settle();
  const std::size_t kept = confirmedSteps(settled.tokens);
  const std::size_t reached = std::min(kept, m_computed - 1);
  std::vector<Token> unread(m_steps.begin() + static_cast<std::ptrdiff_t>(reached),
                            m_steps.begin() + static_cast<std::ptrdiff_t>(kept));
  const TokenView rest = TokenView(settled.tokens).subspan(std::min(kept, settled.tokens.size()));
  unread.insert(unread.end(), rest.begin(), rest.end());
  moveBase(reached);
  if (unread.empty()) return;
  dropPending(m_tokenizer->decode(unread).size());
  forgetSteps();
  m_unread.insert(m_unread.end(), unread.begin(), unread.end());
}

/// Makes boundary `steps`, which is computed, the base.
void SubwordDrafter::moveBase(std::size_t steps) {
  if (steps == 0) return;
  const auto count = static_cast<std::ptrdiff_t>(steps);
  std::rotate(m_states.begin(), m_states.begin() + count, m_states.end());
  std::rotate(m_logits.begin(), m_logits.begin() + count, m_logits.end());
  m_computed -= steps;
  dropPending(m_tokenizer->decode(TokenView(m_steps).first(steps)).size());
  m_steps.erase(m_steps.begin(), m_steps.begin() + count);
}

void SubwordDrafter::dropPending(std::size_t bytes) {
  m_pending.erase(m_pending.begin(), m_pending.begin() + static_cast<std::ptrdiff_t>(bytes));
}

std::shared_ptr<SubwordDrafter> openDrafter(ModelLoader& loader,
                                            const std::filesystem::path& folder,
                                            std::stop_token stop) {
  const auto model = loader.open(folder, stop);
  if (model->info().tokenizer.empty()) {
    throw FormatError(folder, "drafter", "a subword model with a tokenizer.json",
                      "no tokenizer.json");
  }
  return std::make_shared<SubwordDrafter>(
      model, std::make_shared<const Tokenizer>(model->info().tokenizer));
}

}  // namespace mb
