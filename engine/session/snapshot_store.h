// Snapshots along a text, so that an edit resumes from the nearest one before it.
#pragma once

#include <cstdint>
#include <list>

#include "engine/decoding/cursor.h"

namespace mb {

/// Keeps snapshots dense near the end of the text and ever sparser behind: at distance D from the
/// newest one, neighbours are about max(kSpacing, D / density) apart. The density falls as the text
/// grows, so that a budget of memory is never exceeded.
class SnapshotStore {
 public:
  /// Bytes between snapshots near the end.
  static constexpr std::uint64_t kSpacing = 64;
  /// All snapshots together, but for states so large that fewer than kLeast would be left.
  static constexpr std::size_t kBudgetBytes = 128u << 20;
  static constexpr std::size_t kLeast = 24;
  static constexpr std::size_t kMost = 384;

  explicit SnapshotStore(std::size_t stateBytes);

  /// Whether a snapshot at this position would be kept for its place.
  bool wants(std::uint64_t position) const;
  void add(Snapshot snapshot);
  /// Keeps one more snapshot, whatever its place: where the user is editing. Replaces the last one.
  void setAnchor(Snapshot snapshot) { m_anchor = std::move(snapshot); }

  /// The last snapshot at or before `position`, or null: then reading starts at the beginning.
  const Snapshot* nearest(std::uint64_t position) const;
  /// Forgets everything after `position`: the text has changed there.
  void truncate(std::uint64_t position);

  std::size_t count() const { return m_snapshots.size() + (hasAnchor() ? 1 : 0); }

 private:
  bool hasAnchor() const { return !m_anchor.logits.empty(); }
  void thin();

  std::size_t m_most;
  std::uint64_t m_density;
  std::list<Snapshot> m_snapshots;  ///< by position, oldest first
  Snapshot m_anchor;
};

}  // namespace mb
