#include <QSignalSpy>
#include <QtTest>
#include <cmath>

#include "tests/support/documents.h"
#include "tests/support/random_values.h"
#include "ui/model/document.h"

using namespace mb;
using namespace mb::ui;
using mb::test::scores;

namespace {

/// What an engine does with edits: follows the text byte for byte.
class Follower : public QObject {
 public:
  explicit Follower(Document& document) {
    connect(&document, &Document::edited, this, [this](const EditText& edit) {
      text.resize(std::min(text.size(), edit.size));
      const auto at = static_cast<std::ptrdiff_t>(edit.at);
      text.erase(text.begin() + at, text.begin() + at + static_cast<std::ptrdiff_t>(edit.removed));
      text.insert(text.begin() + at, edit.inserted.begin(), edit.inserted.end());
      QCOMPARE(edit.origins.size(), edit.inserted.size());
      QVERIFY(edit.revision > revision);
      revision = edit.revision;
    });
  }
  Bytes text;
  Revision revision = 0;
};

QString textOf(const Document& document) {
  const Bytes bytes = document.bytes();
  return QString::fromUtf8(reinterpret_cast<const char*>(bytes.data()),
                           static_cast<int>(bytes.size()));
}

}  // namespace

class DocumentTest : public QObject {
  Q_OBJECT

 private slots:
  void editsReachTheEngineAndCanBeUndone() {
    Document document;
    Follower engine(document);
    document.setText(toBytes("hello world"));
    document.replace(0, 5, toBytes("Goodbye"));
    document.remove(7, 6);
    document.insert(7, toBytes("!"));
    QCOMPARE(textOf(document), QString("Goodbye!"));
    QVERIFY(engine.text == document.bytes());
    while (document.undoStack().canUndo()) {
      document.undoStack().undo();
      QVERIFY(engine.text == document.bytes());
    }
    QCOMPARE(textOf(document), QString("hello world"));
    while (document.undoStack().canRedo()) document.undoStack().redo();
    QCOMPARE(textOf(document), QString("Goodbye!"));
    QVERIFY(engine.text == document.bytes());
  }

  void randomEditsAndUndosKeepTheEngineInStep() {
    test::Random random(3);
    Document document;
    Follower engine(document);
    document.setText(random.bytes(200));
    for (int step = 0; step < 500; ++step) {
      const std::size_t at = random.below(document.size() + 1);
      switch (random.below(6)) {
        case 0: document.insert(at, random.bytes(random.below(8))); break;
        case 1: document.remove(at, random.below(10)); break;
        case 2: document.replace(at, random.below(5), random.bytes(random.below(5))); break;
        case 3: document.undoStack().undo(); break;
        case 4: document.undoStack().redo(); break;
        default: {
          const ScoredBytes run = scores(document.size(), "run");
          document.addScores(run);
          engine.text.insert(engine.text.end(), {'r', 'u', 'n'});
          if (random.below(2)) document.closeRun();
        }
      }
      QVERIFY(engine.text == document.bytes());
    }
  }

  void typingMergesIntoOneStepAWord() {
    Document document;
    document.setText({});
    for (const char c : std::string("two words")) {
      const Byte byte = static_cast<Byte>(c);
      document.insert(document.size(), {&byte, 1});
    }
    document.undoStack().undo();
    QCOMPARE(textOf(document), QString("two"));
    document.undoStack().undo();
    QCOMPARE(textOf(document), QString());
  }

  void aRunIsOneStepThatCanBeUndone() {
    Document document;
    Follower engine(document);
    document.setText(toBytes("ab"));
    document.addScores(scores(0, "ab", Origin::Prompt));
    document.addScores(scores(2, "cd"));
    document.addScores(scores(4, "ef"));
    document.closeRun();
    QCOMPARE(textOf(document), QString("abcdef"));
    engine.text = document.bytes();
    document.undoStack().undo();
    QCOMPARE(textOf(document), QString("ab"));
    QVERIFY(engine.text == document.bytes());
    document.undoStack().redo();
    QCOMPARE(textOf(document), QString("abcdef"));
    QCOMPARE(document.record(5).origin, Origin::Plain);
  }

  void editingWhileARunWritesKeepsEveryStep() {
    Document document;
    document.setText(toBytes("prompt"));
    document.addScores(scores(6, "run"));
    document.insert(0, toBytes("my "));
    document.closeRun();
    QCOMPARE(textOf(document), QString("my promptrun"));
    document.undo();
    QCOMPARE(textOf(document), QString("promptrun"));
    document.undo();
    QCOMPARE(textOf(document), QString("prompt"));
    document.redo();
    document.redo();
    QCOMPARE(textOf(document), QString("my promptrun"));
  }

