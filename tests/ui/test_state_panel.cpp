// The heatmap of the model's state, from taps made up by hand.
#include <QComboBox>
#include <QLabel>
#include <QSignalSpy>
#include <QToolTip>
#include <QtTest>
#include <cmath>
#include <qcustomplot.h>

#include "tests/support/documents.h"
#include "ui/panels/state_panel.h"

using namespace mb::ui;
using mb::TapBlock;
using mb::TapKind;
using mb::toBytes;

namespace {

constexpr std::size_t kLayers = 4;
constexpr std::size_t kBins = 3;
constexpr std::size_t kChannels = 48;

/// A value that tells kind, byte and row apart, and fits half precision exactly.
float layerValue(TapKind kind, std::size_t byte, std::size_t layer) {
  return static_cast<float>(kind == TapKind::Delta ? 0 : 128) + static_cast<float>(byte % 16 * 4) +
         static_cast<float>(layer) / 4;
}
float channelValue(TapKind kind, std::size_t byte, std::size_t bin) {
  return layerValue(kind, byte, bin) + 64;
}

ReadTaps taps(std::size_t first, std::size_t count, std::size_t layer) {
  ReadTaps made{first, count, {count, kLayers, kBins, layer, {}, {}}};
  for (std::size_t i = first; i < first + count; ++i) {
    for (const TapKind kind : {TapKind::Delta, TapKind::StateNorm, TapKind::Decay}) {
      for (std::size_t l = 0; l < kLayers; ++l)
        made.block.byLayer.push_back(layerValue(kind, i, l));
      for (std::size_t b = 0; b < kBins; ++b)
        made.block.byChannel.push_back(channelValue(kind, i, b));
    }
  }
  return made;
}

struct Shown {
  Shown() {
    theme.apply(ThemeMode::Light);
    QObject::connect(&document, &Document::textChanged, &axis,
                     [this] { axis.setSize(document.size()); });
    QObject::connect(&panel, &StatePanel::layerChanged, &traces, &TraceStore::setLayer);
    traces.reset(kLayers, kBins);
    panel.setModel(kLayers, kChannels);
    panel.resize(900, 360);
    panel.show();
    active = QTest::qWaitForWindowActive(&panel);
  }
  void fill(std::size_t bytes = 40) {
    document.setText(mb::Bytes(bytes, 'x'));
    document.addScores(mb::test::scores(0, std::string(bytes, 'x'), mb::Origin::Prompt));
    traces.add(taps(0, bytes, traces.layer()));
    panel.refreshIfNeeded();
  }
  QCustomPlot& plot() { return *panel.findChild<QCustomPlot*>(); }
  QCPColorMap& map() { return *qobject_cast<QCPColorMap*>(plot().plottable(0)); }
  QPoint placeOf(double byte, double row) {
    plot().replot(QCustomPlot::rpImmediateRefresh);
    return QPointF(plot().xAxis->coordToPixel(byte + 0.5), plot().yAxis->coordToPixel(row + 0.5))
        .toPoint();
  }
  QComboBox& choice(const QString& name) const {
    for (auto* box : panel.findChildren<QComboBox*>())
      if (box->accessibleName() == name) return *box;
    qFatal("no such choice");
  }

  Theme theme;
  Document document;
  TraceStore traces;
  ByteAxis axis;
  LinkedPosition linked;
  StatePanel panel{document, traces, axis, linked, theme, nullptr};
  bool active = false;
};

}  // namespace

class StatePanelTest : public QObject {
  Q_OBJECT

 private slots:
  void anEmptyTextSaysWhatToDo() {
    Shown shown;
    QVERIFY(shown.active);
    shown.panel.refreshIfNeeded();
    const auto hints = [&] {
      int visible = 0;
      for (const auto* label : shown.panel.findChildren<QLabel*>())
        visible += label->property("role") == "hint" && label->isVisible();
      return visible;
    };
    QCOMPARE(hints(), 1);
    shown.fill();
    QCOMPARE(hints(), 0);
  }

  void startsAtTheMiddleLayerAndOffersAll() {
    Shown shown;
    QComboBox& layers = shown.choice("Layer");
    QCOMPARE(layers.count(), int{kLayers});
    QCOMPARE(layers.currentText(), QString("layer 2"));
    QCOMPARE(shown.traces.layer(), std::size_t{2});
  }

