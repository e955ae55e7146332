// Figures of a run and the strip of its rounds, from rounds worked out by hand.
#include <QLabel>
#include <QPushButton>
#include <QSignalSpy>
#include <QToolTip>
#include <QtTest>
#include <set>

#include "tests/support/documents.h"
#include "tests/support/pictures.h"
#include "ui/panels/speculation_panel.h"

namespace test = mb::test;
using namespace mb::ui;
using mb::Origin;
using mb::RoundRecord;
using mb::toBytes;

namespace {

struct Shown {
  Shown() {
    theme.apply(ThemeMode::Light);
    document.setText(toBytes("ab"));
    panel.resize(520, 360);
    panel.show();
    active = QTest::qWaitForWindowActive(&panel);
  }
  /// Round 0: of 8 bytes 5 accepted, 1 rejected and corrected, 2 never tested; 4 ms.
  /// Round 1: 5 bytes accepted whole, then a bonus; 6 ms.
  void fill() {
    document.addScores(test::scores(2, "accep", Origin::Accepted, 1, 0));
    document.addScores(test::scores(7, "c", Origin::Corrected, 1, 0));
    document.addScores(test::scores(8, "whole", Origin::Accepted, 1, 1));
    document.addScores(test::scores(13, "b", Origin::Bonus, 1, 1));
    RoundRecord first = test::madeRound(0, 2, "accepX Z", 5);
    first.times = {0.001, 0.002, 0.0004, 0.0001, 0.004};
    RoundRecord second = test::madeRound(1, 8, "whole", 5);
    second.times = {0.001, 0.004, 0, 0, 0.006};
    document.addRounds(std::vector{first, second});
    panel.refreshIfNeeded();
  }
  RoundStrip& strip() { return *panel.findChild<RoundStrip*>(); }
  /// Values of the large figures, left to right.
  QStringList figures() const {
    QStringList values;
    for (const auto* label : panel.findChildren<QLabel*>())
      if (label->property("role") == "number") values += label->text();
    return values;
  }
  bool shows(const QString& text) const {
    for (const auto* label : panel.findChildren<QLabel*>())
      if (label->isVisible() && label->text() == text) return true;
    return false;
  }
  QString explanationOf(const QString& text) const {
    for (const auto* label : panel.findChildren<QLabel*>())
      if (label->text() == text) return label->toolTip();
    return {};
  }
  QPushButton& button() { return *panel.findChild<QPushButton*>(); }
  /// All points of the strip that have a colour.
  QList<QPoint> places(const QColor& color) {
    const QImage image = test::pictureOf(strip());
    QList<QPoint> found;
    for (int y = 0; y < image.height(); ++y)
      for (int x = 0; x < image.width(); ++x)
        if (image.pixelColor(x, y) == color) found.append({x, y});
    return found;
  }
  std::optional<std::size_t> byteUnder(QPoint place) {
    QTest::mouseMove(&strip(), place);
    return linked.hovered();
  }

  Theme theme;
  Document document;
  LinkedPosition linked;
  SpeculationPanel panel{document, linked, theme, nullptr};
  bool active = false;
};

}  // namespace

class SpeculationPanelTest : public QObject {
  Q_OBJECT

 private slots:
  void withoutRoundsItSaysWhatToDo() {
    Shown shown;
    QVERIFY(shown.active);
    shown.panel.refreshIfNeeded();
    QVERIFY(shown.shows("Generate with a drafter: each round of draft and verify appears here"));
    shown.fill();
    QVERIFY(!shown.shows("Generate with a drafter: each round of draft and verify appears here"));
  }

  void figuresAreTheOnesWorkedOutByHand() {
    Shown shown;
    shown.fill();
    // accepted / tested = 10 / 11; accepted / rounds = 10 / 2; written / rounds = 12 / 2;
    // draft 2, verify 6, other 2 of 10 ms.
    QCOMPARE(shown.figures(), QStringList({"91 %", "5.0 B", "6.0 B", "20 · 60 · 20 %"}));
    // tokens of two bytes: 2 of 3 tested ones accepted, then 3 of 3.
    QVERIFY(shown.shows("2 rounds · by token 83 %"));
    const mb::SpeculationTotals totals = shown.panel.totals();
    QCOMPARE(totals.drafted, std::uint64_t{13});
    QCOMPARE(totals.drafted, totals.accepted + totals.rejected + totals.ignored);
  }

