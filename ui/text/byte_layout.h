// Where each byte stands on the page: plain arithmetic, tested without a window.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "engine/decoding/records.h"

namespace mb::ui {

/// How a glyph is drawn.
enum class GlyphKind : std::uint8_t {
  Character,  ///< printable, valid UTF-8
  Space,
  Newline,
  Tab,
  Control,  ///< a control character, as hex in a quiet box
  Invalid   ///< a byte that is not UTF-8, as hex in a warning box
};

/// One drawn character and the bytes it stands for. Columns are in units of one cell.
struct Glyph {
  std::size_t first = 0;  ///< byte
  std::size_t count = 1;  ///< bytes
  std::uint32_t codePoint = 0;
  GlyphKind kind = GlyphKind::Character;
  int column = 0;
  int width = 1;  ///< cells
};

struct TextLine {
  std::size_t begin = 0;
  std::size_t end = 0;
};

/// Extra cells before a byte, for what was proposed there and rejected.
using Annotations = std::map<std::size_t, int>;

/// Breaks a text into lines: after newlines, and at spaces where a line is full.
class ByteLayout {
 public:
  using Text = std::span<const ByteRecord>;

  /// Needs a full update() afterwards.
  void setColumns(int columns) { m_columns = columns; }
  int columns() const { return m_columns; }

  /// Lays out the text again from the line before byte `from` on.
  void update(Text text, const Annotations& annotations, std::size_t from);

  const std::vector<TextLine>& lines() const { return m_lines; }
  /// Line of a byte; of the end of the text, the last line.
  std::size_t lineOf(std::size_t byte) const;

  /// The glyphs of a line, left to right.
  static std::vector<Glyph> glyphs(Text text, const Annotations& annotations, TextLine line);

 private:
  std::size_t endOfLine(Text text, const Annotations& annotations, std::size_t begin) const;

  int m_columns = 80;
  std::vector<TextLine> m_lines;
};

/// Glyph at byte `i`, without its column.
Glyph glyphAt(ByteLayout::Text text, std::size_t i);

}  // namespace mb::ui
