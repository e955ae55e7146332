#include "engine/decoding/cursor.h"

#include <cassert>
#include <utility>

namespace mb {

Cursor::Cursor(const Model& model, Runner& runner)
    : m_runner(runner), m_state(model.newState()), m_next(model.newState()) {}

void Cursor::restart() {
  m_state = State(m_state.shape());
  m_pending.clear();
  m_chunk.clear();
  m_logits.clear();
}

void Cursor::restart(const Snapshot& snapshot) {
  m_state = snapshot.state;
  m_pending.clear();
  m_chunk.clear();
  m_logits = snapshot.logits;
}

void Cursor::startChunk(TokenView guess) {
  m_chunk = m_pending;
  m_chunk.insert(m_chunk.end(), guess.begin(), guess.end());
  m_kept = m_chunk.size();
}

void Cursor::look(TokenView guess, const ChunkRequest& request) {
  startChunk(guess);
  if (!m_chunk.empty()) m_runner.advance(m_state, m_next, m_chunk, request);
}

void Cursor::look(TokenView guess, const Judgement& judgement, const ChunkRequest& request) {
  if (m_pending.empty()) return look(guess, request);  // the runner has no logits for the first
  startChunk(guess);
  m_kept = m_runner.advanceJudging(m_state, m_next, m_chunk, judgement, request);
}

TokenView Cursor::lookAhead(const Drawing& drawing, const ChunkRequest& request) {
  m_chunk = m_pending;
  if (m_chunk.empty()) return {};
  const TokenView drawn =
      m_runner.advanceDrawing(m_state, {&m_next, 1}, m_chunk.front(), drawing, request);
  m_chunk.insert(m_chunk.end(), drawn.begin(), drawn.end());
  m_kept = m_chunk.size();
  return TokenView(m_chunk).subspan(1);
}

RunnerPair::Outcome Cursor::lookTogether(RunnerPair& pair, const DraftPass& draft, std::size_t most,
                                         const Judgement& judgement, const ChunkRequest& request) {
  assert(!m_pending.empty());
  const RunnerPair::Outcome outcome =
      pair.run(draft, {m_state, m_next, m_pending.front(), most, judgement}, request);
  m_chunk.assign(outcome.chunk.begin(), outcome.chunk.end());
  m_kept = outcome.kept;
  return outcome;
}

/// With a pending token, the chunk's first logits predict the first guess. Without one they were
/// kept from before.
std::span<const float> Cursor::expected(std::size_t i) const {
  if (!m_pending.empty()) return m_runner.logits(i);
  return i == 0 ? std::span<const float>(m_logits) : m_runner.logits(i - 1);
}

void Cursor::accept(std::size_t count) {
  const std::size_t kept = m_pending.size() + count;
  assert(kept <= m_chunk.size());
  if (kept == 0) return;
  if (kept != m_kept) m_runner.rewind(m_state, m_next, kept);
  std::swap(m_state, m_next);
  keepLogits(m_runner.logits(kept - 1));
  m_pending.clear();
  m_chunk.clear();
  if (m_onRead) m_onRead(position() - kept, kept, m_runner.taps());
}

void Cursor::push(Token token) {
  assert(m_pending.empty());
  m_pending.push_back(token);
}

void Cursor::read(TokenView tokens, const ChunkRequest& request) {
  assert(m_pending.empty());
  look(tokens, request);
  accept(tokens.size());
}

void Cursor::settle(const ChunkRequest& request) {
  if (m_pending.empty()) return;
  look({}, request);
  accept(0);
}

Snapshot Cursor::snapshot() const {
  assert(m_pending.empty());
  return {m_state, m_logits};
}

void Cursor::keepLogits(std::span<const float> logits) {
  m_logits.assign(logits.begin(), logits.end());
}

}  // namespace mb
