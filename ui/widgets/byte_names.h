// Names of bytes for people.
#pragma once

#include <QString>

#include "engine/types.h"

namespace mb::ui {

/// One character for a byte: itself when it prints, "·" for a space, "↵", "→", or "–" for the rest.
QString byteGlyph(Byte byte);
/// "k", "space", "newline", "byte E9" … for screen readers and tool tips.
QString byteName(Byte byte);
/// "6B"
QString byteHex(Byte byte);
/// Bytes as text to read: what is not UTF-8, and what does not print, as ‹E9›; newlines and tabs as
/// themselves.
QString readableText(ByteView bytes);

}  // namespace mb::ui
