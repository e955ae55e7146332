// Bits per byte, word perplexity and the curves, from surprisals made up by hand.
#include <QComboBox>
#include <QLabel>
#include <QToolButton>
#include <QToolTip>
#include <QtTest>
#include <algorithm>
#include <cmath>
#include <qcustomplot.h>
#include <set>

#include "tests/support/documents.h"
#include "tests/support/pictures.h"
#include "ui/panels/perplexity_panel.h"

namespace test = mb::test;
using namespace mb::ui;
using mb::Origin;
using mb::toBytes;

namespace {

struct Shown {
  Shown() {
    theme.apply(ThemeMode::Light);
    QObject::connect(&document, &Document::textChanged, &axis,
                     [this] { axis.setSize(document.size()); });
    panel.resize(900, 260);
    panel.show();
    active = QTest::qWaitForWindowActive(&panel);
  }
  /// Nine bytes in two words with 1, 2, 3 … 8 bits from the second byte on.
  void fill() {
    document.setText(toBytes("two words"));
    score(0, 9);
  }
  void score(std::size_t first, std::size_t last) {
    ScoredBytes scores{first, {}};
    for (std::size_t i = first; i < last; ++i) {
      mb::ByteRecord record = document.record(i);
      record.scored = i > 0;
      record.rank = static_cast<mb::Byte>(i);
      record.surprisal = static_cast<float>(i);
      scores.records.push_back(record);
    }
    document.addScores(scores);
    panel.refreshIfNeeded();
  }
  QCustomPlot& plot() { return *panel.findChild<QCustomPlot*>(); }
  /// Values of a graph by byte: 0 ordinary bars, 1 tall ones, 2 before the edit, 3 running mean.
  QList<double> curve(int graph) {
    QList<double> values;
    for (const QCPGraphData& point : *plot().graph(graph)->data()) values.append(point.value);
    return values;
  }
  bool shows(const QString& text) const {
    for (const auto* label : panel.findChildren<QLabel*>())
      if (label->isVisible() && label->text() == text) return true;
    return false;
  }
  QToolButton& dismissButton() const {
    for (auto* button : panel.findChildren<QToolButton*>())
      if (button->text() == "Dismiss old curve") return *button;
    qFatal("no button to dismiss the curve");
  }
  QPoint placeOf(std::size_t byte) {
    plot().replot(QCustomPlot::rpImmediateRefresh);
    return QPointF(plot().xAxis->coordToPixel(static_cast<double>(byte) + 0.5),
                   plot().axisRect()->rect().center().y())
        .toPoint();
  }

  Theme theme;
  Document document;
  ByteAxis axis;
  LinkedPosition linked;
  PerplexityPanel panel{document, axis, linked, theme, nullptr};
  bool active = false;
};

}  // namespace

class PerplexityPanelTest : public QObject {
  Q_OBJECT

 private slots:
  void anEmptyTextSaysWhatToDo() {
    Shown shown;
    QVERIFY(shown.active);
    shown.panel.refreshIfNeeded();
    const QString hint = "Type a prompt: how much each byte surprises the model appears here";
    QVERIFY(shown.shows(hint));
    QCOMPARE(shown.panel.bitsPerByte(), 0.0);
    QCOMPARE(shown.panel.wordPerplexity(), 0.0);
    shown.fill();
    QVERIFY(!shown.shows(hint));
  }

  void figuresAreTheOnesWorkedOutByHand() {
    Shown shown;
    shown.fill();
    QCOMPARE(shown.panel.bitsPerByte(), 36.0 / 8);
    QVERIFY(std::abs(shown.panel.wordPerplexity() / std::exp2(36.0 / 2) - 1) < 1e-9);
    QVERIFY(shown.shows("word perplexity 262144"));
    QCOMPARE(shown.panel.runningAt(4), 10.0 / 4);
    QVERIFY(std::isnan(shown.panel.runningAt(0)));
    QVERIFY(std::isnan(shown.panel.runningAt(9)));
  }

  void curvesHoldEveryByteOnce() {
    Shown shown;
    shown.fill();
    const QList<double> low = shown.curve(0);
    const QList<double> tall = shown.curve(1);
    const QList<double> running = shown.curve(3);
    QCOMPARE(low.size(), 9);
    QCOMPARE(tall.size(), 9);
    QVERIFY(std::isnan(low[0]) && std::isnan(tall[0]) && std::isnan(running[0]));
    for (int i = 1; i < 9; ++i) {
      QCOMPARE(i <= 6 ? low[i] : tall[i], i);
      QVERIFY(std::isnan(i <= 6 ? tall[i] : low[i]));
      QCOMPARE(running[i], (i + 1) / 2.0);
    }
  }

