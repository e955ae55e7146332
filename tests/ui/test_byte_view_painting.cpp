// What the text looks like: colours of origins, boxes, rejected drafts, marks.
#include <QtTest>

#include "tests/support/documents.h"
#include "tests/support/pictures.h"
#include "ui/text/byte_layout.h"
#include "ui/text/byte_view.h"

namespace test = mb::test;
using namespace mb::ui;
using mb::Bytes;
using mb::Origin;
using mb::toBytes;

namespace {

struct Painted {
  explicit Painted(const std::string& text = {}) {
    theme.apply(ThemeMode::Light);
    document.setText(toBytes(text));
    view.resize(700, 200);
    view.show();
  }
  QImage picture() { return test::pictureOf(view); }
  int pixels(const QColor& color) { return test::pixelsOf(picture(), color); }
  const Colors& colors() const { return theme.colors(); }

  Theme theme;
  Document document;
  LinkedPosition linked;
  ByteView view{document, linked, theme};
};

/// A run of five accepted bytes, the sixth drafted one rejected and corrected, then a whole draft
/// with its bonus.
void speculate(Document& document) {
  document.addScores(test::scores(2, "accep", Origin::Accepted, 1, 0));
  document.addScores(test::scores(7, "c", Origin::Corrected, 1, 0));
  document.addScores(test::scores(8, "whole", Origin::Accepted, 1, 1));
  document.addScores(test::scores(13, "b", Origin::Bonus, 1, 1));
  document.addRounds(
      std::vector{test::madeRound(0, 2, "accepXYZ", 5), test::madeRound(1, 8, "whole", 5)});
}

}  // namespace

class ByteViewPaintingTest : public QObject {
  Q_OBJECT

 private slots:
  void everyOriginHasItsColour_data() {
    QTest::addColumn<ThemeMode>("mode");
    QTest::newRow("light") << ThemeMode::Light;
    QTest::newRow("dark") << ThemeMode::Dark;
  }

  void everyOriginHasItsColour() {
    QFETCH(ThemeMode, mode);
    Painted painted("abcdefgh");
    painted.theme.apply(mode);
    const Colors& colors = painted.colors();
    const int one = painted.pixels(colors.prompt.fill) / 8;
    QVERIFY(one > 20);
    const std::pair<Origin, mb::ui::Meaning> meanings[] = {{Origin::Accepted, colors.accepted},
                                                           {Origin::Corrected, colors.corrected},
                                                           {Origin::Bonus, colors.bonus},
                                                           {Origin::Chosen, colors.chosen}};
    for (const auto& [origin, meaning] : meanings) {
      QCOMPARE(painted.pixels(meaning.fill), 0);
      painted.document.addScores(
          test::scores(painted.document.size(), std::string("xxxxx"), origin));
      QVERIFY2(painted.pixels(meaning.fill) > 5 * 20, mb::nameOf(origin).data());
      const bool underlined = origin != Origin::Accepted;
      QCOMPARE(painted.pixels(meaning.ink) > 5 * 5, underlined);
    }
  }

  void plainBytesHaveNoTint() {
    Painted painted("ab");
    const int before = painted.pixels(painted.colors().prompt.fill);
    const QImage empty = painted.picture();
    painted.document.addScores(test::scores(2, "          ", Origin::Plain));
    QCOMPARE(painted.pixels(painted.colors().prompt.fill), before);
    QCOMPARE(painted.picture(), empty);
  }

