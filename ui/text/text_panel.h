// The hero of the window: the text with its title row, messages and find bar.
#pragma once

#include <QWidget>

#include "ui/text/byte_view.h"

class QToolButton;

namespace mb::ui {

class Choice;

class FindBar;
class Legend;
class MessageStrip;
class TitleBar;

class TextPanel : public QWidget {
  Q_OBJECT

 public:
  TextPanel(Document& document, LinkedPosition& linked, const Theme& theme,
            QWidget* parent = nullptr);

  ByteView& view() { return *m_view; }
  FindBar& findBar() { return *m_find; }
  MessageStrip& messages() { return *m_messages; }

 private:
  void buildTitle();
  void refreshLegend();
  void followView();

  const Theme& m_theme;
  TitleBar* m_title;
  MessageStrip* m_messages;
  ByteView* m_view;
  FindBar* m_find;
  Legend* m_legend;
  Choice* m_coloring;
  QToolButton* m_rejected;
  QToolButton* m_hex;
};

}  // namespace mb::ui
