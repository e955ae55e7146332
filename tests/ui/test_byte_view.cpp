// Editing the text, moving through it and pointing at it.
#include <QClipboard>
#include <QMimeData>
#include <QScrollBar>
#include <QSignalSpy>
#include <QtTest>
#include <set>

#include "tests/support/documents.h"
#include "tests/support/pictures.h"
#include "tests/support/random_values.h"
#include "ui/text/byte_view.h"

namespace test = mb::test;
using namespace mb::ui;
using mb::Byte;
using mb::Bytes;
using mb::toBytes;
using mb::test::textOf;

namespace {

/// A view in a window of its own, with the keyboard.
struct Shown {
  explicit Shown(const std::string& text = {}, QSize size = {700, 300}) {
    theme.apply(ThemeMode::Light);
    document.setText(toBytes(text));
    view.resize(size);
    view.show();
    view.setFocus();
    active = QTest::qWaitForWindowActive(&view);
  }
  void key(Qt::Key key, Qt::KeyboardModifiers modifiers = Qt::NoModifier) {
    QTest::keyClick(&view, key, modifiers);
  }
  QRectF caretRect() const {
    return static_cast<const QWidget&>(view).inputMethodQuery(Qt::ImCursorRectangle).toRectF();
  }
  /// A point within the glyph that begins at a byte. Moves the caret there and back.
  QPoint placeOf(std::size_t byte) {
    const std::size_t caret = view.caret();
    view.setCaret(byte);
    const QRectF rect = caretRect();
    view.setCaret(caret);
    return QPointF(rect.center().x() + 4, rect.center().y()).toPoint();
  }
  void hover(QPoint place) { QTest::mouseMove(view.viewport(), place); }

  Theme theme;
  Document document;
  LinkedPosition linked;
  ByteView view{document, linked, theme};
  bool active = false;
};

std::string longLine() {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "word" + std::to_string(i) + " ";
  return text;
}

}  // namespace

class ByteViewTest : public QObject {
  Q_OBJECT

 private slots:
  void typesAtTheCaret() {
    Shown shown;
    QVERIFY(shown.active);
    QTest::keyClicks(&shown.view, "helo");
    shown.key(Qt::Key_Left);
    QTest::keyClicks(&shown.view, "l");
    QCOMPARE(textOf(shown.document), QString("hello"));
    QCOMPARE(shown.view.caret(), std::size_t{4});
    shown.key(Qt::Key_Return);
    QCOMPARE(textOf(shown.document), QString("hell\no"));
    QTest::sendKeyEvent(QTest::Click, &shown.view, Qt::Key_unknown, QString::fromUtf8("é"),
                        Qt::NoModifier);
    QCOMPARE(textOf(shown.document), QString::fromUtf8("hell\néo"));
    QCOMPARE(shown.view.caret(), std::size_t{7});
  }

  void typingReplacesTheSelection() {
    Shown shown("hello world");
    shown.view.select({0, 5});
    QTest::keyClicks(&shown.view, "Bye");
    QCOMPARE(textOf(shown.document), QString("Bye world"));
    QVERIFY(shown.view.selection().isEmpty());
    QCOMPARE(shown.view.caret(), std::size_t{3});
  }

  void inputMethodsCommitText() {
    Shown shown("ab");
    shown.view.setCaret(1);
    QInputMethodEvent event;
    event.setCommitString(QString::fromUtf8("日本"));
    QCoreApplication::sendEvent(&shown.view, &event);
    QCOMPARE(textOf(shown.document), QString::fromUtf8("a日本b"));
  }

  void keysThatAreNotTextChangeNothing() {
    Shown shown("abc");
    shown.view.selectAll();
    QSignalSpy edits(&shown.document, &Document::textChanged);
    shown.key(Qt::Key_Escape);
    shown.key(Qt::Key_F5);
    shown.key(Qt::Key_Shift);
    shown.key(Qt::Key_B, Qt::ControlModifier);
    QTest::sendKeyEvent(QTest::Click, &shown.view, Qt::Key_unknown, QString(QChar(0x01)),
                        Qt::NoModifier);
    QCOMPARE(edits.count(), 0);
    QCOMPARE(textOf(shown.document), QString("abc"));
  }

