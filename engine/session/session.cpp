#include "engine/session/session.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "engine/error.h"

namespace mb {

namespace {

/// Bytes of the first pass behind an edit: few, so that they can be shown at once.
constexpr std::size_t kFirstPass = 16;

/// Lets callbacks reach the listener of a call while it lasts.
class ListenerScope {
 public:
  ListenerScope(SessionListener*& slot, SessionListener& listener) : m_slot(slot) {
    m_slot = &listener;
  }
  ~ListenerScope() { m_slot = nullptr; }
  ListenerScope(const ListenerScope&) = delete;
  ListenerScope& operator=(const ListenerScope&) = delete;

 private:
  SessionListener*& m_slot;
};

std::vector<Token> toTokens(ByteView bytes) {
  return {bytes.begin(), bytes.end()};
}

}  // namespace

Session::Session(std::shared_ptr<const Model> verifier, std::shared_ptr<Drafter> drafter)
    : m_verifier(std::move(verifier)),
      m_drafter(std::move(drafter)),
      m_runner(m_verifier->newRunner()),
      m_pair(m_drafter ? m_drafter->pairWith(*m_runner) : nullptr),
      m_cursor(*m_verifier, *m_runner),
      m_snapshots(m_cursor.state().bytes()) {
  if (!m_verifier->config().isByteLevel()) {
    throw RequestError(m_verifier->info().name + " is a subword model (vocabulary " +
                       std::to_string(m_verifier->config().vocabSize) +
                       "); a verifier reads bytes (vocabulary 256)");
  }
  m_cursor.onRead([this](std::uint64_t first, std::size_t count, const TapBlock& taps) {
    keepSnapshot();
    if (m_listener && taps.count > 0)
      m_listener->tapsRead(static_cast<std::size_t>(first), count, taps);
  });
}

ChunkRequest Session::request(std::stop_token stop) const {
  return {LogitsWanted::All, m_taps, std::move(stop)};
}

void Session::keepSnapshot() {
  const std::uint64_t position = m_cursor.position();
  try {
    if (m_snapshots.wants(position)) m_snapshots.add(m_cursor.snapshot());
    if (position == m_editedAt && position > 0) m_snapshots.setAnchor(m_cursor.snapshot());
  } catch (const DeviceError&) {
    // What was read is known all the same; the next pass will meet what is wrong with the device.
  }
}

void Session::replace(std::size_t at, std::size_t removed, ByteView inserted, Origin origin) {
  replace(at, removed, inserted, std::vector<Origin>(inserted.size(), origin));
}

void Session::replace(std::size_t at, std::size_t removed, ByteView inserted,
                      std::span<const Origin> origins) {
  at = std::min(at, m_text.size());
  removed = std::min(removed, m_text.size() - at);
  if (removed == 0 && inserted.empty()) return;
  const auto place = static_cast<std::ptrdiff_t>(at);
  const auto end = static_cast<std::ptrdiff_t>(at + removed);
  m_text.erase(m_text.begin() + place, m_text.begin() + end);
  m_text.insert(m_text.begin() + place, inserted.begin(), inserted.end());
  m_origins.erase(m_origins.begin() + place, m_origins.begin() + end);
  m_origins.insert(m_origins.begin() + place, origins.begin(), origins.end());

  m_scored = std::min(m_scored, at);
  m_editedAt = at;
  if (m_cursor.position() > at || m_cursor.hasPending()) {
    m_snapshots.truncate(at);
    goBack(at);
  }
}

void Session::forgetScores(std::size_t from) {
  m_scored = std::min(m_scored, from);
  if (m_cursor.position() > from) goBack(from);
}

/// Takes the cursor to `at` or before.
void Session::goBack(std::size_t at) {
  m_cursor.restart();
  try {
    if (const Snapshot* snapshot = m_snapshots.nearest(at)) m_cursor.restart(*snapshot);
  } catch (const DeviceError&) {
    // Reading from the beginning will meet what is wrong with the device.
  }
}

void Session::takeOver(const Session& other) {
  m_text = other.m_text;
  m_origins = other.m_origins;
  m_scored = other.m_scored;
  m_editedAt = other.m_editedAt;
  m_rounds = other.m_rounds;
  m_taps = other.m_taps;
  m_snapshots = SnapshotStore(m_cursor.state().bytes());
  m_cursor.restart();
  const Snapshot* newest = other.m_snapshots.nearest(m_text.size());
  if (!newest) return;
  try {
    Snapshot onHost{m_verifier->newState(), newest->logits};
    std::ranges::copy(newest->state.values(), onHost.state.values().begin());
    onHost.state.setPosition(newest->state.position());
    m_cursor.restart(onHost);
    m_snapshots.add(std::move(onHost));
  } catch (const DeviceError&) {
    // it keeps its states to itself
  }
}

/// Chunks end where the last edit was, to leave an anchor there, and start small behind it.
std::size_t Session::nextChunk() const {
  const std::size_t position = static_cast<std::size_t>(m_cursor.position());
  const std::size_t most = m_taps.enabled ? m_runner->maxTappedRead() : m_runner->maxRead();
  std::size_t size = std::min(most, m_text.size() - position);
  if (position < m_editedAt) size = std::min<std::size_t>(size, m_editedAt - position);
  if (position == m_editedAt) size = std::min(size, kFirstPass);
  return size;
}

bool Session::scoreSome(std::size_t most, SessionListener& listener, std::stop_token stop) {
  const ListenerScope scope(m_listener, listener);
  m_cursor.settle(request(stop));
  const std::size_t target = std::min(m_text.size(), m_scored + std::min(most, m_text.size()));
  while (m_cursor.position() < m_text.size() &&
         (m_scored < target || m_cursor.position() < target)) {
    const std::size_t first = static_cast<std::size_t>(m_cursor.position());
    const ByteView chunk = ByteView(m_text).subspan(first, nextChunk());
    m_cursor.look(toTokens(chunk), request(stop));
    std::vector<ByteRecord> records;
    for (std::size_t i = 0; i < chunk.size(); ++i) {
      if (first + i < m_scored) continue;
      const auto logits = m_cursor.expected(i);
      ByteRecord record;
      record.byte = chunk[i];
      record.origin = m_origins[first + i];
      records.push_back(logits.empty() ? record : scoreByte(logits, chunk[i], record.origin));
    }
    m_cursor.accept(chunk.size());
    const std::size_t firstNew = std::max(first, m_scored);
    m_scored = std::max(m_scored, first + chunk.size());
    if (!records.empty()) listener.bytesScored(firstNew, records);
  }
  return m_cursor.position() == m_text.size();
}

void Session::score(SessionListener& listener, std::stop_token stop) {
  scoreSome(m_text.size(), listener, std::move(stop));
}

void Session::prepare(const GenerationSettings& settings, SessionListener& listener,
                      std::stop_token stop) {
  score(listener, stop);
  startDrafter(settings, m_text, stop);
}

/// Has the drafter follow `text`. Null when these settings want none.
Drafter* Session::startDrafter(const GenerationSettings& settings, ByteView text,
                               std::stop_token stop) {
  if (!m_drafter || settings.speculation == Speculation::Off) return nullptr;
  m_drafter->configure({settings.healing, settings.leastConfidence, settings.sampler});
  m_drafter->reset(text, std::move(stop));
  return m_drafter.get();
}

void Session::generate(std::size_t count, const GenerationSettings& settings,
                       SessionListener& listener, std::stop_token stop) {
  if (m_text.empty())
    throw RequestError("the text is empty; the model needs at least one byte to go on from");
  score(listener, stop);
  Drafter* drafter = startDrafter(settings, m_text, stop);
  const ListenerScope scope(m_listener, listener);
  Generator(m_cursor, drafter, settings, m_text, m_rounds, m_pair.get())
      .run(count, request(stop), *this);
}

/// The generator has already appended the bytes to the text.
void Session::wrote(std::span<const ByteRecord> records) {
  const std::size_t first = m_origins.size();
  for (const ByteRecord& record : records) m_origins.push_back(record.origin);
  m_scored = m_origins.size();
  if (!records.empty()) m_listener->bytesScored(first, records);
}

void Session::finishedRound(const RoundRecord& round) {
  m_rounds = round.index + 1;
  m_listener->roundFinished(round);
}

/// A second cursor on the same runner that has read the first `position` bytes. The main cursor
/// holds nothing provisional between calls, so they do not disturb each other.
Cursor Session::cursorAt(std::size_t position, std::stop_token stop) {
  Cursor cursor(*m_verifier, *m_runner);
  if (const Snapshot* snapshot = m_snapshots.nearest(position)) cursor.restart(*snapshot);
  ChunkRequest plain{LogitsWanted::All, {}, std::move(stop)};
  while (cursor.position() < position) {
    const std::size_t first = static_cast<std::size_t>(cursor.position());
    const std::size_t size = std::min(m_runner->maxRead(), position - first);
    cursor.read(toTokens(ByteView(m_text).subspan(first, size)), plain);
  }
  return cursor;
}

void Session::observe(std::size_t first, std::size_t last, const TapRequest& taps,
                      SessionListener& listener, std::stop_token stop) {
  last = std::min(last, m_text.size());
  if (first >= last) return;
  Cursor cursor = cursorAt(first, stop);
  cursor.onRead([&](std::uint64_t start, std::size_t count, const TapBlock& block) {
    listener.tapsRead(static_cast<std::size_t>(start), count, block);
  });
  const ChunkRequest wanted{LogitsWanted::All, taps, std::move(stop)};
  for (std::size_t at = first; at < last;) {
    const std::size_t size = std::min(m_runner->maxTappedRead(), last - at);
    cursor.read(toTokens(ByteView(m_text).subspan(at, size)), wanted);
    at += size;
  }
}

double Session::timeDecoding(std::size_t first, std::size_t last,
                             const GenerationSettings& settings, std::stop_token stop) {
  class Ignore : public GenerationSink {
    void wrote(std::span<const ByteRecord>) override {}
    void finishedRound(const RoundRecord&) override {}
  } ignore;
  last = std::min(last, m_text.size());
  if (first == 0 || first >= last) return 0;
  Cursor cursor = cursorAt(first, stop);
  Bytes text(m_text.begin(), m_text.begin() + static_cast<std::ptrdiff_t>(first));
  Drafter* drafter = startDrafter(settings, text, stop);
  const auto start = std::chrono::steady_clock::now();
  Generator(cursor, drafter, settings, text, 0, m_pair.get())
      .run(last - first, request(stop), ignore);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::optional<Prediction> Session::next() const {
  if (m_text.empty() || m_cursor.position() != m_text.size()) return std::nullopt;
  return predict(m_cursor.expected(0));
}

Snapshot Session::snapshot(std::stop_token stop) {
  class Ignore : public SessionListener {
    void bytesScored(std::size_t, std::span<const ByteRecord>) override {}
  } ignore;
  score(ignore, std::move(stop));
  return m_cursor.snapshot();
}

}  // namespace mb
