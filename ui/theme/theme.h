// All colours and sizes of the window, in one place. Colour means one thing everywhere.
#pragma once

#include <QColor>
#include <QFont>
#include <QObject>
#include <vector>

#include "engine/decoding/records.h"

class QApplication;

namespace mb::ui {

enum class ThemeMode { System, Light, Dark };

/// A tint and the ink that marks the same meaning on the panel's own ground.
struct Meaning {
  QColor fill;
  QColor ink;
};

struct Colors {
  QColor background;
  QColor panel;
  QColor field;  ///< ground of buttons, boxes and bar tracks
  QColor ink;
  QColor dim;
  QColor line;
  QColor accent;
  QColor onAccent;
  QColor bar;  ///< a quieter accent for bars
  Meaning prompt;
  Meaning accepted;
  Meaning corrected;
  Meaning bonus;
  Meaning chosen;
  QColor rejected;
  QColor untested;  ///< drafted bytes that were never tested
  QColor surprise;  ///< of the most surprising bytes
  QColor selection;
  QColor match;  ///< what the find bar found

  /// Tint of a byte by origin; invalid for plainly decoded bytes, which have none.
  QColor fill(Origin origin) const;
  /// Ink of marks, lines and legends for an origin.
  QColor mark(Origin origin) const;
};

/// Owned by the application and handed to every widget. Emits changed() when colours change;
/// widgets with cached colours then take them anew.
class Theme : public QObject {
  Q_OBJECT

 public:
  explicit Theme(QObject* parent = nullptr);

  ThemeMode mode() const { return m_mode; }
  bool isDark() const { return m_dark; }
  const Colors& colors() const;

  /// Sets palette, font and style sheet of the application and emits changed().
  void apply(ThemeMode mode);

  static QFont interfaceFont();
  static QFont titleFont();
  /// For bytes, at a zoom of 1 = 16 px.
  static QFont monoFont(double zoom);

  /// 256 colours of a perceptually even map, dark to light.
  static const std::vector<QRgb>& cividis();
  static const std::vector<QRgb>& viridis();

 signals:
  void changed();

 protected:
  bool eventFilter(QObject* watched, QEvent* event) override;

 private:
  bool systemIsDark() const;

  ThemeMode m_mode = ThemeMode::System;
  bool m_dark = false;
  bool m_applying = false;
  bool m_systemDark = false;
};

}  // namespace mb::ui
