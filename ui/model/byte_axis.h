// The range of bytes that all plots show.
#pragma once

#include <QObject>
#include <cstddef>

namespace mb::ui {

/// Shared by plots with bytes on their x axis: zooming or panning one moves all. While it follows,
/// the range grows or moves with the text.
class ByteAxis : public QObject {
  Q_OBJECT

 public:
  using QObject::QObject;

  double lower() const { return m_lower; }
  double upper() const { return m_upper; }
  bool follows() const { return m_follows; }

  /// The text has `size` bytes now.
  void setSize(std::size_t size);
  /// Shows [lower, upper], within the text and at least a few bytes wide; stops following unless
  /// the end of the text is in view.
  void show(double lower, double upper);
  /// Shows everything and follows.
  void fit();
  /// Zooms by `factor` (< 1 zooms in) around a position.
  void zoom(double factor, double around);

 signals:
  void changed();

 private:
  double fittedUpper() const;
  void set(double lower, double upper);

  double m_size = 0;
  double m_lower = 0;
  double m_upper = kEmptySpan;
  bool m_follows = true;
  bool m_fitted = true;

  static constexpr double kEmptySpan = 64;
  static constexpr double kLeastSpan = 8;
};

}  // namespace mb::ui
