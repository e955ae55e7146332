#include <QSignalSpy>
#include <QtTest>

#include "ui/model/byte_axis.h"

using mb::ui::ByteAxis;

class ByteAxisTest : public QObject {
  Q_OBJECT

 private slots:
  void showsTheWholeTextAtFirst() {
    ByteAxis axis;
    axis.setSize(1000);
    QCOMPARE(axis.lower(), 0.0);
    QVERIFY(axis.upper() >= 1000);
    QVERIFY(axis.upper() < 1200);
  }

  void growsInStepsSoThatPlotsDoNotJump() {
    ByteAxis axis;
    QSignalSpy changes(&axis, &ByteAxis::changed);
    for (std::size_t size = 0; size <= 4096; ++size) axis.setSize(size);
    QVERIFY2(changes.count() < 40, qPrintable(QString::number(changes.count())));
    QVERIFY(axis.upper() >= 4096);
  }

  void keepsItsSpanAndFollowsTheEndWhileTheEndIsInView() {
    ByteAxis axis;
    axis.setSize(1000);
    axis.show(900, 1000);
    axis.setSize(1200);
    QCOMPARE(axis.upper(), 1200.0);
    QCOMPARE(axis.lower(), 1100.0);
  }

  void staysWhereTheUserPannedTo() {
    ByteAxis axis;
    axis.setSize(1000);
    axis.show(100, 200);
    axis.setSize(5000);
    QCOMPARE(axis.lower(), 100.0);
    QCOMPARE(axis.upper(), 200.0);
  }

  void zoomsAroundThePointer() {
    ByteAxis axis;
    axis.setSize(1024);
    axis.show(0, 1024);
    axis.zoom(0.5, 256);
    QCOMPARE(axis.lower(), 128.0);
    QCOMPARE(axis.upper(), 640.0);
  }

  void neverLeavesTheText() {
    ByteAxis axis;
    axis.setSize(1000);
    axis.show(-500, -400);
    QCOMPARE(axis.lower(), 0.0);
    axis.show(10, 10.001);
    QVERIFY(axis.upper() - axis.lower() >= 8);
    axis.zoom(1e9, 500);
    QCOMPARE(axis.lower(), 0.0);
    QVERIFY(axis.upper() < 1200);
  }

  void fitsAgainWhenTheTextShrinksBelowTheView() {
    ByteAxis axis;
    axis.setSize(1000);
    axis.show(800, 900);
    axis.setSize(100);
    QCOMPARE(axis.lower(), 0.0);
  }
};

QTEST_GUILESS_MAIN(ByteAxisTest)
#include "test_byte_axis.moc"