  void scoresThatComeInPiecesGiveTheSameCurves() {
    Shown pieces;
    pieces.document.setText(toBytes("two words"));
    for (std::size_t i = 0; i < 9; i += 2) pieces.score(i, std::min<std::size_t>(i + 2, 9));
    Shown whole;
    whole.fill();
    QCOMPARE(pieces.panel.bitsPerByte(), whole.panel.bitsPerByte());
    QCOMPARE(pieces.curve(3).mid(1), whole.curve(3).mid(1));
    pieces.score(3, 9);
    QCOMPARE(pieces.panel.bitsPerByte(), whole.panel.bitsPerByte());
    QCOMPARE(pieces.curve(3).mid(1), whole.curve(3).mid(1));
  }

  void theRunningMeanCanCoverTheLastBytesOnly() {
    Shown shown;
    shown.document.setText(mb::Bytes(100, 'a'));
    shown.score(0, 100);
    auto& window = *shown.panel.findChild<QComboBox*>();
    QCOMPARE(window.itemText(1), QString("running: last 32"));
    window.setCurrentIndex(1);
    shown.panel.refreshIfNeeded();
    QCOMPARE(shown.panel.runningAt(99), (68 + 99) / 2.0);
    QCOMPARE(shown.panel.runningAt(10), 5.5);
    QCOMPARE(shown.curve(3).last(), (68 + 99) / 2.0);
    window.setCurrentIndex(0);
    shown.panel.refreshIfNeeded();
    QCOMPARE(shown.curve(3).last(), 50.0);
  }

  void aLongTextGetsOnePointAPixelAndKeepsItsPeaks() {
    constexpr std::size_t kSize = 30'000;
    Shown shown;
    shown.document.setText(mb::Bytes(kSize, 'a'));
    ScoredBytes scores{0, {}};
    for (std::size_t i = 0; i < kSize; ++i) {
      mb::ByteRecord record = shown.document.record(i);
      record.scored = true;
      record.surprisal = i == 12'345 ? 15.0f : 1.0f;
      scores.records.push_back(record);
    }
    shown.document.addScores(scores);
    shown.panel.refreshIfNeeded();
    QVERIFY(shown.curve(0).size() <= shown.plot().width());
    QVERIFY(shown.curve(0).size() > shown.plot().width() / 4);
    const QList<double> tall = shown.curve(1);
    QCOMPARE(std::ranges::count(tall, 15.0), 1);
    QVERIFY(std::abs(shown.curve(3).last() - (kSize - 1 + 15.0) / kSize) < 1e-9);
    shown.axis.show(12'300, 12'400);  // near enough, every byte is back
    shown.panel.refreshIfNeeded();
    QVERIFY(shown.curve(0).size() >= 100 && shown.curve(0).size() < 200);
    QCOMPARE(std::ranges::count(shown.curve(1), 15.0), 1);
  }

  void anEditCutsTheCurveAndKeepsTheOldOneToCompare() {
    Shown shown;
    shown.fill();
    QVERIFY(!shown.dismissButton().isVisible());
    const QList<double> before = shown.curve(3);
    shown.document.replace(4, 1, toBytes("W"));
    shown.panel.refreshIfNeeded();
    QCOMPARE(shown.panel.bitsPerByte(), 6.0 / 3);
    QCOMPARE(shown.curve(3).size(), 4);
    QCOMPARE(shown.curve(2).mid(1), before.mid(1));
    QVERIFY(shown.dismissButton().isVisible());
    shown.score(4, 9);
    QCOMPARE(shown.curve(3).size(), 9);
    QCOMPARE(shown.curve(2).size(), 9);
    QTest::mouseClick(&shown.dismissButton(), Qt::LeftButton);
    shown.panel.refreshIfNeeded();
    QVERIFY(shown.curve(2).isEmpty());
    QVERIFY(!shown.dismissButton().isVisible());
  }

  void axesAreLabelledAndCoverTheValues() {
    Shown shown;
    shown.fill();
    QCOMPARE(shown.plot().xAxis->label(), QString("byte"));
    QCOMPARE(shown.plot().yAxis->label(), QString("bits"));
    QCOMPARE(shown.plot().yAxis->range().lower, 0.0);
    QVERIFY(shown.plot().yAxis->range().upper >= 8);
    QVERIFY(shown.plot().yAxis->range().upper <= 12);
    QVERIFY(shown.plot().xAxis->range().upper >= 9);
  }

