// The text as the window knows it: bytes, what the engine said of each, and how to take changes
// back.
#pragma once

#include <QObject>
#include <QUndoStack>
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "engine/decoding/records.h"
#include "ui/bridge/messages.h"

namespace mb::ui {

/// Lives in the GUI thread. Edits show at once; their scores follow from the engine, progressively.
class Document : public QObject {
  Q_OBJECT

 public:
  explicit Document(QObject* parent = nullptr);

  std::size_t size() const { return m_records.size(); }
  bool isEmpty() const { return m_records.empty(); }
  const ByteRecord& record(std::size_t i) const { return m_records[i]; }
  std::span<const ByteRecord> records() const { return m_records; }
  Byte byte(std::size_t i) const { return m_records[i].byte; }
  Bytes bytes(std::size_t first, std::size_t last) const;
  Bytes bytes() const { return bytes(0, size()); }

  /// False while the byte's score is from before an edit.
  bool isScored(std::size_t i) const { return i < m_scoredTo && m_records[i].scored; }
  std::size_t scoredTo() const { return m_scoredTo; }
  /// Counts up with every change of the text but for bytes the engine appends.
  Revision revision() const { return m_revision; }

  const std::vector<RoundRecord>& rounds() const { return m_rounds; }
  /// The round of that index, or null.
  const RoundRecord* round(std::int32_t index) const;

  /// What the model expects after the text, when it is known.
  const std::optional<NextExpected>& next() const { return m_next; }

  // Changes by the user; each can be undone and asks the engine to follow.
  void insert(std::size_t at, ByteView bytes, Origin origin = Origin::Prompt);
  void remove(std::size_t at, std::size_t count);
  void replace(std::size_t at, std::size_t count, ByteView bytes, Origin origin = Origin::Prompt);
  /// A new text; forgets what could be undone.
  void setText(ByteView bytes);
  QUndoStack& undoStack() { return m_undo; }
  /// One step back or forth. A run in progress counts as a step, and ends.
  void undo();
  void redo();

  // What the engine says.
  void addScores(const ScoredBytes& scores);
  void addRounds(std::span<const RoundRecord> rounds);
  void setNext(const NextExpected& next);
  /// A run has ended: what it wrote becomes one step that can be undone.
  void closeRun();
  /// Forgets every score, as after a change of model, and asks the engine to score all.
  void invalidateScores();

  // The curve before the edit, kept to compare.
  bool hasGhost() const { return !m_ghost.empty(); }
  /// Surprisal before the edit of the byte that is now at i; NaN where there was none.
  float ghost(std::size_t i) const;
  /// First byte that differs from the text before the edit.
  std::size_t firstChanged() const { return m_firstChanged; }
  void dismissGhost();

 signals:
  /// The user changed the text; the engine has to follow.
  void edited(const mb::ui::EditText& edit);
  /// Bytes from `first` on differ from before: text, length or both.
  void textChanged(std::size_t first);
  /// Scores of [first, last) are new.
  void scoresChanged(std::size_t first, std::size_t last);
  void roundsChanged();
  void nextChanged();
  void ghostChanged();

 private:
  class Change;
  friend class Change;
  struct Piece;

  void apply(std::size_t at, std::size_t removed, std::span<const ByteRecord> inserted);
  void followGhost(std::size_t at, std::size_t removed, std::size_t inserted);
  void dropRoundsFrom(std::size_t position);

  std::vector<ByteRecord> m_records;
  std::size_t m_scoredTo = 0;
  Revision m_revision = 0;
  std::vector<RoundRecord> m_rounds;
  std::optional<NextExpected> m_next;
  QUndoStack m_undo;
  std::size_t m_runStart = 0;  ///< size of the text when the engine last began to append
  bool m_inRun = false;
  std::vector<float> m_ghost;
  std::size_t m_firstChanged = 0;
};

}  // namespace mb::ui
