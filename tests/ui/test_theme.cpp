// Colours that can be read, told apart, and mean one thing.
#include <QApplication>
#include <QRegularExpression>
#include <QSignalSpy>
#include <QtTest>
#include <cmath>

#include "ui/theme/style_sheet.h"
#include "ui/theme/theme.h"

using namespace mb::ui;
using mb::Origin;

namespace {

struct Rgb {
  double r, g, b;
};

struct Named {
  const char* name;
  QColor color;
};

double linear(double value) {
  return value <= 0.04045 ? value / 12.92 : std::pow((value + 0.055) / 1.055, 2.4);
}

Rgb linear(const QColor& color) {
  return {linear(color.redF()), linear(color.greenF()), linear(color.blueF())};
}

/// Relative luminance and contrast as WCAG 2 defines them.
double luminance(const QColor& color) {
  const Rgb c = linear(color);
  return 0.2126 * c.r + 0.7152 * c.g + 0.0722 * c.b;
}

double contrast(const QColor& a, const QColor& b) {
  const auto [low, high] = std::minmax({luminance(a), luminance(b)});
  return (high + 0.05) / (low + 0.05);
}

/// CIELAB under D65.
Rgb lab(const Rgb& c) {
  const auto f = [](double t) {
    return t > 216.0 / 24389 ? std::cbrt(t) : (24389.0 / 27 * t + 16) / 116;
  };
  const double x = f((0.4124 * c.r + 0.3576 * c.g + 0.1805 * c.b) / 0.95047);
  const double y = f(0.2126 * c.r + 0.7152 * c.g + 0.0722 * c.b);
  const double z = f((0.0193 * c.r + 0.1192 * c.g + 0.9505 * c.b) / 1.08883);
  return {116 * y - 16, 500 * (x - y), 200 * (y - z)};
}

/// How somebody sees a linear colour: the full dichromacies of Machado, Oliveira and Fernandes
/// (2009).
using Sight = std::array<std::array<double, 3>, 3>;
constexpr Sight kTrichromat = {{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}};
constexpr Sight kProtanope = {{{0.152286, 1.052583, -0.204868},
                               {0.114503, 0.786281, 0.099216},
                               {-0.003882, -0.048116, 1.051998}}};
constexpr Sight kDeuteranope = {{{0.367322, 0.860646, -0.227968},
                                 {0.280085, 0.672501, 0.047413},
                                 {-0.011820, 0.042940, 0.968881}}};

Rgb seen(const Sight& sight, const QColor& color) {
  const Rgb c = linear(color);
  const auto row = [&](std::size_t i) {
    return std::clamp(sight[i][0] * c.r + sight[i][1] * c.g + sight[i][2] * c.b, 0.0, 1.0);
  };
  return {row(0), row(1), row(2)};
}

/// CIE76 distance; about 2.3 is just noticeable side by side.
double distance(const Sight& sight, const QColor& a, const QColor& b) {
  const Rgb x = lab(seen(sight, a));
  const Rgb y = lab(seen(sight, b));
  return std::sqrt((x.r - y.r) * (x.r - y.r) + (x.g - y.g) * (x.g - y.g) +
                   (x.b - y.b) * (x.b - y.b));
}

QColor blended(const QColor& top, double alpha, const QColor& ground) {
  const auto mix = [&](double a, double b) {
    return static_cast<float>(alpha * a + (1 - alpha) * b);
  };
  return QColor::fromRgbF(mix(top.redF(), ground.redF()), mix(top.greenF(), ground.greenF()),
                          mix(top.blueF(), ground.blueF()));
}

QList<Named> fills(const Colors& c) {
  return {{"plain", c.panel},
          {"prompt", c.prompt.fill},
          {"accepted", c.accepted.fill},
          {"corrected", c.corrected.fill},
          {"bonus", c.bonus.fill},
          {"chosen", c.chosen.fill}};
}

QList<Named> marks(const Colors& c) {
  return {{"ground", c.panel},         {"accepted", c.accepted.ink}, {"corrected", c.corrected.ink},
          {"bonus", c.bonus.ink},      {"chosen", c.chosen.ink},     {"rejected", c.rejected},
          {"never tested", c.untested}};
}

void compareContrast(const Named& text, const Named& ground, double least) {
  const double found = contrast(text.color, ground.color);
  QVERIFY2(found >= least,
           qPrintable(QString("%1 on %2: %3").arg(text.name, ground.name).arg(found)));
}

void compareDistances(const QList<Named>& colors, const Sight& sight, double least) {
  for (int i = 0; i < colors.size(); ++i) {
    for (int k = 0; k < i; ++k) {
      const double found = distance(sight, colors[i].color, colors[k].color);
      QVERIFY2(found >= least,
               qPrintable(QString("%1 and %2: %3").arg(colors[i].name, colors[k].name).arg(found)));
    }
  }
}

QPalette systemPalette(bool dark) {
  QPalette palette;
  palette.setColor(QPalette::Window, dark ? Qt::black : Qt::white);
  palette.setColor(QPalette::WindowText, dark ? Qt::white : Qt::black);
  return palette;
}

}  // namespace