  void switchingTheThemeRepaintsAtOnce() {
    Painted painted("abc");
    const QColor light = painted.colors().prompt.fill;
    painted.theme.apply(ThemeMode::Dark);
    QVERIFY(painted.colors().prompt.fill != light);
    QVERIFY(painted.pixels(painted.colors().prompt.fill) > 60);
    QVERIFY(painted.pixels(painted.colors().panel) > 10'000);
    QCOMPARE(painted.pixels(light), 0);
  }

  void surprisalTintsByBits() {
    Painted painted("ab");
    painted.document.addScores(test::scores(0, "ab", Origin::Prompt, 0));
    painted.view.setColoring(TextColoring::Surprisal);
    QCOMPARE(painted.pixels(painted.colors().prompt.fill), 0);
    QCOMPARE(painted.pixels(painted.colors().surprise), 0);
    painted.document.addScores(test::scores(0, "ab", Origin::Prompt, 8));
    QVERIFY(painted.pixels(painted.colors().surprise) > 40);
    painted.document.addScores(test::scores(0, "ab", Origin::Prompt, 4));
    const QColor half =
        QColor::fromRgbF((painted.colors().surprise.redF() + painted.colors().panel.redF()) / 2,
                         (painted.colors().surprise.greenF() + painted.colors().panel.greenF()) / 2,
                         (painted.colors().surprise.blueF() + painted.colors().panel.blueF()) / 2);
    const QImage image = painted.picture();
    int close = 0;
    for (int x = 0; x < image.width(); ++x) {
      const QColor pixel = image.pixelColor(x, 12);
      close += std::abs(pixel.red() - half.red()) <= 2 && std::abs(pixel.blue() - half.blue()) <= 2;
    }
    QVERIFY(close > 10);
  }

  void bytesThatAreNotUtf8AreBoxedAsHex() {
    Painted painted;
    const QColor warning = painted.colors().rejected;
    painted.document.setText(toBytes("caf\xc3\xa9"));
    QCOMPARE(painted.pixels(warning), 0);
    painted.document.setText(toBytes("caf\xe9 \xff"));
    QVERIFY(painted.pixels(warning) > 40);
    const auto boxed = [&](std::size_t i) {
      return glyphAt(painted.document.records(), i).kind == GlyphKind::Invalid &&
             glyphAt(painted.document.records(), i).width == 2;
    };
    QVERIFY(boxed(3));
    QVERIFY(boxed(5));
    QVERIFY(!boxed(4));
    QVERIFY(painted.document.bytes() == toBytes("caf\xe9 \xff"));
  }

  void aCharacterThatArrivesByteByByteIsBoxedUntilItIsWhole() {
    Painted painted("a");
    const std::string emoji = "\xf0\x9f\x98\x80";
    for (std::size_t i = 0; i < emoji.size(); ++i) {
      painted.document.addScores(test::scores(1 + i, emoji.substr(i, 1), Origin::Accepted));
      const bool whole = i + 1 == emoji.size();
      QCOMPARE(glyphAt(painted.document.records(), 1).kind == GlyphKind::Invalid, !whole);
      QCOMPARE(painted.pixels(painted.colors().rejected) > 10, !whole);
    }
    QVERIFY(painted.document.bytes(1, 5) == toBytes(emoji));
  }

  void rejectedDraftsAreShownWhileEnabled() {
    Painted painted("ab");
    speculate(painted.document);
    QVERIFY(painted.view.showsRejected());
    const int shown = painted.pixels(painted.colors().rejected);
    QVERIFY(shown > 20);
    painted.view.setShowRejected(false);
    QCOMPARE(painted.pixels(painted.colors().rejected), 0);
    painted.view.setShowRejected(true);
    QCOMPARE(painted.pixels(painted.colors().rejected), shown);
  }

  void rejectedDraftsMakeRoomAndDoNotCoverText() {
    Painted painted("ab");
    speculate(painted.document);
    const auto widthOf = [&] {
      const QImage image = painted.picture();
      int last = 0;
      for (int x = 0; x < image.width(); ++x)
        for (int y = 0; y < 30; ++y)
          if (QColor(image.pixel(x, y)) == painted.colors().bonus.fill) last = x;
      return last;
    };
    const int with = widthOf();
    painted.view.setShowRejected(false);
    QVERIFY(with > widthOf() + 15);
  }

  void hexShowsNoRejectedDraftsAndTextShowsThemAgain() {
    Painted painted("ab");
    speculate(painted.document);
    const QImage text = painted.picture();
    painted.view.setHex(true);
    QCOMPARE(painted.pixels(painted.colors().rejected), 0);
    painted.document.addRounds(std::vector{test::madeRound(2, 14, "zz", 2)});
    painted.view.setHex(false);
    QCOMPARE(painted.picture(), text);
  }

  void hexTintsEveryByteTwice() {
    Painted painted("abcd");
    const int once = painted.pixels(painted.colors().prompt.fill);
    painted.view.setHex(true);
    QVERIFY(painted.pixels(painted.colors().prompt.fill) > 2 * once);
  }

  void theLinkedByteIsFramed() {
    Painted painted("abcd");
    QCOMPARE(painted.pixels(painted.colors().accent), 0);
    painted.linked.hover(2);
    const int hovered = painted.pixels(painted.colors().accent);
    QVERIFY(hovered > 30);
    painted.linked.hover(std::nullopt);
    QCOMPARE(painted.pixels(painted.colors().accent), 0);
    painted.linked.select(1);
    QVERIFY(painted.pixels(painted.colors().accent) > hovered);
  }

  void matchesAreHighlighted() {
    Painted painted("one two one");
    painted.view.setMatches({{0, 3}, {8, 11}}, std::nullopt);
    const int both = painted.pixels(painted.colors().match);
    painted.view.setMatches({{8, 11}}, std::nullopt);
    const int one = painted.pixels(painted.colors().match);
    QVERIFY(one > 60);
    QVERIFY(both > 1.8 * one);
    painted.view.setMatches({}, std::nullopt);
    QCOMPARE(painted.pixels(painted.colors().match), 0);
  }

  void theSelectionIsVisible() {
    Painted painted("hello");
    const QImage before = painted.picture();
    painted.view.select({1, 4});
    const int kept = test::pixelsOf(painted.picture(), painted.colors().prompt.fill);
    QVERIFY(kept < test::pixelsOf(before, painted.colors().prompt.fill) / 2);
  }

  void anEmptyTextSaysWhatToDo() {
    Painted painted;
    const QImage hint = painted.picture();
    painted.document.setText(toBytes(" "));
    painted.view.setColoring(TextColoring::Surprisal);
    const QImage space = painted.picture();
    QVERIFY(test::pixelsOf(space, painted.colors().panel) >
            test::pixelsOf(hint, painted.colors().panel) + 100);
  }
};

QTEST_MAIN(ByteViewPaintingTest)
#include "test_byte_view_painting.moc"