  void deletesWholeCharacters() {
    Shown shown("aé日b");
    shown.view.setCaret(6);
    shown.key(Qt::Key_Backspace);
    QCOMPARE(textOf(shown.document), QString::fromUtf8("aéb"));
    shown.key(Qt::Key_Backspace);
    QCOMPARE(textOf(shown.document), QString("ab"));
    shown.view.setCaret(0);
    shown.key(Qt::Key_Backspace);
    QCOMPARE(textOf(shown.document), QString("ab"));
    shown.key(Qt::Key_Delete);
    shown.key(Qt::Key_Delete);
    shown.key(Qt::Key_Delete);
    QVERIFY(shown.document.isEmpty());
  }

  void deletesInvalidBytesOneAtATime() {
    Shown shown("a\xe6\x97z");
    shown.view.setCaret(3);
    shown.key(Qt::Key_Backspace);
    QVERIFY(shown.document.bytes() == toBytes("a\xe6z"));
    shown.view.select({1, 3});
    shown.key(Qt::Key_Delete);
    QVERIFY(shown.document.bytes() == toBytes("a"));
  }

  void undoesAndRedoesWhatWasTyped() {
    Shown shown("start");
    shown.view.setCaret(5);
    QTest::keyClicks(&shown.view, " one");
    shown.view.selectAll();
    shown.key(Qt::Key_Delete);
    QVERIFY(shown.document.isEmpty());
    shown.document.undo();
    QCOMPARE(textOf(shown.document), QString("start one"));
    shown.document.undo();
    QCOMPARE(textOf(shown.document), QString("start"));
    QVERIFY(shown.view.caret() <= shown.document.size());
    shown.document.undoStack().redo();
    shown.document.undoStack().redo();
    QVERIFY(shown.document.isEmpty());
  }

  void movesByCharacterWordAndLine() {
    Shown shown("one é two\nthree");
    shown.view.setCaret(4);
    shown.key(Qt::Key_Right);
    QCOMPARE(shown.view.caret(), std::size_t{6});
    shown.key(Qt::Key_Left);
    QCOMPARE(shown.view.caret(), std::size_t{4});
    shown.key(Qt::Key_Right, Qt::ControlModifier);
    shown.key(Qt::Key_Right, Qt::ControlModifier);
    QCOMPARE(shown.view.caret(), std::size_t{10});
    shown.key(Qt::Key_Left, Qt::ControlModifier);
    QCOMPARE(shown.view.caret(), std::size_t{7});
    shown.key(Qt::Key_End);
    QCOMPARE(shown.view.caret(), std::size_t{10});
    shown.key(Qt::Key_Home);
    QCOMPARE(shown.view.caret(), std::size_t{0});
    shown.key(Qt::Key_Right);
    shown.key(Qt::Key_Down);
    QCOMPARE(shown.view.caret(), std::size_t{12});
    shown.key(Qt::Key_Up);
    QCOMPARE(shown.view.caret(), std::size_t{1});
    shown.key(Qt::Key_End, Qt::ControlModifier);
    QCOMPARE(shown.view.caret(), std::size_t{16});
    shown.key(Qt::Key_Home, Qt::ControlModifier);
    QCOMPARE(shown.view.caret(), std::size_t{0});
    QCOMPARE(shown.linked.selected(), std::optional<std::size_t>(0));
  }

  void shiftExtendsTheSelection() {
    Shown shown("one two");
    shown.key(Qt::Key_Right, Qt::ControlModifier | Qt::ShiftModifier);
    QCOMPARE(shown.view.selection().end, std::size_t{3});
    shown.key(Qt::Key_Left, Qt::ShiftModifier);
    QCOMPARE(shown.view.selection().end, std::size_t{2});
    shown.key(Qt::Key_Right);
    QVERIFY(shown.view.selection().isEmpty());
  }

  void theEndOfAWrappedLineIsOnThatLine() {
    Shown shown(longLine());
    const double top = shown.caretRect().top();
    shown.key(Qt::Key_End);
    QVERIFY(shown.view.caret() > 20);
    QCOMPARE(shown.caretRect().top(), top);
    shown.key(Qt::Key_Home);
    QCOMPARE(shown.view.caret(), std::size_t{0});
  }