class ThemeTest : public QObject {
  Q_OBJECT

 private slots:
  void textCanBeRead_data() { addModes(); }
  void textCanBeRead() {
    const Colors& c = colorsOfRow();
    for (const Named& ground :
         QList<Named>{{"background", c.background}, {"panel", c.panel}, {"field", c.field}}) {
      compareContrast({"ink", c.ink}, ground, 4.5);
      compareContrast({"dim", c.dim}, ground, 4.5);
    }
    compareContrast({"ink", c.ink}, {"a pressed button", c.line}, 4.5);
    compareContrast({"an error", c.rejected}, {"panel", c.panel}, 4.5);
    compareContrast({"text", c.onAccent}, {"accent", c.accent}, 4.5);
  }

  void bytesCanBeReadOnEveryTint_data() { addModes(); }
  void bytesCanBeReadOnEveryTint() {
    const Colors& c = colorsOfRow();
    QList<Named> grounds = fills(c);
    grounds.append({"match", c.match});
    grounds.append({"surprise", c.surprise});
    for (const Named& ground : grounds) {
      compareContrast({"ink", c.ink}, ground, 4.5);
      const QColor selected = blended(c.selection, 150.0 / 255, ground.color);
      compareContrast({"selected ink", c.ink}, {ground.name, selected}, 4.5);
    }
  }

  void marksStandOutFromThePanel_data() { addModes(); }
  void marksStandOutFromThePanel() {
    const Colors& c = colorsOfRow();
    for (const Origin origin :
         {Origin::Prompt, Origin::Accepted, Origin::Corrected, Origin::Bonus, Origin::Chosen})
      compareContrast({mb::nameOf(origin).data(), c.mark(origin)}, {"panel", c.panel}, 3);
    compareContrast({"accent", c.accent}, {"panel", c.panel}, 3);
  }

  void originsAreToldApart_data() { addSights(); }
  void originsAreToldApart() {
    QFETCH(Sight, sight);
    const Colors& c = colorsOfRow();
    compareDistances(fills(c), sight, 7);
    compareDistances(marks(c), sight, 7);
  }

  void everyColourMeansOneThing_data() { addModes(); }
  void everyColourMeansOneThing() {
    const Colors& c = colorsOfRow();
    QList<Named> roles = fills(c);
    roles.append(marks(c).mid(1));
    roles.append({{"ink", c.ink},
                  {"dim", c.dim},
                  {"background", c.background},
                  {"line", c.line},
                  {"accent", c.accent},
                  {"bar", c.bar},
                  {"surprise", c.surprise},
                  {"selection", c.selection},
                  {"match", c.match}});
    for (int i = 0; i < roles.size(); ++i)
      for (int k = 0; k < i; ++k)
        QVERIFY2(roles[i].color != roles[k].color,
                 qPrintable(QString("%1 and %2").arg(roles[i].name, roles[k].name)));
  }

  void plainBytesHaveNoFill() {
    Theme theme;
    QVERIFY(!theme.colors().fill(Origin::Plain).isValid());
    QCOMPARE(theme.colors().fill(Origin::Bonus), theme.colors().bonus.fill);
  }

  void mapsRunEvenlyFromDarkToLight() {
    for (const auto* map : {&Theme::cividis(), &Theme::viridis()}) {
      QCOMPARE(map->size(), std::size_t{256});
      double previous = -1;
      for (const QRgb color : *map) {
        const double lightness = lab(linear(QColor(color))).r;
        QVERIFY2(lightness > previous - 0.3 && lightness < previous + 3 + (previous < 0 ? 100 : 0),
                 qPrintable(QString::number(lightness)));
        previous = lightness;
      }
    }
  }

