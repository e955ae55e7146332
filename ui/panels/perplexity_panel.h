// Surprisal of every byte, running bits per byte, and the curve from before an edit.
#pragma once

#include <QSharedPointer>
#include <cstdint>
#include <functional>
#include <vector>

#include "ui/model/byte_axis.h"
#include "ui/model/document.h"
#include "ui/model/linked_position.h"
#include "ui/panels/panel.h"
#include "ui/theme/theme.h"

class QCPAxisTickerFixed;
class QCPGraph;
class QLabel;
class QToolButton;

namespace mb::ui {

class Choice;

class BytePlot;
class Legend;

class PerplexityPanel : public Panel {
  Q_OBJECT

 public:
  PerplexityPanel(Document& document, ByteAxis& axis, LinkedPosition& linked, const Theme& theme,
                  QWidget* parent);

  /// Mean over all scored bytes; 0 when there are none.
  double bitsPerByte() const;
  /// exp(NLL / words) over the text; 0 when there is nothing to score.
  double wordPerplexity() const;
  /// Running bits per byte at a byte, as drawn.
  double runningAt(std::size_t byte) const;

 protected:
  void refresh() override;

 private:
  /// Over the bytes before a place.
  struct Sum {
    double bits = 0;
    std::uint32_t scored = 0;
    std::uint32_t words = 0;
  };

  void buildGraphs();
  void setScores(std::size_t first, std::size_t last);
  void truncate(std::size_t size);
  double runningOf(const std::vector<Sum>& sums, std::size_t byte) const;
  double surprisalAt(std::size_t byte) const;
  std::size_t bytesPerPoint() const;
  void forEachPoint(
      std::size_t known,
      const std::function<void(std::size_t first, std::size_t last, double x)>& use) const;
  void followGhost();
  void refreshCurves();
  void refreshGhost();
  void refreshLegend();
  QString readout(double byte) const;
  double tallestShown() const;

  Document& m_document;
  ByteAxis& m_axis;
  const Theme& m_theme;
  BytePlot* m_plot;
  Legend* m_legend;
  Choice* m_window;
  QToolButton* m_dismiss;
  QLabel* m_words;
  QCPGraph* m_bars = nullptr;
  QCPGraph* m_tallBars = nullptr;
  QCPGraph* m_running = nullptr;
  QCPGraph* m_ghost = nullptr;
  QSharedPointer<QCPAxisTickerFixed> m_ticker;
  std::vector<Sum> m_sums{1};       ///< [i] over bytes [0, i)
  std::vector<Sum> m_ghostSums{1};  ///< of the curve before the edit
};

}  // namespace mb::ui
