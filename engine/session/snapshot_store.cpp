#include "engine/session/snapshot_store.h"

#include <algorithm>
#include <iterator>

namespace mb {

namespace {

constexpr std::uint64_t kLeastDensity = 8;
constexpr std::uint64_t kMostDensity = 64;
/// A text of 100 KB holds about this many times `density` snapshots: 1 + ln(100 KB / (64 · 64)),
/// with room to spare.
constexpr std::uint64_t kSnapshotsPerDensity = 6;

}  // namespace

SnapshotStore::SnapshotStore(std::size_t stateBytes)
    : m_density(
          std::clamp(kBudgetBytes / std::max<std::size_t>(stateBytes, 1) / kSnapshotsPerDensity,
                     kLeastDensity, kMostDensity)) {}

bool SnapshotStore::wants(std::uint64_t position) const {
  if (position == 0) return false;
  const std::uint64_t last = m_snapshots.empty() ? 0 : m_snapshots.back().state.position();
  return position / kSpacing > last / kSpacing;
}

void SnapshotStore::add(Snapshot snapshot) {
  m_snapshots.push_back(std::move(snapshot));
  thin();
}

/// Drops a snapshot when its two neighbours are no further apart than its distance from the end
/// allows.
void SnapshotStore::thin() {
  if (m_snapshots.size() < 3) return;
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