  void mapsAreCividisAndViridis() {
    const auto close = [](QRgb color, QRgb expected) {
      return distance(kTrichromat, QColor(color), QColor(expected)) < 6;
    };
    QVERIFY(close(Theme::cividis().front(), 0xff00204d));
    QVERIFY(close(Theme::cividis()[128], 0xff7d7c78));
    QVERIFY(close(Theme::cividis().back(), 0xffffea46));
    QVERIFY(close(Theme::viridis().front(), 0xff440154));
    QVERIFY(close(Theme::viridis()[64], 0xff3b528b));
    QVERIFY(close(Theme::viridis()[128], 0xff21918c));
    QVERIFY(close(Theme::viridis()[191], 0xff5ec962));
    QVERIFY(close(Theme::viridis().back(), 0xfffde725));
  }

  void applyingSetsPaletteFontAndSheetAndSaysSo() {
    Theme theme;
    QSignalSpy changes(&theme, &Theme::changed);
    theme.apply(ThemeMode::Dark);
    QCOMPARE(changes.count(), 1);
    QVERIFY(theme.isDark());
    QCOMPARE(QApplication::palette().color(QPalette::Window), theme.colors().background);
    QCOMPARE(QApplication::font().pixelSize(), 13);
    QVERIFY(qApp->styleSheet().contains(theme.colors().accent.name()));
    theme.apply(ThemeMode::Light);
    QVERIFY(!theme.isDark());
    QCOMPARE(QApplication::palette().color(QPalette::Window), theme.colors().background);
  }

  void theSheetNamesNoUnknownColour() {
    Theme theme;
    const QString sheet = styleSheet(theme.colors());
    QVERIFY(!sheet.contains(u'@'));
    QVERIFY(sheet.contains(QRegularExpression("#[0-9a-f]{6}")));
  }

  void followsTheSystemLive() {
    qApp->setStyleSheet({});
    QApplication::setPalette(systemPalette(true));
    Theme theme;
    theme.apply(ThemeMode::System);
    QVERIFY(theme.isDark());
    QApplication::setPalette(systemPalette(false));
    QTRY_VERIFY(!theme.isDark());
    theme.apply(ThemeMode::Dark);
    QApplication::setPalette(systemPalette(false));
    QCoreApplication::processEvents();
    QVERIFY(theme.isDark());
  }

  void goesBackToTheSystemsChoice() {
    qApp->setStyleSheet({});
    QApplication::setPalette(systemPalette(false));
    Theme theme;
    theme.apply(ThemeMode::Dark);
    QCoreApplication::processEvents();
    theme.apply(ThemeMode::System);
    QVERIFY(!theme.isDark());
  }

  void bytesHaveAFixedPitchThatZooms() {
    QCOMPARE(Theme::monoFont(1).pixelSize(), 16);
    QCOMPARE(Theme::monoFont(2).pixelSize(), 32);
    const QFontMetricsF metrics(Theme::monoFont(1));
    QCOMPARE(metrics.horizontalAdvance(u'i'), metrics.horizontalAdvance(u'W'));
  }

 private:
  static void addModes() {
    QTest::addColumn<ThemeMode>("mode");
    QTest::newRow("light") << ThemeMode::Light;
    QTest::newRow("dark") << ThemeMode::Dark;
  }
  static void addSights() {
    QTest::addColumn<ThemeMode>("mode");
    QTest::addColumn<Sight>("sight");
    for (const bool dark : {false, true}) {
      const ThemeMode mode = dark ? ThemeMode::Dark : ThemeMode::Light;
      const char* name = dark ? "dark" : "light";
      QTest::addRow("%s, all cones", name) << mode << kTrichromat;
      QTest::addRow("%s, protanopia", name) << mode << kProtanope;
      QTest::addRow("%s, deuteranopia", name) << mode << kDeuteranope;
    }
  }
  const Colors& colorsOfRow() {
    m_theme.apply(*static_cast<ThemeMode*>(QTest::qData("mode", qMetaTypeId<ThemeMode>())));
    return m_theme.colors();
  }

  Theme m_theme;
};

QTEST_MAIN(ThemeTest)
#include "test_theme.moc"
