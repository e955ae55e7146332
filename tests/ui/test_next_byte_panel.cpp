// Candidates of a position: which ones are shown, and what a click means.
#include <QAbstractItemModelTester>
#include <QLabel>
#include <QListView>
#include <QSignalSpy>
#include <QtTest>

#include "tests/support/documents.h"
#include "tests/support/pictures.h"
#include "ui/panels/next_byte_panel.h"

namespace test = mb::test;
using namespace mb::ui;
using mb::Byte;
using mb::kCandidates;
using mb::Prediction;
using mb::toBytes;

namespace {

/// Ten candidates from `first` on: 0.4, 0.2, 0.1, then 0.02 each; 0.16 is left for the others.
Prediction prediction(char first) {
  Prediction made;
  for (std::size_t i = 0; i < kCandidates; ++i) {
    const float probabilities[] = {0.4f, 0.2f, 0.1f};
    made.candidates[i] = {static_cast<Byte>(first + static_cast<char>(i)),
                          i < 3 ? probabilities[i] : 0.02f};
  }
  return made;
}

struct Shown {
  Shown() {
    theme.apply(ThemeMode::Light);
    panel.resize(420, 340);
    panel.show();
    active = QTest::qWaitForWindowActive(&panel);
  }
  /// "abc", scored but for its first byte, whose candidates are b…, c…; then d… is expected.
  void fill() {
    document.setText(toBytes("abc"));
    ScoredBytes scores = test::scores(0, "abc", mb::Origin::Prompt);
    scores.records[0].scored = false;
    for (std::size_t i = 1; i < 3; ++i) scores.records[i].prediction = prediction("abc"[i]);
    document.addScores(scores);
    document.setNext({3, prediction('d')});
    panel.refreshIfNeeded();
  }
  QModelIndex row(int i) { return panel.candidates().index(i); }
  int byteAt(int i) { return row(i).data(CandidateModel::ByteRole).toInt(); }
  void click(int i) {
    QTest::mouseClick(panel.list().viewport(), Qt::LeftButton, {},
                      panel.list().visualRect(row(i)).center());
  }
  QString hint() const {
    for (const auto* label : panel.findChildren<QLabel*>())
      if (label->property("role") == "hint" && label->isVisible()) return label->text();
    return {};
  }

  Theme theme;
  Document document;
  LinkedPosition linked;
  NextBytePanel panel{document, linked, theme, nullptr};
  bool active = false;
};

}  // namespace

class NextBytePanelTest : public QObject {
  Q_OBJECT

 private slots:
  void theModelKeepsTheRulesOfModels() {
    CandidateModel model;
    const QAbstractItemModelTester tester(&model);
    QCOMPARE(model.rowCount(), 0);
    model.setPrediction(prediction('a'), 'b');
    QCOMPARE(model.rowCount(), 11);
    model.setPrediction(prediction('k'), -1);
    model.clear();
    model.clear();
    QCOMPARE(model.rowCount(), 0);
    model.setPrediction(prediction('a'), -1);
  }

  void allProbabilitiesAddUpToOne() {
    CandidateModel model;
    model.setPrediction(prediction('a'), -1);
    double sum = 0;
    for (int i = 0; i < model.rowCount(); ++i)
      sum += model.index(i).data(CandidateModel::ProbabilityRole).toDouble();
    QVERIFY(std::abs(sum - 1) < 1e-6);
    const QModelIndex rest = model.index(10);
    QVERIFY(rest.data(CandidateModel::RestRole).toBool());
    QVERIFY(std::abs(rest.data(CandidateModel::ProbabilityRole).toDouble() - 0.16) < 1e-6);
    QVERIFY(!(model.flags(rest) & Qt::ItemIsSelectable));
  }

  void rowsAreReadAloudWithNumbers() {
    CandidateModel model;
    Prediction made = prediction('a');
    made.candidates[1].byte = '\n';
    made.candidates[2].byte = 0xe9;
    model.setPrediction(made, 'a');
    const auto text = [&](int i) { return model.index(i).data(Qt::AccessibleTextRole).toString(); };
    QCOMPARE(text(0), QString("a, 40.0 percent"));
    QCOMPARE(text(1), QString("newline, 20.0 percent"));
    QCOMPARE(text(2), QString("byte E9, 10.0 percent"));
    QCOMPARE(text(10), QString("all other bytes, 16.0 percent"));
    QVERIFY(model.index(0).data(CandidateModel::TakenRole).toBool());
    QVERIFY(!model.index(1).data(CandidateModel::TakenRole).toBool());
    QVERIFY(!model.index(10).data(CandidateModel::TakenRole).toBool());
  }