  void theValueAxisDoesNotJumpWithEveryByte() {
    Shown shown;
    shown.document.setText(mb::Bytes(40, 'a'));
    std::set<double> tops;
    for (std::size_t i = 0; i < 40; ++i) {
      shown.score(i, i + 1);
      tops.insert(shown.plot().yAxis->range().upper);
    }
    QVERIFY(tops.size() <= 10);
  }

  void hoveringReadsByteBitsAndRank() {
    Shown shown;
    shown.fill();
    QTest::mouseMove(&shown.plot(), shown.placeOf(5));
    QCOMPARE(shown.linked.hovered(), std::optional<std::size_t>(5));
    QCOMPARE(QToolTip::text(), QString("byte 5, o: 5.00 bits, rank 6; running 3.000 bits/byte"));
    QTest::mouseMove(&shown.plot(), shown.placeOf(0));
    QCOMPARE(QToolTip::text(), QString("byte 0, t: not scored"));
    QTest::mouseMove(&shown.plot(), shown.placeOf(30));
    QCOMPARE(shown.linked.hovered(), std::nullopt);
    QTest::mouseMove(&shown.plot(), shown.placeOf(5));
    QEvent leave(QEvent::Leave);
    QCoreApplication::sendEvent(&shown.plot(), &leave);
    QCOMPARE(shown.linked.hovered(), std::nullopt);
  }

  void clickingSelectsDraggingPansAndTheWheelZooms() {
    Shown shown;
    shown.document.setText(mb::Bytes(1000, 'a'));
    shown.score(0, 1000);
    QTest::mouseClick(&shown.plot(), Qt::LeftButton, {}, shown.placeOf(500));
    QVERIFY(shown.linked.selected());
    QVERIFY(std::abs(static_cast<double>(*shown.linked.selected()) - 500) <= 1);
    const double span = shown.axis.upper();
    test::turnWheel(shown.plot(), shown.placeOf(500), 120);
    QVERIFY(shown.axis.upper() - shown.axis.lower() < 0.9 * span);
    shown.panel.refreshIfNeeded();
    QCOMPARE(shown.plot().xAxis->range().lower, shown.axis.lower());
    const double lower = shown.axis.lower();
    const QPoint start = shown.placeOf(500);
    QTest::mousePress(&shown.plot(), Qt::LeftButton, {}, start);
    QTest::mouseMove(&shown.plot(), start + QPoint(40, 0));
    QTest::mouseMove(&shown.plot(), start + QPoint(80, 0));
    QTest::mouseRelease(&shown.plot(), Qt::LeftButton, {}, start + QPoint(80, 0));
    QVERIFY(shown.axis.lower() < lower);
    QVERIFY(std::abs(static_cast<double>(*shown.linked.selected()) - 500) <= 1);
    QTest::mouseDClick(&shown.plot(), Qt::LeftButton, {}, start);
    QCOMPARE(shown.axis.lower(), 0.0);
    QCOMPARE(shown.axis.upper(), span);
  }

  void theLinkedByteIsMarked() {
    Shown shown;
    shown.fill();
    const auto marks = [&] {
      shown.panel.refreshIfNeeded();
      shown.plot().replot(QCustomPlot::rpImmediateRefresh);
      return test::pixelsOf(test::pictureOf(shown.plot()), shown.theme.colors().accent);
    };
    QCOMPARE(marks(), 0);
    shown.linked.hover(3);
    QVERIFY(marks() > 50);
    shown.linked.hover(std::nullopt);
    QCOMPARE(marks(), 0);
  }

  void coloursFollowTheTheme() {
    Shown shown;
    shown.fill();
    shown.theme.apply(ThemeMode::Dark);
    shown.panel.refreshIfNeeded();
    shown.plot().replot(QCustomPlot::rpImmediateRefresh);
    const QImage image = test::pictureOf(shown.plot());
    QVERIFY(test::pixelsOf(image, shown.theme.colors().panel) > image.width() * image.height() / 2);
    QVERIFY(test::pixelsOf(image, shown.theme.colors().bar) > 20);
  }
};

QTEST_MAIN(PerplexityPanelTest)
#include "test_perplexity_panel.moc"
