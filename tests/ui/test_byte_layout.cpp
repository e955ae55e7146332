// Line breaking and character shapes, without a window.
#include <QtTest>

#include "tests/support/random_values.h"
#include "ui/text/byte_layout.h"
#include "ui/text/rejected_drafts.h"
#include "ui/text/utf8.h"

using namespace mb;
using namespace mb::ui;

namespace {

std::vector<ByteRecord> records(const std::string& text) {
  std::vector<ByteRecord> result;
  for (const char c : text) {
    ByteRecord record;
    record.byte = static_cast<Byte>(c);
    result.push_back(record);
  }
  return result;
}

std::vector<ByteRecord> records(const Bytes& bytes) {
  return records(std::string(bytes.begin(), bytes.end()));
}

/// Lines of a text as they read, joined by "|".
std::string broken(const std::string& text, int columns, const Annotations& annotations = {}) {
  const auto all = records(text);
  ByteLayout layout;
  layout.setColumns(columns);
  layout.update(all, annotations, 0);
  QStringList lines;
  for (const TextLine& line : layout.lines())
    lines += QString::fromStdString(text.substr(line.begin, line.end - line.begin));
  return lines.join(u'|').toStdString();
}

}  // namespace

class ByteLayoutTest : public QObject {
  Q_OBJECT

 private slots:
  void breaksAtSpacesAndNewlines() {
    QCOMPARE(broken("one two three", 8), std::string("one two |three"));
    QCOMPARE(broken("one\ntwo", 80), std::string("one\n|two"));
    QCOMPARE(broken("abcdefghij", 4), std::string("abcd|efgh|ij"));
    QCOMPARE(broken("a\n\nb", 4), std::string("a\n|\n|b"));
  }

  void aSpaceMayHangOverTheEdge() { QCOMPARE(broken("abcd efgh", 4), std::string("abcd |efgh")); }

  void theCaretHasALineBehindAFinalNewline() {
    QCOMPARE(broken("a\n", 4), std::string("a\n|"));
    QCOMPARE(broken("", 4), std::string(""));
  }

  void roomForRejectedDraftsCounts() {
    QCOMPARE(broken("ab cd", 6), std::string("ab cd"));
    QCOMPARE(broken("ab cd", 6, {{3, 3}}), std::string("ab |cd"));
  }

  void wideAndInvalidBytesTakeTwoCells() {
    QCOMPARE(glyphAt(records("é"), 0).count, std::size_t{2});
    QCOMPARE(glyphAt(records("é"), 0).width, 1);
    QCOMPARE(glyphAt(records("日"), 0).count, std::size_t{3});
    QCOMPARE(glyphAt(records("日"), 0).width, 2);
    QVERIFY(glyphAt(records("\xe9"), 0).kind == GlyphKind::Invalid);
    QVERIFY(glyphAt(records(std::string(1, '\0')), 0).kind == GlyphKind::Control);
    QVERIFY(glyphAt(records("\t"), 0).kind == GlyphKind::Tab);
  }

  void refusesWhatIsNotUtf8() {
    const auto valid = [](const std::string& text) {
      const auto at = [&](std::size_t i) { return static_cast<Byte>(text[i]); };
      return characterAt(at, 0, text.size()).valid;
    };
    QVERIFY(valid("\xf0\x9f\x98\x80"));
    QVERIFY(!valid("\xc0\xaf"));          // overlong
    QVERIFY(!valid("\xe0\x80\xaf"));      // overlong
    QVERIFY(!valid("\xed\xa0\x80"));      // surrogate
    QVERIFY(!valid("\xf4\x90\x80\x80"));  // beyond U+10FFFF
    QVERIFY(!valid("\x80"));              // continuation without a lead
    QVERIFY(!valid("\xf0\x9f\x98"));      // cut short
  }

  void everyByteIsShownOnce() {
    test::Random random(1);
    for (int round = 0; round < 50; ++round) {
      const auto text = records(random.bytes(300));
      ByteLayout layout;
      layout.setColumns(1 + static_cast<int>(random.below(40)));
      layout.update(text, {}, 0);
      std::size_t next = 0;
      for (const TextLine& line : layout.lines()) {
        QCOMPARE(line.begin, next);
        for (const Glyph& glyph : ByteLayout::glyphs(text, {}, line)) {
          QCOMPARE(glyph.first, next);
          next += glyph.count;
        }
        next = line.end;
      }
      QCOMPARE(next, text.size());
    }
  }

  void layingOutFromAnEditEqualsLayingOutAnew() {
    test::Random random(2);
    std::vector<ByteRecord> text = records("The quick brown fox\njumps over the lazy dog. ");
    ByteLayout layout;
    layout.setColumns(12);
    layout.update(text, {}, 0);
    for (int edit = 0; edit < 400; ++edit) {
      const std::size_t at = random.below(text.size() + 1);
      const auto place = text.begin() + static_cast<std::ptrdiff_t>(at);
      if (random.below(3) == 0 && at < text.size()) {
        text.erase(place);
      } else {
        static constexpr char kAlphabet[] = "ab c\n\xc3\xa9";
        ByteRecord record;
        record.byte = static_cast<Byte>(kAlphabet[random.below(sizeof kAlphabet - 1)]);
        text.insert(place, record);
      }
      layout.update(text, {}, at);
      ByteLayout anew;
      anew.setColumns(12);
      anew.update(text, {}, 0);
      QCOMPARE(layout.lines().size(), anew.lines().size());
      for (std::size_t i = 0; i < anew.lines().size(); ++i) {
        QCOMPARE(layout.lines()[i].begin, anew.lines()[i].begin);
        QCOMPARE(layout.lines()[i].end, anew.lines()[i].end);
      }
    }
  }

  void findsTheLineOfAByte() {
    const auto text = records("aa\nbb\ncc");
    ByteLayout layout;
    layout.update(text, {}, 0);
    QCOMPARE(layout.lineOf(0), std::size_t{0});
    QCOMPARE(layout.lineOf(2), std::size_t{0});
    QCOMPARE(layout.lineOf(3), std::size_t{1});
    QCOMPARE(layout.lineOf(8), std::size_t{2});
  }

  void rejectedTextIsWhatWasNotTaken() {
    RoundRecord round;
    round.draft = toBytes(" was a\nlong draft");
    round.accepted = 4;
    round.rejected = 1;
    QCOMPARE(QString::fromStdU32String(rejectedText(round)), QString(" a·long d…"));
    round.accepted = 15;
    QCOMPARE(QString::fromStdU32String(rejectedText(round)), QString("ft"));
  }
};

QTEST_GUILESS_MAIN(ByteLayoutTest)
#include "test_byte_layout.moc"
