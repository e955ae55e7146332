#include "ui/widgets/byte_names.h"

#include <QCoreApplication>

#include "ui/text/utf8.h"

namespace mb::ui {

namespace {

QString tr(const char* text) {
  return QCoreApplication::translate("mb::ui::ByteNames", text);
}

bool prints(Byte byte) {
  return byte > 0x20 && byte < 0x7f;
}

}  // namespace

QString byteGlyph(Byte byte) {
  if (prints(byte)) return QString(QChar(byte));
  switch (byte) {
    case ' ': return QStringLiteral("·");
    case '\n': return QStringLiteral("↵");
    case '\t': return QStringLiteral("→");
    default: return QStringLiteral("–");
  }
}

QString byteName(Byte byte) {
  if (prints(byte)) return QString(QChar(byte));
  switch (byte) {
    case ' ': return tr("space");
    case '\n': return tr("newline");
    case '\t': return tr("tab");
    default: return tr("byte %1").arg(byteHex(byte));
  }
}

QString byteHex(Byte byte) {
  return QStringLiteral("%1").arg(byte, 2, 16, QLatin1Char('0')).toUpper();
}

QString readableText(ByteView bytes) {
  QString text;
  const auto byteAt = [&](std::size_t i) { return bytes[i]; };
  for (std::size_t i = 0; i < bytes.size();) {
    const Character character = characterAt(byteAt, i, bytes.size());
    const auto codePoint = static_cast<char32_t>(character.codePoint);
    const bool breaks = bytes[i] == '\n' || bytes[i] == '\t';
    if (character.valid && (breaks || QChar::isPrint(codePoint)))
      text += QString::fromUcs4(&codePoint, 1);
    else
      for (std::size_t k = 0; k < character.length; ++k)
        text += QStringLiteral("‹%1›").arg(byteHex(bytes[i + k]));
    i += character.length;
  }
  return text;
}

}  // namespace mb::ui
