// What a widget looks like, for tests that count pixels.
#pragma once

#include <QColor>
#include <QImage>
#include <QPoint>
#include <QTest>
#include <QWheelEvent>
#include <QWidget>

namespace mb::test {

inline QImage pictureOf(QWidget& widget) {
  return widget.grab().toImage().convertToFormat(QImage::Format_RGB32);
}

inline int pixelsOf(const QImage& image, const QColor& color) {
  int count = 0;
  for (int y = 0; y < image.height(); ++y)
    for (int x = 0; x < image.width(); ++x)
      if ((image.pixel(x, y) & RGB_MASK) == (color.rgb() & RGB_MASK)) ++count;
  return count;
}

/// Turns the wheel over a place of a widget; one notch is 120.
inline void turnWheel(QWidget& widget, QPoint place, int angle,
                      Qt::KeyboardModifiers keys = Qt::NoModifier) {
  QWheelEvent event(place, widget.mapToGlobal(place), {}, {0, angle}, Qt::NoButton, keys,
                    Qt::NoScrollPhase, false);
  QCoreApplication::sendEvent(&widget, &event);
}

}  // namespace mb::test
