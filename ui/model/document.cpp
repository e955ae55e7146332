#include "ui/model/document.h"

#include <QUndoCommand>
#include <algorithm>
#include <limits>

namespace mb::ui {

namespace {

constexpr float kNone = std::numeric_limits<float>::quiet_NaN();
/// How many steps can be undone; each holds the bytes it replaced.
constexpr int kUndoLimit = 1000;

std::vector<ByteRecord> toRecords(ByteView bytes, Origin origin) {
  std::vector<ByteRecord> records(bytes.size());
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    records[i].byte = bytes[i];
    records[i].origin = origin;
  }
  return records;
}

}  // namespace

/// Replaces a stretch of the text. Typing letter by letter merges into one step.
class Document::Change : public QUndoCommand {
 public:
  enum class Kind { Edit, Typing, Run };

  Change(Document& document, std::size_t at, std::vector<ByteRecord> removed,
         std::vector<ByteRecord> inserted, Kind kind)
      : m_document(document),
        m_at(at),
        m_removed(std::move(removed)),
        m_inserted(std::move(inserted)),
        m_kind(kind),
        m_done(kind == Kind::Run) {
    setText(kind == Kind::Run ? tr("generation") : tr("edit"));
  }

  void redo() override {
    if (!m_done) m_document.apply(m_at, m_removed.size(), m_inserted);
    m_done = true;
  }
  void undo() override {
    m_document.apply(m_at, m_inserted.size(), m_removed);
    m_done = false;
  }
  int id() const override { return m_kind == Kind::Typing ? 1 : -1; }
  bool mergeWith(const QUndoCommand* other) override {
    const auto& next = static_cast<const Change&>(*other);
    const bool follows = next.m_at == m_at + m_inserted.size() && next.m_removed.empty();
    const bool newWord = !next.m_inserted.empty() && next.m_inserted.front().byte == ' ';
    if (!follows || newWord) return false;
    m_inserted.insert(m_inserted.end(), next.m_inserted.begin(), next.m_inserted.end());
    return true;
  }

 private:
  Document& m_document;
  std::size_t m_at;
  std::vector<ByteRecord> m_removed;
  std::vector<ByteRecord> m_inserted;
  Kind m_kind;
  bool m_done;
};

Document::Document(QObject* parent) : QObject(parent) {
  m_undo.setUndoLimit(kUndoLimit);
}

Bytes Document::bytes(std::size_t first, std::size_t last) const {
  Bytes result;
  for (std::size_t i = first; i < std::min(last, size()); ++i) result.push_back(m_records[i].byte);
  return result;
}

const RoundRecord* Document::round(std::int32_t index) const {
  const auto place = std::ranges::lower_bound(m_rounds, index, {}, &RoundRecord::index);
  return place != m_rounds.end() && place->index == index ? &*place : nullptr;
}

void Document::insert(std::size_t at, ByteView bytes, Origin origin) {
  replace(at, 0, bytes, origin);
}

void Document::remove(std::size_t at, std::size_t count) {
  replace(at, count, {});
}

void Document::replace(std::size_t at, std::size_t count, ByteView bytes, Origin origin) {
  closeRun();
  at = std::min(at, size());
  count = std::min(count, size() - at);
  if (count == 0 && bytes.empty()) return;
  const auto first = m_records.begin() + static_cast<std::ptrdiff_t>(at);
  const bool typing = count == 0 && bytes.size() <= 4 && origin == Origin::Prompt;
  m_undo.push(new Change(*this, at, {first, first + static_cast<std::ptrdiff_t>(count)},
                         toRecords(bytes, origin),
                         typing ? Change::Kind::Typing : Change::Kind::Edit));
}

void Document::undo() {
  closeRun();
  m_undo.undo();
}

void Document::redo() {
  closeRun();
  m_undo.redo();
}

void Document::setText(ByteView bytes) {
  m_inRun = false;
  apply(0, size(), toRecords(bytes, Origin::Prompt));
  m_undo.clear();
  m_rounds.clear();
  dismissGhost();
  emit roundsChanged();
}

