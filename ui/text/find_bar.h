// Looks for text or bytes in the document.
#pragma once

#include <QWidget>
#include <optional>
#include <span>
#include <vector>

#include "ui/model/document.h"
#include "ui/text/byte_view.h"

class QLabel;
class QLineEdit;

namespace mb::ui {

/// Bytes that a search means: the text in UTF-8, or after "hex:" the bytes in hexadecimal. Nothing
/// for an empty or malformed search.
std::optional<Bytes> parseSearch(const QString& search);

/// All places of `wanted` in the text, not overlapping.
std::vector<ByteRange> findAll(std::span<const ByteRecord> text, std::span<const Byte> wanted);

class FindBar : public QWidget {
  Q_OBJECT

 public:
  FindBar(Document& document, ByteView& view, QWidget* parent = nullptr);

  /// Shows the bar and takes the focus.
  void open();
  void close();
  void findNext();
  void findPrevious();
  QLineEdit& field() { return *m_field; }
  const std::vector<ByteRange>& matches() const { return m_matches; }

 protected:
  void keyPressEvent(QKeyEvent* event) override;

 private:
  void search();
  void show(std::optional<std::size_t> current);
  void go(int direction);

  Document& m_document;
  ByteView& m_view;
  QLineEdit* m_field;
  QLabel* m_count;
  std::vector<ByteRange> m_matches;
};

}  // namespace mb::ui