  void everyValueIsTheOneObserved() {
    Shown shown;
    shown.fill();
    for (const TapKind kind : {TapKind::Delta, TapKind::StateNorm}) {
      shown.panel.setKind(kind);
      shown.panel.setView(StateView::ChannelsByBytes);
      QCOMPARE(shown.panel.rows(), kBins);
      QCOMPARE(shown.panel.valueAt(7, 1), static_cast<double>(channelValue(kind, 7, 1)));
      shown.panel.setView(StateView::LayersByBytes);
      QCOMPARE(shown.panel.rows(), kLayers);
      QCOMPARE(shown.panel.valueAt(39, 3), static_cast<double>(layerValue(kind, 39, 3)));
    }
    QVERIFY(std::isnan(shown.panel.valueAt(40, 0)));
    QVERIFY(std::isnan(shown.panel.valueAt(0, kLayers)));
  }

  void everyCellDrawnIsTheValueOfItsByteAndRow() {
    Shown shown;
    shown.fill();
    shown.panel.setView(StateView::LayersByBytes);
    shown.panel.refreshIfNeeded();
    for (std::size_t byte = 0; byte < 40; ++byte) {
      for (std::size_t layer = 0; layer < kLayers; ++layer) {
        const double x = static_cast<double>(byte) + 0.5;
        const double y = static_cast<double>(layer) + 0.5;
        QCOMPARE(shown.map().data()->data(x, y),
                 static_cast<double>(layerValue(TapKind::Delta, byte, layer)));
      }
    }
  }

  void bytesThatWereNotReadAreTransparent() {
    Shown shown;
    shown.document.setText(mb::Bytes(20, 'x'));
    shown.traces.add(taps(0, 10, 2));
    shown.panel.refreshIfNeeded();
    QCOMPARE(int{shown.map().data()->alpha(9, 0)}, 255);
    QCOMPARE(int{shown.map().data()->alpha(10, 0)}, 0);
  }

  void choosingAnotherLayerAsksForItsChannels() {
    Shown shown;
    shown.fill();
    QSignalSpy chosen(&shown.panel, &StatePanel::layerChanged);
    QSignalSpy wanted(&shown.panel, &StatePanel::tapsWanted);
    shown.choice("Layer").setCurrentIndex(3);
    QCOMPARE(chosen.count(), 1);
    QCOMPARE(chosen[0][0].value<std::size_t>(), std::size_t{3});
    shown.panel.refreshIfNeeded();
    QCOMPARE(wanted.count(), 1);
    QCOMPARE(wanted[0][0].value<std::size_t>(), std::size_t{0});
    QCOMPARE(wanted[0][1].value<std::size_t>(), std::size_t{40});
    shown.panel.markDirty();
    shown.panel.refreshIfNeeded();
    QCOMPARE(wanted.count(), 1);
    QVERIFY(std::isnan(shown.panel.valueAt(5, 0)));
    shown.traces.add(taps(0, 40, 3));
    shown.panel.refreshIfNeeded();
    QCOMPARE(shown.panel.valueAt(5, 0), static_cast<double>(channelValue(TapKind::Delta, 5, 0)));
    QCOMPARE(wanted.count(), 1);
  }

  void onlyBytesInViewAreAskedFor() {
    Shown shown;
    shown.document.setText(mb::Bytes(1000, 'x'));
    shown.document.addScores(mb::test::scores(0, std::string(1000, 'x'), mb::Origin::Prompt));
    shown.axis.show(300, 400);
    QSignalSpy wanted(&shown.panel, &StatePanel::tapsWanted);
    shown.panel.refreshIfNeeded();
    QCOMPARE(wanted.count(), 1);
    QCOMPARE(wanted[0][0].value<std::size_t>(), std::size_t{300});
    QCOMPARE(wanted[0][1].value<std::size_t>(), std::size_t{400});
  }

  void bytesThatAreNotScoredYetAreNotAskedFor() {
    Shown shown;
    shown.document.setText(mb::Bytes(50, 'x'));
    QSignalSpy wanted(&shown.panel, &StatePanel::tapsWanted);
    shown.panel.refreshIfNeeded();
    QCOMPARE(wanted.count(), 0);
  }

  void anEditForgetsWhatLiesBehindIt() {
    Shown shown;
    shown.fill();
    shown.document.replace(10, 1, toBytes("y"));
    shown.panel.refreshIfNeeded();
    QVERIFY(!std::isnan(shown.panel.valueAt(9, 0)));
    QVERIFY(std::isnan(shown.panel.valueAt(10, 0)));
  }

