// Which byte the user looks at, shared by all panels.
#pragma once

#include <QObject>
#include <cstddef>
#include <optional>

namespace mb::ui {

/// Hovering marks a byte everywhere while the pointer is on it; selecting pins it.
class LinkedPosition : public QObject {
  Q_OBJECT

 public:
  using QObject::QObject;

  std::optional<std::size_t> hovered() const { return m_hovered; }
  std::optional<std::size_t> selected() const { return m_selected; }
  /// The hovered byte, else the selected one.
  std::optional<std::size_t> current() const { return m_hovered ? m_hovered : m_selected; }

  void hover(std::optional<std::size_t> byte) {
    if (byte == m_hovered) return;
    m_hovered = byte;
    emit changed();
  }
  void select(std::optional<std::size_t> byte) {
    if (byte == m_selected) return;
    m_selected = byte;
    emit changed();
  }

 signals:
  void changed();

 private:
  std::optional<std::size_t> m_hovered;
  std::optional<std::size_t> m_selected;
};

}  // namespace mb::ui
