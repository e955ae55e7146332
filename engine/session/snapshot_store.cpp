#include "engine/session/snapshot_store.h"

#include <algorithm>
#include <iterator>

namespace mb {

SnapshotStore::SnapshotStore(std::size_t stateBytes)
    : m_most(std::clamp(kBudgetBytes / std::max<std::size_t>(stateBytes, 1), kLeast, kMost)),
      m_density(m_most) {}

bool SnapshotStore::wants(std::uint64_t position) const {
  if (position == 0) return false;
  const std::uint64_t last = m_snapshots.empty() ? 0 : m_snapshots.back().state.position();
  return position / kSpacing > last / kSpacing;
}

void SnapshotStore::add(Snapshot snapshot) {
  m_snapshots.push_back(std::move(snapshot));
  if (m_snapshots.size() <= m_most) return;
  thin();
  while (m_snapshots.size() > m_most && m_density > 1) {
    m_density -= (m_density + 7) / 8;
    thin();
  }
}

/// Drops a snapshot when its two neighbours are no further apart than its distance from the end
/// allows.
void SnapshotStore::thin() {
  const std::uint64_t end = m_snapshots.back().state.position();
  auto newer = std::prev(m_snapshots.end());
  auto current = std::prev(newer);
  while (current != m_snapshots.begin()) {
    const auto older = std::prev(current);
    const std::uint64_t distance = end - current->state.position();
    const std::uint64_t gap = newer->state.position() - older->state.position();
    if (gap <= std::max(kSpacing, distance / m_density))
      m_snapshots.erase(current);
    else
      newer = current;
    current = older;
  }
}

const Snapshot* SnapshotStore::nearest(std::uint64_t position) const {
  const Snapshot* best = nullptr;
  const auto consider = [&](const Snapshot& snapshot) {
    const std::uint64_t at = snapshot.state.position();
    if (at <= position && (!best || at > best->state.position())) best = &snapshot;
  };
  for (const Snapshot& snapshot : m_snapshots) consider(snapshot);
  if (hasAnchor()) consider(m_anchor);
  return best;
}

void SnapshotStore::truncate(std::uint64_t position) {
  while (!m_snapshots.empty() && m_snapshots.back().state.position() > position)
    m_snapshots.pop_back();
  if (hasAnchor() && m_anchor.state.position() > position) m_anchor = Snapshot();
}

}  // namespace mb
