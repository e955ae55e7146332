#include "ui/text/byte_layout.h"

#include <algorithm>

#include "ui/text/utf8.h"

namespace mb::ui {

namespace {

constexpr int kTabCells = 4;
constexpr int kHexCells = 2;

/// Rough East Asian width: the blocks whose glyphs are twice as wide as Latin ones.
bool isWide(std::uint32_t c) {
  return (c >= 0x1100 && c <= 0x115f) || (c >= 0x2e80 && c <= 0xa4cf) ||
         (c >= 0xac00 && c <= 0xd7a3) || (c >= 0xf900 && c <= 0xfaff) ||
         (c >= 0xfe30 && c <= 0xfe6f) || (c >= 0xff00 && c <= 0xff60) ||
         (c >= 0x1f300 && c <= 0x1faff) || (c >= 0x20000 && c <= 0x3fffd);
}

bool isControl(std::uint32_t c) {
  return c < 0x20 || (c >= 0x7f && c < 0xa0);
}

int annotationBefore(const Annotations& annotations, std::size_t byte) {
  const auto entry = annotations.find(byte);
  return entry == annotations.end() ? 0 : entry->second;
}

}  // namespace

Glyph glyphAt(ByteLayout::Text text, std::size_t i) {
  const auto byteAt = [&](std::size_t k) { return text[k].byte; };
  const Character character = characterAt(byteAt, i, text.size());
  Glyph glyph{i, character.length, character.codePoint, GlyphKind::Character, 0, 1};
  if (!character.valid) {
    glyph.kind = GlyphKind::Invalid;
    glyph.width = kHexCells;
  } else if (character.codePoint == '\n') {
    glyph.kind = GlyphKind::Newline;
  } else if (character.codePoint == '\t') {
    glyph.kind = GlyphKind::Tab;
    glyph.width = kTabCells;
  } else if (character.codePoint == ' ') {
    glyph.kind = GlyphKind::Space;
  } else if (isControl(character.codePoint)) {
    glyph.kind = GlyphKind::Control;
    glyph.width = kHexCells;
  } else if (isWide(character.codePoint)) {
    glyph.width = 2;
  }
  return glyph;
}

/// Breaks behind the last space that fits, or, in a line without one, where the cells end. A space
/// never starts a line: it may hang over the edge.
std::size_t ByteLayout::endOfLine(Text text, const Annotations& annotations,
                                  std::size_t begin) const {
  int column = 0;
  std::size_t afterSpace = begin;
  for (std::size_t i = begin; i < text.size();) {
    const Glyph glyph = glyphAt(text, i);
    if (glyph.kind == GlyphKind::Newline) return i + 1;
    const int before = annotationBefore(annotations, i);
    const bool fits = column + before + glyph.width <= m_columns;
    if (!fits && glyph.kind != GlyphKind::Space && i > begin)
      return afterSpace > begin ? afterSpace : i;
    column += before + glyph.width;
    i += glyph.count;
    if (glyph.kind == GlyphKind::Space) afterSpace = i;
  }
  return text.size();
}

void ByteLayout::update(Text text, const Annotations& annotations, std::size_t from) {
  std::size_t keep = m_lines.empty() ? 0 : lineOf(from);
  keep = keep > 0 ? keep - 1 : 0;
  m_lines.resize(std::min(keep, m_lines.size()));
  std::size_t begin = m_lines.empty() ? 0 : m_lines.back().end;
  while (begin < text.size()) {
    const std::size_t end = endOfLine(text, annotations, begin);
    m_lines.push_back({begin, end});
    begin = end;
  }
  // The caret behind a final newline, or in an empty text, stands on a line of its own.
  if (m_lines.empty() || (!text.empty() && text.back().byte == '\n' &&
                          m_lines.back().end == text.size() && m_lines.back().begin != text.size()))
    m_lines.push_back({text.size(), text.size()});
}

std::size_t ByteLayout::lineOf(std::size_t byte) const {
  const auto after = std::ranges::upper_bound(m_lines, byte, {}, &TextLine::begin);
  return after == m_lines.begin() ? 0 : static_cast<std::size_t>(after - m_lines.begin()) - 1;
}

std::vector<Glyph> ByteLayout::glyphs(Text text, const Annotations& annotations, TextLine line) {
  std::vector<Glyph> result;
  int column = 0;
  for (std::size_t i = line.begin; i < line.end;) {
    Glyph glyph = glyphAt(text, i);
    column += annotationBefore(annotations, i);
    glyph.column = column;
    column += glyph.width;
    i += glyph.count;
    result.push_back(glyph);
  }
  return result;
}

}  // namespace mb::ui
