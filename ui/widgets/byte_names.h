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

}  // namespace mb::ui