  void undoingWhileARunWritesTakesTheRunBack() {
    Document document;
    document.insert(0, toBytes("prompt"));
    document.addScores(scores(6, "ru"));
    document.undo();
    QCOMPARE(textOf(document), QString("prompt"));
    document.closeRun();  // the engine has heard of it
    document.undo();
    QCOMPARE(textOf(document), QString());
    document.redo();
    QCOMPARE(textOf(document), QString("prompt"));
  }

  void deletingThePromptWhileARunWritesIsHarmless() {
    Document document;
    document.setText(toBytes("prompt"));
    document.addScores(scores(6, "run"));
    document.replace(0, 9, toBytes("x"));
    document.closeRun();
    QCOMPARE(textOf(document), QString("x"));
    document.undo();
    QCOMPARE(textOf(document), QString("promptrun"));
    document.undo();
    QCOMPARE(textOf(document), QString("prompt"));
  }

  void anEditBehindTheEndGoesToTheEnd() {
    Document document;
    document.setText(toBytes("ab"));
    document.replace(9, 3, toBytes("c"));
    QCOMPARE(textOf(document), QString("abc"));
  }

  void choosingAByteReplacesTheTailAndUndoBringsItBack() {
    Document document;
    document.setText(toBytes("abcdef"));
    const Byte z = 'z';
    document.replace(3, document.size(), {&z, 1}, Origin::Chosen);
    QCOMPARE(textOf(document), QString("abcz"));
    QCOMPARE(document.record(3).origin, Origin::Chosen);
    document.undoStack().undo();
    QCOMPARE(textOf(document), QString("abcdef"));
  }

  void scoresBehindAnEditAreStaleUntilTheyComeAgain() {
    Document document;
    document.setText(toBytes("abcdef"));
    document.addScores(scores(0, "abcdef", Origin::Prompt, 2));
    QVERIFY(document.isScored(5));
    document.replace(2, 1, toBytes("X"));
    QVERIFY(document.isScored(1));
    QVERIFY(!document.isScored(2));
    QVERIFY(!document.isScored(5));
    document.addScores(scores(2, "Xde", Origin::Prompt, 3));
    QVERIFY(document.isScored(4));
    QVERIFY(!document.isScored(5));
  }

  void keepsTheCurveFromBeforeTheEditAlignedWithItsBytes() {
    Document document;
    document.setText(toBytes("abcdef"));
    ScoredBytes before = scores(0, "abcdef", Origin::Prompt);
    for (std::size_t i = 0; i < 6; ++i) before.records[i].surprisal = static_cast<float>(i);
    document.addScores(before);
    QVERIFY(!document.hasGhost());
    document.insert(2, toBytes("XY"));
    QVERIFY(document.hasGhost());
    QCOMPARE(document.firstChanged(), std::size_t{2});
    QCOMPARE(document.ghost(1), 1.0f);
    QVERIFY(std::isnan(document.ghost(2)));
    QVERIFY(std::isnan(document.ghost(3)));
    QCOMPARE(document.ghost(4), 2.0f);
    document.remove(5, 1);  // the old "d"
    QCOMPARE(document.ghost(5), 4.0f);
    document.replace(0, 2, toBytes("AB"));  // in place: still comparable
    QCOMPARE(document.ghost(1), 1.0f);
    QCOMPARE(document.firstChanged(), std::size_t{0});
    document.dismissGhost();
    QVERIFY(!document.hasGhost());
  }

  void appendingIsNotAnEditOfTheCurve() {
    Document document;
    document.setText(toBytes("ab"));
    document.addScores(scores(0, "ab", Origin::Prompt));
    document.insert(2, toBytes("c"));
    QVERIFY(!document.hasGhost());
  }

  void roundsGoWithTheirBytes() {
    Document document;
    document.setText(toBytes("ab"));
    document.addScores(scores(2, "cdefgh"));
    RoundRecord first;
    first.index = 0;
    first.position = 2;
    first.draft = toBytes("cde");
    first.accepted = 3;
    RoundRecord second = first;
    second.index = 1;
    second.position = 5;
    document.addRounds(std::vector<RoundRecord>{first, second});
    QVERIFY(document.round(1));
    QVERIFY(!document.round(2));
    document.remove(6, 1);
    QCOMPARE(document.rounds().size(), std::size_t{1});
    QVERIFY(document.round(0));
  }

  void whatComesNextIsOnlyKnownForTheWholeText() {
    Document document;
    document.setText(toBytes("ab"));
    document.setNext({1, {}});
    QVERIFY(!document.next());
    document.setNext({2, {}});
    QVERIFY(document.next());
    document.addScores(scores(2, "c"));
    QVERIFY(!document.next());
  }

  void scoresOfATextThatIsGoneAreIgnored() {
    Document document;
    document.setText(toBytes("ab"));
    document.addScores(scores(7, "zz"));
    QCOMPARE(textOf(document), QString("ab"));
  }
};

QTEST_GUILESS_MAIN(DocumentTest)
#include "test_document.moc"