/// The one place where the text changes by the user's hand.
void Document::apply(std::size_t at, std::size_t removed, std::span<const ByteRecord> inserted) {
  EditText edit;
  edit.revision = ++m_revision;
  edit.size = size();
  edit.at = at;
  edit.removed = removed;
  edit.known = m_scoredTo;
  for (const ByteRecord& record : inserted) {
    edit.inserted.push_back(record.byte);
    edit.origins.push_back(record.origin);
  }
  followGhost(at, removed, inserted.size());
  const auto first = m_records.begin() + static_cast<std::ptrdiff_t>(at);
  m_records.erase(first, first + static_cast<std::ptrdiff_t>(removed));
  m_records.insert(m_records.begin() + static_cast<std::ptrdiff_t>(at), inserted.begin(),
                   inserted.end());
  m_scoredTo = std::min(m_scoredTo, at);
  m_next.reset();
  dropRoundsFrom(at);
  emit edited(edit);
  emit textChanged(at);
  emit nextChanged();
}

/// Rounds whose bytes have changed are no longer a record of this text.
void Document::dropRoundsFrom(std::size_t position) {
  const std::size_t before = m_rounds.size();
  std::erase_if(m_rounds, [&](const RoundRecord& round) {
    return round.position + round.emitted() > position;
  });
  if (m_rounds.size() != before) emit roundsChanged();
}

/// Keeps the old curve aligned with the bytes it belongs to. The first edit takes it.
void Document::followGhost(std::size_t at, std::size_t removed, std::size_t inserted) {
  if (m_ghost.empty()) {
    if (m_scoredTo < 2 || at >= m_scoredTo) return;
    for (std::size_t i = 0; i < size(); ++i)
      m_ghost.push_back(isScored(i) ? m_records[i].surprisal : kNone);
    m_firstChanged = at;
  }
  if (at > m_ghost.size()) return;
  // Bytes put in the place of others keep the old value to compare with.
  removed = std::min(removed, m_ghost.size() - at);
  const std::size_t kept = std::min(removed, inserted);
  const auto place = m_ghost.begin() + static_cast<std::ptrdiff_t>(at + kept);
  if (removed > kept)
    m_ghost.erase(place, place + static_cast<std::ptrdiff_t>(removed - kept));
  else
    m_ghost.insert(place, inserted - kept, kNone);
  m_firstChanged = std::min(m_firstChanged, at);
  emit ghostChanged();
}

float Document::ghost(std::size_t i) const {
  return i < m_ghost.size() ? m_ghost[i] : kNone;
}

void Document::dismissGhost() {
  if (m_ghost.empty()) return;
  m_ghost.clear();
  emit ghostChanged();
}

void Document::addScores(const ScoredBytes& scores) {
  const std::size_t last = scores.first + scores.records.size();
  if (scores.first > size()) return;  // of a text that is gone
  const std::size_t known = std::min(size(), last) - scores.first;
  std::copy_n(scores.records.begin(), known,
              m_records.begin() + static_cast<std::ptrdiff_t>(scores.first));
  if (last > size()) {
    if (!m_inRun) {
      m_inRun = true;
      m_runStart = size();
    }
    const std::size_t appended = size();
    m_records.insert(m_records.end(), scores.records.begin() + static_cast<std::ptrdiff_t>(known),
                     scores.records.end());
    m_next.reset();
    emit textChanged(appended);
  }
  m_scoredTo = std::max(m_scoredTo, last);
  emit scoresChanged(scores.first, last);
}

void Document::addRounds(std::span<const RoundRecord> rounds) {
  if (rounds.empty()) return;
  m_rounds.insert(m_rounds.end(), rounds.begin(), rounds.end());
  emit roundsChanged();
}

void Document::setNext(const NextExpected& next) {
  if (next.position != size()) return;
  m_next = next;
  emit nextChanged();
}

void Document::closeRun() {
  if (!m_inRun) return;
  m_inRun = false;
  std::vector<ByteRecord> written(m_records.begin() + static_cast<std::ptrdiff_t>(m_runStart),
                                  m_records.end());
  m_undo.push(new Change(*this, m_runStart, {}, std::move(written), Change::Kind::Run));
}

void Document::invalidateScores() {
  closeRun();
  const std::vector<ByteRecord> all(m_records);
  m_scoredTo = 0;
  m_rounds.clear();
  apply(0, size(), all);
  emit roundsChanged();
}

}  // namespace mb::ui
