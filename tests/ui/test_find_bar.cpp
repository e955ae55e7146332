// Looking for text and bytes.
#include <QLabel>
#include <QLineEdit>
#include <QToolButton>
#include <QVBoxLayout>
#include <QtTest>

#include "tests/support/documents.h"
#include "ui/text/find_bar.h"

namespace test = mb::test;
using namespace mb::ui;
using mb::Bytes;
using mb::toBytes;

namespace {

struct Searched {
  explicit Searched(const std::string& text) {
    document.setText(toBytes(text));
    auto* column = new QVBoxLayout(&window);
    column->addWidget(&bar);
    column->addWidget(&view);
    window.resize(700, 300);
    window.show();
    active = QTest::qWaitForWindowActive(&window);
    bar.open();
  }
  void search(const QString& text) {
    bar.field().clear();
    QTest::keyClicks(&bar.field(), text);
  }
  void enter(Qt::KeyboardModifiers modifiers = {}) {
    QTest::keyClick(&bar.field(), Qt::Key_Return, modifiers);
  }
  QString count() const { return bar.findChild<QLabel*>()->text(); }

  Theme theme;
  Document document;
  LinkedPosition linked;
  QWidget window;
  ByteView view{document, linked, theme};
  FindBar bar{document, view};
  bool active = false;
};

}  // namespace

class FindBarTest : public QObject {
  Q_OBJECT

 private slots:
  void searchesAreTextOrHex() {
    QVERIFY(!parseSearch(""));
    QVERIFY(parseSearch(QString::fromUtf8("é")) == Bytes({0xc3, 0xa9}));
    QVERIFY(parseSearch("hex: e2 80 94") == Bytes({0xe2, 0x80, 0x94}));
    QVERIFY(parseSearch("hex:FFfe") == Bytes({0xff, 0xfe}));
    QVERIFY(!parseSearch("hex:"));
    QVERIFY(!parseSearch("hex:f"));
    QVERIFY(!parseSearch("hex:fg"));
    QVERIFY(!parseSearch("hex:12 3z 45"));
  }

  void matchesDoNotOverlap() {
    const auto records = test::scores(0, "aaaaa").records;
    const Bytes wanted = toBytes("aa");
    const auto matches = findAll(records, wanted);
    QCOMPARE(matches.size(), std::size_t{2});
    QCOMPARE(matches[1].begin, std::size_t{2});
    QVERIFY(findAll({}, wanted).empty());
  }

  void typingFindsAndSelectsTheFirstMatchBehindTheCaret() {
    Searched searched("one two one three one");
    QVERIFY(searched.active);
    searched.view.setCaret(5);
    searched.search("one");
    QCOMPARE(searched.bar.matches().size(), std::size_t{3});
    QCOMPARE(searched.view.selection().begin, std::size_t{8});
    QCOMPARE(searched.count(), QString("2 of 3"));
  }

  void enterGoesOnAndWrapsAround() {
    Searched searched("one two one three one");
    searched.search("one");
    QCOMPARE(searched.count(), QString("1 of 3"));
    searched.enter();
    searched.enter();
    QCOMPARE(searched.view.selection().begin, std::size_t{18});
    searched.enter();
    QCOMPARE(searched.view.selection().begin, std::size_t{0});
    searched.enter(Qt::ShiftModifier);
    QCOMPARE(searched.count(), QString("3 of 3"));
    searched.bar.findNext();
    QCOMPARE(searched.count(), QString("1 of 3"));
    searched.bar.findPrevious();
    QCOMPARE(searched.count(), QString("3 of 3"));
  }

  void findsBytesThatAreNotText() {
    Searched searched("a\xff\xfe z\xff\xfe");
    searched.search("hex:ff fe");
    QCOMPARE(searched.bar.matches().size(), std::size_t{2});
    QCOMPARE(searched.view.selection().begin, std::size_t{1});
    QCOMPARE(searched.view.selection().end, std::size_t{3});
  }

  void saysWhatIsWrong() {
    Searched searched("abc");
    searched.search("x");
    QCOMPARE(searched.count(), QString("not found"));
    searched.search("hex:f");
    QCOMPARE(searched.count(), QString("hex: expects pairs of digits"));
    searched.bar.field().clear();
    QCOMPARE(searched.count(), QString());
    searched.enter();
    QVERIFY(searched.bar.matches().empty());
  }

  void followsEditsOfTheText() {
    Searched searched("one one");
    searched.search("one");
    searched.document.remove(0, 4);
    QCOMPARE(searched.bar.matches().size(), std::size_t{1});
    searched.document.setText({});
    QVERIFY(searched.bar.matches().empty());
  }

  void findsWhatTheModelHasWrittenSince() {
    Searched searched("one");
    searched.search("one");
    searched.document.addScores(test::scores(3, " and one"));
    searched.enter();
    QCOMPARE(searched.bar.matches().size(), std::size_t{2});
    QCOMPARE(searched.view.selection().begin, std::size_t{8});
  }

  void escapeClosesAndGivesTheKeyboardBack() {
    Searched searched("one");
    searched.search("one");
    QTest::keyClick(&searched.bar.field(), Qt::Key_Escape);
    QVERIFY(searched.bar.isHidden());
    QVERIFY(searched.bar.matches().empty());
    QVERIFY(searched.view.hasFocus());
  }

  void buttonsDoWhatTheirNamesSay() {
    Searched searched("one one");
    searched.search("one");
    QCOMPARE(searched.count(), QString("1 of 2"));
    QToolButton* closing = nullptr;
    for (auto* button : searched.bar.findChildren<QToolButton*>()) {
      if (button->accessibleName().startsWith("Next")) {
        QTest::mouseClick(button, Qt::LeftButton);
        QCOMPARE(searched.count(), QString("2 of 2"));
      }
      if (button->accessibleName().startsWith("Close")) closing = button;
    }
    QVERIFY(closing);
    QTest::mouseClick(closing, Qt::LeftButton);
    QVERIFY(searched.bar.isHidden());
  }
};

QTEST_MAIN(FindBarTest)
#include "test_find_bar.moc"
