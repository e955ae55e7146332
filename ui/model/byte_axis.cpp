#include "ui/model/byte_axis.h"

#include <algorithm>
#include <cmath>

namespace mb::ui {

/// Upper end of the fitted range: grows in steps, so that plots do not rescale with every byte.
double ByteAxis::fittedUpper() const {
  double step = kEmptySpan;
  while (step * 8 < m_size) step *= 2;
  return std::max(kEmptySpan, std::ceil(m_size / step) * step);
}

void ByteAxis::set(double lower, double upper) {
  if (lower == m_lower && upper == m_upper) return;
  m_lower = lower;
  m_upper = upper;
  emit changed();
}

void ByteAxis::setSize(std::size_t size) {
  m_size = static_cast<double>(size);
  if (m_fitted) return set(0, fittedUpper());
  const double span = m_upper - m_lower;
  if (m_follows && m_upper < m_size) return set(m_size - span, m_size);
  if (m_lower > m_size) fit();
}

void ByteAxis::show(double lower, double upper) {
  const double most = fittedUpper();
  const double span = std::clamp(upper - lower, std::min(kLeastSpan, most), most);
  lower = std::clamp(lower, 0.0, most - span);
  m_fitted = span >= most;
  m_follows = m_fitted || lower + span >= m_size;
  set(lower, lower + span);
}

void ByteAxis::fit() {
  m_fitted = true;
  m_follows = true;
  set(0, fittedUpper());
}

void ByteAxis::zoom(double factor, double around) {
  show(around - (around - m_lower) * factor, around + (m_upper - around) * factor);
}

}  // namespace mb::ui