  void onlyTheRoundsOfThisRunCount() {
    Shown shown;
    shown.fill();
    shown.panel.setRunStart(1);
    shown.panel.refreshIfNeeded();
    QCOMPARE(shown.figures().mid(0, 3), QStringList({"100 %", "5.0 B", "6.0 B"}));
    QVERIFY(shown.shows("1 rounds · by token 100 %"));
    shown.panel.setRunStart(2);
    shown.panel.refreshIfNeeded();
    QCOMPARE(shown.figures(), QStringList(4, QString::fromUtf8("–")));
  }

  void comparisonShowsHowManyTimesAsFast() {
    Shown shown;
    shown.fill();
    shown.panel.setComparison(PlainComparison{0.5, 0.2, 100});
    shown.panel.refreshIfNeeded();
    // Rounds write 6 bytes; at 2.4 they would be as fast as plain decoding.
    const QString text = QString::fromUtf8("2.50× plain · even at 2.4 B");
    QVERIFY(shown.shows(text));
    QVERIFY(shown.explanationOf(text).contains("writes 200 bytes/s"));
    shown.panel.setRunStart(0);
    shown.panel.refreshIfNeeded();
    QVERIFY(!shown.shows(text));
  }

  void theButtonAsksForAComparisonAndWaits() {
    Shown shown;
    shown.fill();
    QSignalSpy wanted(&shown.panel, &SpeculationPanel::comparisonWanted);
    QTest::mouseClick(&shown.button(), Qt::LeftButton);
    QCOMPARE(wanted.count(), 1);
    shown.panel.setComparing(true);
    QTest::mouseClick(&shown.button(), Qt::LeftButton);
    QCOMPARE(wanted.count(), 1);
    shown.panel.setComparing(false);
    QTest::mouseClick(&shown.button(), Qt::LeftButton);
    QCOMPARE(wanted.count(), 2);
  }

  void everyCellLinksToItsByte() {
    Shown shown;
    shown.fill();
    const Colors& colors = shown.theme.colors();
    std::set<std::size_t> accepted;
    for (const QPoint place : shown.places(colors.accepted.ink)) {
      const auto byte = shown.byteUnder(place);
      QVERIFY(byte);
      QCOMPARE(shown.document.record(*byte).origin, Origin::Accepted);
      accepted.insert(*byte);
    }
    QCOMPARE(accepted, (std::set<std::size_t>{2, 3, 4, 5, 6, 8, 9, 10, 11, 12}));
    const auto corrected = shown.places(colors.corrected.ink);
    QVERIFY(corrected.size() > 20);
    for (const QPoint place : corrected)
      QCOMPARE(shown.byteUnder(place), std::optional<std::size_t>(7));
    for (const QPoint place : shown.places(colors.bonus.ink))
      QCOMPARE(shown.byteUnder(place), std::optional<std::size_t>(13));
    const auto untested = shown.places(colors.untested);
    QCOMPARE(untested.size(), 2 * corrected.size());
    for (const QPoint place : untested) QCOMPARE(shown.byteUnder(place), std::nullopt);
  }

  void acceptedBytesAreAtTheBottomInOrder() {
    Shown shown;
    shown.fill();
    int last = shown.strip().height();
    for (const std::size_t byte : {2, 3, 4, 5, 6}) {
      shown.linked.hover(std::nullopt);
      int top = -1;
      for (const QPoint place : shown.places(shown.theme.colors().accepted.ink))
        if (shown.byteUnder(place) == byte) top = std::max(top, place.y());
      QVERIFY(top >= 0 && top < last);
      last = top;
    }
  }

  void hoveringTellsDraftCountsAndTimes() {
    Shown shown;
    shown.fill();
    shown.byteUnder(shown.places(shown.theme.colors().corrected.ink).first());
    const QString text = QToolTip::text();
    QVERIFY2(text.contains("Round 1"), qPrintable(text));
    QVERIFY(text.contains("8 drafted = 5 accepted + 1 rejected + 2 never tested"));
    QVERIFY(text.contains("1 corrected, 0 bonus"));
    QVERIFY(text.contains("<tt>ac</tt> | <tt>ce</tt> | <tt>pX</tt> | <tt>·Z</tt>"));
    QVERIFY(text.contains("draft 1.00 ms"));
    QVERIFY(text.contains("verify 2.00 ms"));
    QVERIFY(text.contains("correct 0.40 ms"));
    QVERIFY(text.contains("roll back 0.10 ms"));
  }