  void theColourRangeIsRobustAgainstOutliers() {
    Shown shown;
    shown.document.setText(mb::Bytes(200, 'x'));
    ReadTaps made = taps(0, 200, 2);
    for (float& value : made.block.byChannel) value = std::fmod(value, 16.0f) / 16 + 1;
    made.block.byChannel[27] = 60'000;
    made.block.byChannel[63] = -60'000;
    shown.traces.add(made);
    const auto range = [&] {
      shown.panel.refreshIfNeeded();
      return shown.map().dataRange();
    };
    QTRY_VERIFY(range().upper < 2.5 && range().upper > 1.5 && range().lower > 0.5);
    QCOMPARE(qobject_cast<QCPColorScale*>(shown.map().colorScale())->dataRange().upper,
             range().upper);
  }

  void mapsAreCividisOrViridis() {
    Shown shown;
    shown.fill();
    const auto ends = [&] {
      shown.panel.refreshIfNeeded();
      const auto stops = shown.map().gradient().colorStops();
      return std::pair(stops.first().rgb(), stops.last().rgb());
    };
    QCOMPARE(ends(), std::pair(Theme::cividis().front(), Theme::cividis().back()));
    shown.panel.setViridis(true);
    QCOMPARE(ends(), std::pair(Theme::viridis().front(), Theme::viridis().back()));
    const auto stops = shown.map().gradient().colorStops();
    QVERIFY(stops.size() > 30);
    for (auto stop = stops.begin(); stop != stops.end(); ++stop)
      QCOMPARE(stop->rgb(),
               Theme::viridis()[static_cast<std::size_t>(std::lround(stop.key() * 255))]);
  }

  void axesAreLabelledWithChannelsAndLayers() {
    Shown shown;
    shown.fill();
    const auto ticks = [&] {
      shown.panel.refreshIfNeeded();
      return qSharedPointerCast<QCPAxisTickerText>(shown.plot().yAxis->ticker())->ticks().values();
    };
    QCOMPARE(shown.plot().xAxis->label(), QString("byte"));
    QCOMPARE(ticks().last(), QString("47"));
    QCOMPARE(shown.plot().yAxis->label(), QString("channel"));
    shown.panel.setView(StateView::LayersByBytes);
    QCOMPARE(ticks().last(), QString("3"));
    QCOMPARE(shown.plot().yAxis->label(), QString("layer"));
    QVERIFY(!shown.choice("Layer").isEnabled());
  }

  void hoveringReadsByteLayerAndValue() {
    Shown shown;
    shown.fill();
    QTest::mouseMove(&shown.plot(), shown.placeOf(5, 1));
    QCOMPARE(shown.linked.hovered(), std::optional<std::size_t>(5));
    const QString value = QString::number(static_cast<double>(channelValue(TapKind::Delta, 5, 1)));
    QCOMPARE(QToolTip::text(),
             QString::fromUtf8("byte 5, x · layer 2, channels 16–31 · Δ %1").arg(value));
    shown.panel.setView(StateView::LayersByBytes);
    shown.panel.setKind(TapKind::StateNorm);
    shown.panel.refreshIfNeeded();
    QTest::mouseMove(&shown.plot(), shown.placeOf(8, 3));
    QVERIFY2(
        QToolTip::text().startsWith(QString::fromUtf8("byte 8, x · layer 3 · state norm 160.8")),
        qPrintable(QToolTip::text()));
  }

  void aSmallerModelKeepsTheLayerInRange() {
    Shown shown;
    shown.panel.setLayer(3);
    shown.traces.reset(2, kBins);
    shown.panel.setModel(2, kChannels);
    QCOMPARE(shown.choice("Layer").currentText(), QString("layer 1"));
    QCOMPARE(shown.traces.layer(), std::size_t{1});
  }

  void aHiddenPanelDoesNothing() {
    Shown shown;
    shown.panel.hide();
    QSignalSpy wanted(&shown.panel, &StatePanel::tapsWanted);
    shown.document.setText(mb::Bytes(40, 'x'));
    shown.document.addScores(mb::test::scores(0, std::string(40, 'x'), mb::Origin::Prompt));
    shown.panel.refreshIfNeeded();
    QCOMPARE(wanted.count(), 0);
    shown.panel.show();
    shown.panel.refreshIfNeeded();
    QCOMPARE(wanted.count(), 1);
  }
};

QTEST_MAIN(StatePanelTest)
#include "test_state_panel.moc"
