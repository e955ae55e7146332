#include "ui/model/trace_pyramid.h"

#include <algorithm>

namespace mb::ui {

namespace {

/// Rows that a mean should cover, so that those cut at its ends weigh little.
constexpr std::size_t kRowsOfMean = 4;

}  // namespace

/// Bytes below a row. Level 0 are the bytes themselves, level k + 1 is m_levels[k].
std::size_t TracePyramid::spanOf(std::size_t level) {
  std::size_t span = 1;
  for (std::size_t i = 0; i < level; ++i) span *= kFactor;
  return span;
}

std::size_t TracePyramid::levelFor(std::size_t span) {
  std::size_t level = 0;
  while (level < kLevels && spanOf(level + 1) * kRowsOfMean <= span) ++level;
  return level;
}

void TracePyramid::reset(std::size_t width) {
  m_width = width;
  m_size = 0;
  m_pages.clear();
  m_pagesKept = 0;
  m_levels.assign(kLevels, {});
  m_staleFirst = m_staleLast = 0;
}

void TracePyramid::markStale(std::size_t first, std::size_t last) {
  const bool none = m_staleFirst == m_staleLast;
  m_staleFirst = none ? first : std::min(m_staleFirst, first);
  m_staleLast = none ? last : std::max(m_staleLast, last);
}

void TracePyramid::setRow(std::size_t index, const float* values) {
  Page& page = pageFor(index);
  const std::size_t row = index % kPageRows;
  std::copy_n(values, m_width, page.rows.begin() + static_cast<std::ptrdiff_t>(row * m_width));
  page.known.set(row);
  page.lastUse = ++m_clock;
  m_size = std::max(m_size, index + 1);
  markStale(index, index + 1);
}

TracePyramid::Page& TracePyramid::pageFor(std::size_t index) {
  const std::size_t place = index / kPageRows;
  if (place >= m_pages.size()) m_pages.resize(place + 1);
  if (!m_pages[place]) {
    if (m_pagesKept == kMostPages) dropOldestPage();
    m_pages[place] = std::make_unique<Page>();
    m_pages[place]->rows.resize(kPageRows * m_width);
    ++m_pagesKept;
  }
  return *m_pages[place];
}

void TracePyramid::dropOldestPage() {
  refresh();
  const auto age = [](const std::unique_ptr<Page>& page) { return page ? page->lastUse : ~0ULL; };
  std::ranges::min_element(m_pages, {}, age)->reset();
  --m_pagesKept;
}

bool TracePyramid::hasRow(std::size_t index) const {
  return countAt(0, index) > 0;
}

float TracePyramid::value(std::size_t index, std::size_t column) const {
  return static_cast<float>(rowAt(0, index)[column]);
}

std::optional<float> TracePyramid::nearest(std::size_t index, std::size_t column) const {
  if (hasRow(index)) return value(index, column);
  refresh();
  if (index >= m_size || countAt(1, index / kFactor) == 0) return std::nullopt;
  return static_cast<float>(rowAt(1, index / kFactor)[column]);
}

void TracePyramid::truncate(std::size_t size) {
  if (size >= m_size) return;
  refresh();
  m_size = size;
  const std::size_t pages = (size + kPageRows - 1) / kPageRows;
  for (std::size_t i = pages; i < m_pages.size(); ++i)
    if (m_pages[i]) --m_pagesKept;
  m_pages.resize(std::min(pages, m_pages.size()));
  if (const std::size_t rest = size % kPageRows; rest > 0 && pages <= m_pages.size())
    if (Page* page = m_pages[pages - 1].get())
      for (std::size_t row = rest; row < kPageRows; ++row) page->known.reset(row);
  for (std::size_t level = 1; level <= kLevels; ++level) {
    Level& cut = m_levels[level - 1];
    const std::size_t whole = std::min(size / spanOf(level), cut.counts.size());
    cut.means.resize(whole * m_width);
    cut.counts.resize(whole);
  }
  // The rows that were cut through are made anew from those below.
  markStale(size - size % spanOf(kLevels), size);
}

std::size_t TracePyramid::countAt(std::size_t level, std::size_t row) const {
  if (level > 0) {
    const auto& counts = m_levels[level - 1].counts;
    return row < counts.size() ? counts[row] : 0;
  }
  const std::size_t place = row / kPageRows;
  return place < m_pages.size() && m_pages[place] && m_pages[place]->known[row % kPageRows];
}

const qfloat16* TracePyramid::rowAt(std::size_t level, std::size_t row) const {
  return level > 0 ? &m_levels[level - 1].means[row * m_width]
                   : &m_pages[row / kPageRows]->rows[row % kPageRows * m_width];
}

/// Adds rows [first, last) of a level, weighted by the bytes below, to `sum` and their number to
/// `count`. True when there was anything.
bool TracePyramid::sumRows(std::size_t level, std::size_t first, std::size_t last,
                           std::vector<float>& sum, std::size_t& count) const {
  const std::size_t before = count;
  for (std::size_t row = first; row < last; ++row) {
    const std::size_t weight = countAt(level, row);
    if (weight == 0) continue;
    count += weight;
    const float scale = static_cast<float>(weight);
    const qfloat16* values = rowAt(level, row);
    for (std::size_t i = 0; i < m_width; ++i) sum[i] += scale * static_cast<float>(values[i]);
  }
  return count > before;
}

/// A mean whose rows below were all dropped stays as it was.
void TracePyramid::refresh() const {
  if (m_staleFirst == m_staleLast) return;
  std::vector<float> sum(m_width);
  for (std::size_t level = 1; level <= kLevels; ++level) {
    const std::size_t span = spanOf(level);
    Level& made = m_levels[level - 1];
    const std::size_t rows = (m_size + span - 1) / span;
    made.means.resize(rows * m_width);
    made.counts.resize(rows);
    const std::size_t last = std::min(rows, (m_staleLast + span - 1) / span);
    for (std::size_t row = m_staleFirst / span; row < last; ++row) {
      std::ranges::fill(sum, 0.0f);
      std::size_t count = 0;
      if (!sumRows(level - 1, row * kFactor, (row + 1) * kFactor, sum, count)) continue;
      made.counts[row] = static_cast<std::uint16_t>(count);
      for (std::size_t i = 0; i < m_width; ++i)
        made.means[row * m_width + i] = qfloat16(sum[i] / static_cast<float>(count));
    }
  }
  m_staleFirst = m_staleLast = 0;
}

bool TracePyramid::mean(std::size_t first, std::size_t last, std::vector<float>& out) const {
  out.assign(m_width, 0);
  last = std::min(last, m_size);
  if (first >= last) return false;
  refresh();
  const auto sumAt = [&](std::size_t level, std::size_t& count) {
    const std::size_t span = spanOf(level);
    return sumRows(level, first / span, (last + span - 1) / span, out, count);
  };
  const std::size_t level = levelFor(last - first);
  std::size_t count = 0;
  if (level == 0) {
    for (std::size_t place = first / kPageRows; place * kPageRows < last; ++place)
      if (place < m_pages.size() && m_pages[place]) m_pages[place]->lastUse = ++m_clock;
  }
  if (!sumAt(level, count) && (level > 0 || !sumAt(1, count))) return false;
  for (float& value : out) value /= static_cast<float>(count);
  return true;
}

bool TracePyramid::isKnown(std::size_t index, std::size_t span) const {
  refresh();
  const std::size_t level = levelFor(span);
  return countAt(level, index / spanOf(level)) > 0;
}

std::size_t TracePyramid::bytesUsed() const {
  std::size_t bytes = m_pagesKept * (sizeof(Page) + kPageRows * m_width * sizeof(qfloat16));
  for (const Level& level : m_levels)
    bytes +=
        level.means.capacity() * sizeof(qfloat16) + level.counts.capacity() * sizeof(std::uint16_t);
  return bytes;
}

}  // namespace mb::ui