  // Of both drafts the first five bytes were tested and accepted, the sixth of one rejected.
  void aTallPanelShowsAcceptanceByPlace() {
    Shown shown;
    shown.fill();
    auto& chart = *shown.panel.findChild<AcceptanceChart*>();
    QVERIFY(!chart.isVisible());
    shown.panel.resize(520, 620);
    QTRY_VERIFY(chart.isVisible());
    const double whole = chart.barOf(0).height();
    QVERIFY(whole > 60);
    for (const std::size_t place : {0u, 1u, 2u, 3u, 4u})
      QCOMPARE(chart.barOf(place).height(), whole);
    QCOMPARE(chart.barOf(5).height(), 0.0);
    QVERIFY(chart.barOf(4).right() < chart.barOf(5).left());
    QVERIFY(chart.rect().contains(chart.barOf(5).toAlignedRect()));

    const QPoint third = chart.barOf(2).center().toPoint();
    QCOMPARE(chart.placeAt(third), std::optional<std::size_t>(2));
    const QImage image = test::pictureOf(chart);
    QVERIFY(image.pixelColor(third) != shown.theme.colors().field);
    const QPoint rejected(chart.barOf(5).center().toPoint().x(), third.y());
    QCOMPARE(image.pixelColor(rejected), shown.theme.colors().field);
    QTest::mouseMove(&chart, third);
    QCOMPARE(QToolTip::text(), QString("Byte 3 of the draft: 2 tested, 2 accepted (100 %)"));
    QTest::mouseMove(&chart, QPoint(third.x(), chart.height() - 1));
    QCOMPARE(chart.placeAt(QPointF(third.x(), chart.height() - 1)), std::nullopt);

    shown.panel.setRunStart(1);  // the round that was accepted whole
    shown.panel.refreshIfNeeded();
    QCOMPARE(chart.placeAt(third), std::optional<std::size_t>(2));
    const double right = chart.barOf(4).right();
    QCOMPARE(chart.placeAt(QPointF(right + 10, third.y())), std::nullopt);

    shown.panel.resize(520, 360);
    QTRY_VERIFY(!chart.isVisible());
  }

  void clickingACellSelectsItsByte() {
    Shown shown;
    shown.fill();
    const QPoint place = shown.places(shown.theme.colors().bonus.ink).at(8);
    shown.byteUnder(place);
    QTest::mouseClick(&shown.strip(), Qt::LeftButton, {}, place);
    QCOMPARE(shown.linked.selected(), std::optional<std::size_t>(13));
    QEvent leave(QEvent::Leave);
    QCoreApplication::sendEvent(&shown.strip(), &leave);
    QCOMPARE(shown.linked.hovered(), std::nullopt);
  }

  void theLinkedByteIsFramedInTheStrip() {
    Shown shown;
    shown.fill();
    const auto before = shown.places(shown.theme.colors().ink).size();
    shown.linked.select(4);
    QVERIFY(shown.places(shown.theme.colors().ink).size() > before + 10);
  }

  void theNewestRoundsAreInSightAndTheWheelGoesBack() {
    Shown shown;
    shown.fill();
    std::vector<RoundRecord> rounds;
    for (std::int32_t i = 2; i < 300; ++i) {
      const std::size_t position = shown.document.size();
      shown.document.addScores(test::scores(position, "abc", Origin::Accepted, 1, i));
      shown.document.addScores(test::scores(position + 3, "d", Origin::Bonus, 1, i));
      rounds.push_back(test::madeRound(i, position, "abc", 3));
    }
    shown.document.addRounds(rounds);
    shown.panel.refreshIfNeeded();
    const auto rightmost = [&] {
      const RoundRecord* found = nullptr;
      for (int x = 0; x < shown.strip().width(); ++x)
        if (const RoundRecord* round = shown.strip().roundAt(QPointF(x, 40))) found = round;
      return found ? found->index : -1;
    };
    QCOMPARE(rightmost(), 299);
    test::turnWheel(shown.strip(), {50, 50}, 120);
    QVERIFY(rightmost() < 299);
    for (int i = 0; i < 200; ++i) test::turnWheel(shown.strip(), {50, 50}, 120);
    QCOMPARE(shown.strip().roundAt({1, 40})->index, 0);
    for (int i = 0; i < 200; ++i) test::turnWheel(shown.strip(), {50, 50}, -120);
    QCOMPARE(rightmost(), 299);
  }

  void undoingARunTakesItsRoundsAway() {
    Shown shown;
    shown.fill();
    shown.document.closeRun();
    shown.document.undo();
    shown.panel.refreshIfNeeded();
    QCOMPARE(shown.panel.totals().rounds, std::uint64_t{0});
    QVERIFY(shown.shows("Generate with a drafter: each round of draft and verify appears here"));
  }
};

QTEST_MAIN(SpeculationPanelTest)
#include "test_speculation_panel.moc"