  void downFromTheEndOfALineGoesOneLineDown() {
    Shown shown(longLine());
    shown.key(Qt::Key_End);
    const QRectF before = shown.caretRect();
    shown.key(Qt::Key_Down);
    const QRectF after = shown.caretRect();
    QVERIFY(after.top() > before.top());
    QVERIFY(after.top() < before.top() + 1.5 * (before.height() + 4));
  }

  void copiesAndPastesEveryByteUnchanged() {
    Shown shown;
    Bytes all;
    for (int i = 0; i < 256; ++i) all.push_back(static_cast<Byte>(i));
    shown.document.setText(all);
    shown.view.selectAll();
    shown.view.copy();
    shown.view.setCaret(256);
    shown.view.paste();
    QCOMPARE(shown.document.size(), std::size_t{512});
    QVERIFY(shown.document.bytes(256, 512) == all);
  }

  void pastesTextFromElsewhereAsUtf8() {
    Shown shown("ab");
    QApplication::clipboard()->setText(QString::fromUtf8("né\n"));
    shown.view.select({0, 1});
    shown.view.paste();
    QCOMPARE(textOf(shown.document), QString::fromUtf8("né\nb"));
  }

  void cutsTheSelectionAndNothingWithoutOne() {
    Shown shown("hello");
    QApplication::clipboard()->setText("before");
    shown.view.cut();
    QCOMPARE(textOf(shown.document), QString("hello"));
    QCOMPARE(QApplication::clipboard()->text(), QString("before"));
    shown.view.select({1, 4});
    shown.view.cut();
    QCOMPARE(textOf(shown.document), QString("ho"));
    QCOMPARE(QApplication::clipboard()->text(), QString("ell"));
  }

  void copiesAsHex() {
    Shown shown("hé\n");
    shown.view.selectAll();
    shown.view.copyAsHex();
    QCOMPARE(QApplication::clipboard()->text(), QString("68 c3 a9 0a"));
  }

  void pointingAtAByteLinksItAndLeavingLetsGo() {
    Shown shown("hello\nworld");
    shown.hover(shown.placeOf(8));
    QCOMPARE(shown.linked.hovered(), std::optional<std::size_t>(8));
    shown.hover(shown.placeOf(1));
    QCOMPARE(shown.linked.hovered(), std::optional<std::size_t>(1));
    shown.hover({600, 250});
    QCOMPARE(shown.linked.hovered(), std::nullopt);
    shown.hover(shown.placeOf(1));
    QEvent leave(QEvent::Leave);
    QCoreApplication::sendEvent(&shown.view, &leave);
    QCOMPARE(shown.linked.hovered(), std::nullopt);
  }

  void everyByteOfACharacterCanBePointedAt() {
    Shown shown("日x");
    std::set<std::size_t> found;
    const int y = shown.placeOf(0).y();
    for (int x = 0; x < 60; ++x) {
      shown.hover({x, y});
      if (shown.linked.hovered()) found.insert(*shown.linked.hovered());
    }
    QCOMPARE(found, (std::set<std::size_t>{0, 1, 2, 3}));
  }

  void clickingPlacesTheCaretAndSelectsTheByte() {
    Shown shown("hello world");
    QTest::mouseClick(shown.view.viewport(), Qt::LeftButton, {}, shown.placeOf(6));
    QCOMPARE(shown.view.caret(), std::size_t{6});
    QCOMPARE(shown.linked.selected(), std::optional<std::size_t>(6));
    QTest::mouseClick(shown.view.viewport(), Qt::LeftButton, Qt::ShiftModifier, shown.placeOf(9));
    QCOMPARE(shown.view.selection().begin, std::size_t{6});
    QCOMPARE(shown.view.selection().end, std::size_t{9});
    QTest::mouseDClick(shown.view.viewport(), Qt::LeftButton, {}, shown.placeOf(1));
    QCOMPARE(shown.view.selection().begin, std::size_t{0});
    QCOMPARE(shown.view.selection().end, std::size_t{5});
  }

