#include "ui/theme/theme.h"

#include <QApplication>
#include <QEvent>
#include <QPalette>
#include <QStyleFactory>
#include <algorithm>
#include <array>
#include <cmath>

#include "ui/theme/style_sheet.h"

namespace mb::ui {

namespace {

const Colors kLight = {
    .background = QColor(0xf6f7f9),
    .panel = QColor(0xffffff),
    .field = QColor(0xeef0f4),
    .ink = QColor(0x1c2430),
    .dim = QColor(0x5f6b7f),
    .line = QColor(0xd9dee6),
    .accent = QColor(0x2f6fdb),
    .onAccent = QColor(0xffffff),
    .bar = QColor(0x85a8e8),
    .prompt = {QColor(0xe6eaf1), QColor(0x5f6b7f)},
    .accepted = {QColor(0xcdebd6), QColor(0x1f8a4c)},
    .corrected = {QColor(0xcfe3ff), QColor(0x1f5fc4)},
    .bonus = {QColor(0xd7cae2), QColor(0x7552e0)},
    .chosen = {QColor(0xfdf0d0), QColor(0x8a5a00)},
    .rejected = QColor(0xc0392b),
    .untested = QColor(0xd4d9e1),
    .surprise = QColor(0xf2a65a),
    .selection = QColor(0x2f6fdb).lighter(150),
    .match = QColor(0xffd75e),
};

const Colors kDark = {
    .background = QColor(0x14171c),
    .panel = QColor(0x1b2027),
    .field = QColor(0x262c35),
    .ink = QColor(0xe6eaf0),
    .dim = QColor(0x93a0b4),
    .line = QColor(0x2c333d),
    .accent = QColor(0x6aa3ff),
    .onAccent = QColor(0x0d1522),
    .bar = QColor(0x4a6ba6),
    .prompt = {QColor(0x2a303a), QColor(0x93a0b4)},
    .accepted = {QColor(0x173d29), QColor(0x5fd08f)},
    .corrected = {QColor(0x17335c), QColor(0x7fb2ff)},
    .bonus = {QColor(0x251745), QColor(0x9f86ea)},
    .chosen = {QColor(0x44360f), QColor(0xf0c35a)},
    .rejected = QColor(0xff8a7a),
    .untested = QColor(0x3a424e),
    .surprise = QColor(0x985310),
    .selection = QColor(0x35558c),
    .match = QColor(0x7d6412),
};

constexpr int kInterfacePixels = 13;
constexpr int kMonoPixels = 16;

std::vector<QRgb> interpolate(std::initializer_list<QRgb> anchors) {
  const std::vector<QRgb> points(anchors);
  std::vector<QRgb> map;
  for (int i = 0; i < 256; ++i) {
    const double place = i / 255.0 * static_cast<double>(points.size() - 1);
    const std::size_t left = std::min(static_cast<std::size_t>(place), points.size() - 2);
    const double share = place - static_cast<double>(left);
    const auto mix = [&](int a, int b) {
      return static_cast<int>(std::lround(a + share * (b - a)));
    };
    const QRgb a = points[left];
    const QRgb b = points[left + 1];
    map.push_back(qRgb(mix(qRed(a), qRed(b)), mix(qGreen(a), qGreen(b)), mix(qBlue(a), qBlue(b))));
  }
  return map;
}

QPalette paletteOf(const Colors& c) {
  QPalette palette;
  palette.setColor(QPalette::Window, c.background);
  palette.setColor(QPalette::WindowText, c.ink);
  palette.setColor(QPalette::Base, c.panel);
  palette.setColor(QPalette::AlternateBase, c.field);
  palette.setColor(QPalette::Text, c.ink);
  palette.setColor(QPalette::PlaceholderText, c.dim);
  palette.setColor(QPalette::Button, c.field);
  palette.setColor(QPalette::ButtonText, c.ink);
  palette.setColor(QPalette::ToolTipBase, c.panel);
  palette.setColor(QPalette::ToolTipText, c.ink);
  palette.setColor(QPalette::Highlight, c.accent);
  palette.setColor(QPalette::HighlightedText, c.onAccent);
  palette.setColor(QPalette::Link, c.accent);
  for (const auto role : {QPalette::WindowText, QPalette::Text, QPalette::ButtonText})
    palette.setColor(QPalette::Disabled, role, c.dim);
  return palette;
}

}  // namespace

QColor Colors::fill(Origin origin) const {
  switch (origin) {
    case Origin::Prompt: return prompt.fill;
    case Origin::Accepted: return accepted.fill;
    case Origin::Corrected: return corrected.fill;
    case Origin::Bonus: return bonus.fill;
    case Origin::Chosen: return chosen.fill;
    case Origin::Plain: break;
  }
  return {};
}

QColor Colors::mark(Origin origin) const {
  switch (origin) {
    case Origin::Prompt: return prompt.ink;
    case Origin::Accepted: return accepted.ink;
    case Origin::Corrected: return corrected.ink;
    case Origin::Bonus: return bonus.ink;
    case Origin::Chosen: return chosen.ink;
    case Origin::Plain: break;
  }
  return dim;
}

Theme::Theme(QObject* parent) : QObject(parent), m_systemDark(systemIsDark()) {
  qApp->installEventFilter(this);
}

const Colors& Theme::colors() const {
  return m_dark ? kDark : kLight;
}

/// The palette the application started with is the system's: dark when its text is lighter than its
/// ground.
bool Theme::systemIsDark() const {
  const QPalette palette = QApplication::palette();
  return palette.color(QPalette::WindowText).lightness() >
         palette.color(QPalette::Window).lightness();
}

void Theme::apply(ThemeMode mode) {
  m_mode = mode;
  m_dark = mode == ThemeMode::Dark || (mode == ThemeMode::System && m_systemDark);
  m_applying = true;
  QApplication::setStyle(QStyleFactory::create(QStringLiteral("Fusion")));
  QApplication::setPalette(paletteOf(colors()));
  QApplication::setFont(interfaceFont());
  qApp->setStyleSheet(styleSheet(colors()));
  m_applying = false;
  emit changed();
}

bool Theme::eventFilter(QObject* watched, QEvent* event) {
  if (event->type() == QEvent::ApplicationPaletteChange && watched == qApp && !m_applying) {
    m_systemDark = systemIsDark();
    if (m_mode == ThemeMode::System && m_systemDark != m_dark) apply(m_mode);
  }
  return QObject::eventFilter(watched, event);
}

QFont Theme::interfaceFont() {
  QFont font(QStringLiteral("DejaVu Sans"));
  font.setStyleHint(QFont::SansSerif);
  font.setPixelSize(kInterfacePixels);
  return font;
}

QFont Theme::titleFont() {
  QFont font = interfaceFont();
  font.setWeight(QFont::DemiBold);
  return font;
}

QFont Theme::monoFont(double zoom) {
  QFont font(QStringLiteral("DejaVu Sans Mono"));
  font.setStyleHint(QFont::Monospace);
  font.setFixedPitch(true);
  font.setPixelSize(std::max(6, static_cast<int>(std::lround(kMonoPixels * zoom))));
  return font;
}

const std::vector<QRgb>& Theme::cividis() {
  static const std::vector<QRgb> map =
      interpolate({0xff00204d, 0xff00306f, 0xff2a406c, 0xff48526b, 0xff5e626e, 0xff727374,
                   0xff878479, 0xff9e9677, 0xffb6a971, 0xffd0be67, 0xffead357, 0xffffea46});
  return map;
}

const std::vector<QRgb>& Theme::viridis() {
  static const std::vector<QRgb> map =
      interpolate({0xff440154, 0xff482173, 0xff433e85, 0xff38598c, 0xff2d708e, 0xff25858e,
                   0xff1e9b8a, 0xff2bb07f, 0xff51c56a, 0xff85d54a, 0xffc2df23, 0xfffde725});
  return map;
}

}  // namespace mb::ui
