#include "ui/widgets/byte_names.h"

#include <QCoreApplication>

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

}  // namespace mb::ui