  void draggingSelects() {
    Shown shown("hello world");
    QTest::mousePress(shown.view.viewport(), Qt::LeftButton, {}, shown.placeOf(2));
    const QPoint place = shown.placeOf(8);
    shown.view.setCaret(2);
    QMouseEvent move(QEvent::MouseMove, place, shown.view.viewport()->mapToGlobal(place),
                     Qt::NoButton, Qt::LeftButton, Qt::NoModifier);
    QCoreApplication::sendEvent(shown.view.viewport(), &move);
    QTest::mouseRelease(shown.view.viewport(), Qt::LeftButton, {}, place);
    QCOMPARE(shown.view.selection().begin, std::size_t{2});
    QCOMPARE(shown.view.selection().end, std::size_t{8});
  }

  void hexShowsTheSameBytesAndStaysEditable() {
    Shown shown("hello world, this is more than one row of hex");
    QSignalSpy changes(&shown.view, &ByteView::displayChanged);
    shown.view.setHex(true);
    QVERIFY(shown.view.showsHex());
    QCOMPARE(changes.count(), 1);
    std::set<std::size_t> found;
    for (int x = 0; x < 700; x += 2) {
      shown.hover({x, 20});
      if (shown.linked.hovered()) found.insert(*shown.linked.hovered());
    }
    QCOMPARE(found.size(), std::size_t{16});
    QCOMPARE(*found.rbegin(), std::size_t{15});
    shown.view.setCaret(5);
    QTest::keyClicks(&shown.view, "!");
    shown.view.setHex(false);
    QVERIFY(textOf(shown.document).startsWith("hello! world"));
    shown.hover(shown.placeOf(7));
    QCOMPARE(shown.linked.hovered(), std::optional<std::size_t>(7));
  }

  void controlAndWheelZoomAndWrapAnew() {
    Shown shown(longLine());
    shown.key(Qt::Key_End);
    const std::size_t wide = shown.view.caret();
    const int rows = shown.view.verticalScrollBar()->maximum();
    for (int i = 0; i < 8; ++i)
      test::turnWheel(*shown.view.viewport(), {100, 100}, 120, Qt::ControlModifier);
    QVERIFY(shown.view.zoom() > 2);
    shown.view.setCaret(0);
    shown.key(Qt::Key_End);
    QVERIFY2(shown.view.caret() < wide, "the first line did not get shorter");
    QVERIFY(shown.view.verticalScrollBar()->maximum() > rows);
    shown.view.setZoom(100);
    QCOMPARE(shown.view.zoom(), 4.0);
    shown.view.setZoom(0.01);
    QCOMPARE(shown.view.zoom(), 0.5);
  }

  void theEndStaysInViewWhileTextGrows() {
    Shown shown("x\n");
    for (int i = 0; i < 60; ++i) {
      shown.document.addScores(test::scores(shown.document.size(), "line\n"));
      QVERIFY(shown.view.isAtEnd());
    }
    QVERIFY(shown.view.verticalScrollBar()->maximum() > 10);
    shown.view.verticalScrollBar()->setValue(3);
    shown.document.addScores(test::scores(shown.document.size(), "line\n"));
    QCOMPARE(shown.view.verticalScrollBar()->value(), 3);
    shown.view.reveal(shown.document.size());
    QVERIFY(shown.view.isAtEnd());
  }

  void survivesAnyBytesAtAnyWidth() {
    test::Random random(11);
    Shown shown;
    for (int round = 0; round < 12; ++round) {
      const Bytes bytes = random.bytes(400);
      shown.document.setText(bytes);
      shown.view.resize(120 + static_cast<int>(random.below(900)), 200);
      shown.view.setHex(round % 3 == 2);
      shown.view.setCaret(random.below(400));
      for (const Qt::Key key : {Qt::Key_Right, Qt::Key_Down, Qt::Key_End, Qt::Key_Left, Qt::Key_Up})
        shown.key(key);
      QVERIFY(!test::pictureOf(shown.view).isNull());
      QVERIFY(shown.document.bytes() == bytes);
    }
  }
};

QTEST_MAIN(ByteViewTest)
#include "test_byte_view.moc"