  void anEmptyTextSaysWhatToDo() {
    Shown shown;
    QVERIFY(shown.active);
    shown.panel.refreshIfNeeded();
    QVERIFY(shown.hint().contains("prompt"));
    shown.fill();
    QCOMPARE(shown.hint(), QString());
    shown.document.setText({});
    shown.panel.refreshIfNeeded();
    QVERIFY(!shown.hint().isEmpty());
  }

  void showsWhatComesNextUnlessAByteIsPointedAt() {
    Shown shown;
    shown.fill();
    QCOMPARE(shown.panel.position(), std::size_t{3});
    QCOMPARE(shown.byteAt(0), int{'d'});
    shown.linked.hover(1);
    shown.panel.refreshIfNeeded();
    QCOMPARE(shown.panel.position(), std::size_t{1});
    QCOMPARE(shown.byteAt(0), int{'b'});
    QVERIFY(shown.row(0).data(CandidateModel::TakenRole).toBool());
    shown.linked.select(2);
    shown.linked.hover(std::nullopt);
    shown.panel.refreshIfNeeded();
    QCOMPARE(shown.panel.position(), std::size_t{2});
    shown.linked.select(std::nullopt);
    shown.panel.refreshIfNeeded();
    QCOMPARE(shown.panel.position(), std::size_t{3});
  }

  void theFirstByteHasNoCandidatesOfItsOwn() {
    Shown shown;
    shown.fill();
    shown.linked.hover(0);
    shown.panel.refreshIfNeeded();
    QCOMPARE(shown.panel.position(), std::size_t{3});
  }

  void whileTextFlowsTheNewestByteIsShown() {
    Shown shown;
    shown.fill();
    ScoredBytes written = test::scores(3, "d");
    written.records[0].prediction = prediction('d');
    shown.document.addScores(written);
    shown.panel.refreshIfNeeded();
    QCOMPARE(shown.panel.position(), std::size_t{3});
    QVERIFY(shown.row(0).data(CandidateModel::TakenRole).toBool());
  }

  void aClickChoosesTheByteAtItsPosition() {
    Shown shown;
    shown.fill();
    std::vector<std::pair<std::size_t, Byte>> chosen;
    connect(&shown.panel, &NextBytePanel::candidateChosen, this,
            [&](std::size_t position, Byte byte) { chosen.emplace_back(position, byte); });
    shown.click(1);
    QCOMPARE(chosen.size(), std::size_t{1});
    QCOMPARE(chosen[0], (std::pair<std::size_t, Byte>(3, 'e')));
    shown.linked.select(1);
    shown.panel.refreshIfNeeded();
    shown.click(2);
    QCOMPARE(chosen.back(), (std::pair<std::size_t, Byte>(1, 'd')));
    shown.click(10);
    QCOMPARE(chosen.size(), std::size_t{2});
  }

  void enterChoosesTheCurrentRow() {
    Shown shown;
    shown.fill();
    QSignalSpy chosen(&shown.panel, &NextBytePanel::candidateChosen);
    shown.panel.list().setFocus();
    shown.panel.list().setCurrentIndex(shown.row(0));
    QTest::keyClick(&shown.panel.list(), Qt::Key_Down);
    QTest::keyClick(&shown.panel.list(), Qt::Key_Return);
    QCOMPARE(chosen.count(), 1);
    QCOMPARE(chosen[0][1].value<Byte>(), Byte{'e'});
  }

  void barsAreAsLongAsTheProbabilities() {
    Shown shown;
    shown.fill();
    shown.linked.select(2);
    shown.panel.refreshIfNeeded();
    const auto barOf = [&](int i) {
      const QImage image = shown.panel.list().viewport()->grab().toImage();
      const int y = shown.panel.list().visualRect(shown.row(i)).center().y();
      int length = 0;
      for (int x = 0; x < image.width(); ++x) {
        const QColor color = image.pixelColor(x, y);
        const Colors& colors = shown.theme.colors();
        length += color == colors.bar || color == colors.accent || color == colors.untested;
      }
      return length;
    };
    QVERIFY(barOf(0) > 60);
    QVERIFY(std::abs(barOf(0) - 2 * barOf(1)) <= 3);
    QVERIFY(std::abs(barOf(0) - 4 * barOf(2)) <= 6);
    QVERIFY(std::abs(barOf(10) * 40 - barOf(0) * 16) <= 40 * 3);
  }

  void theTitleTellsWhatTheBytesFollow() {
    Shown shown;
    shown.fill();
    bool found = false;
    for (const auto* label : shown.panel.findChildren<QLabel*>())
      found |= label->accessibleName().startsWith(QString::fromUtf8("after “abc”"));
    QVERIFY(found);
  }
};

QTEST_MAIN(NextBytePanelTest)
#include "test_next_byte_panel.moc"
