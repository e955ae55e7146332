#include "ui/text/text_panel.h"

#include <QFrame>
#include <QToolButton>
#include <QVBoxLayout>

#include "ui/text/find_bar.h"
#include "ui/widgets/choice.h"
#include "ui/widgets/message_strip.h"
#include "ui/widgets/title_bar.h"

namespace mb::ui {

TextPanel::TextPanel(Document& document, LinkedPosition& linked, const Theme& theme,
                     QWidget* parent)
    : QWidget(parent),
      m_theme(theme),
      m_title(new TitleBar(tr("Text"), this)),
      m_messages(new MessageStrip(this)),
      m_view(new ByteView(document, linked, theme, this)),
      m_find(new FindBar(document, *m_view, this)),
      m_legend(new Legend(this)),
      m_coloring(new Choice(this)),
      m_rejected(new QToolButton(this)),
      m_hex(new QToolButton(this)) {
  buildTitle();
  auto* body = new QFrame(this);
  body->setProperty("role", "body");
  auto* inside = new QVBoxLayout(body);
  inside->setContentsMargins(1, 0, 1, 6);
  inside->setSpacing(0);
  inside->addWidget(m_messages);
  inside->addWidget(m_find);
  inside->addWidget(m_view, 1);
  auto* column = new QVBoxLayout(this);
  column->setContentsMargins(0, 0, 0, 0);
  column->setSpacing(0);
  column->addWidget(m_title);
  column->addWidget(body, 1);
  connect(m_view, &ByteView::displayChanged, this, &TextPanel::followView);
  connect(&theme, &Theme::changed, this, &TextPanel::refreshLegend);
  followView();
}

void TextPanel::buildTitle() {
  m_coloring->addItem(tr("By origin"), static_cast<int>(TextColoring::Origin));
  m_coloring->addItem(tr("By surprisal"), static_cast<int>(TextColoring::Surprisal));
  m_coloring->setAccessibleName(tr("What colours mean"));
  m_coloring->setToolTip(
      tr("Colour bytes by where they came from, or by how much they surprised the "
         "model (bits)"));
  m_rejected->setText(tr("Rejected"));
  m_rejected->setToolTip(tr("Show rejected drafts struck through where they were proposed"));
  m_hex->setText(tr("Hex"));
  m_hex->setToolTip(tr("Show bytes as hex beside the text (Ctrl+H)"));
  for (QToolButton* button : {m_rejected, m_hex}) {
    button->setCheckable(true);
    button->setAccessibleName(button->toolTip());
  }
  m_title->add(m_legend);
  m_title->add(m_coloring);
  m_title->add(m_rejected);
  m_title->add(m_hex);
  connect(m_coloring, &QComboBox::currentIndexChanged, this, [this] {
    m_view->setColoring(static_cast<TextColoring>(m_coloring->currentData().toInt()));
  });
  connect(m_rejected, &QToolButton::toggled, m_view, &ByteView::setShowRejected);
  connect(m_hex, &QToolButton::toggled, m_view, &ByteView::setHex);
}

void TextPanel::followView() {
  m_coloring->setCurrentIndex(static_cast<int>(m_view->coloring()));
  m_rejected->setChecked(m_view->showsRejected());
  m_hex->setChecked(m_view->showsHex());
  refreshLegend();
}

void TextPanel::refreshLegend() {
  const Colors& colors = m_theme.colors();
  if (m_view->coloring() == TextColoring::Surprisal) {
    QColor half = colors.surprise;
    half.setAlphaF(0.5f);
    m_legend->setEntries({{tr("0 bits"), colors.panel, Legend::Mark::Swatch},
                          {tr("4 bits"), half, Legend::Mark::Swatch},
                          {tr("8 bits or more"), colors.surprise, Legend::Mark::Swatch}});
    return;
  }
  m_legend->setEntries({{tr("prompt"), colors.prompt.fill, Legend::Mark::Swatch},
                        {tr("accepted"), colors.accepted.fill, Legend::Mark::Swatch},
                        {tr("corrected"), colors.corrected.fill, Legend::Mark::Swatch},
                        {tr("bonus"), colors.bonus.fill, Legend::Mark::Swatch},
                        {tr("rejected"), colors.rejected, Legend::Mark::Struck}});
}

}  // namespace mb::ui
