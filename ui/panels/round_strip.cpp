#include <QMouseEvent>
#include <QPainter>
#include <QToolTip>
#include <QWheelEvent>
#include <algorithm>
#include <cmath>

#include "ui/panels/speculation_panel.h"

namespace mb::ui {

namespace {

constexpr double kColumn = 9;
constexpr double kColumnGap = 3;
constexpr double kMostCell = 14;
constexpr double kLeastCell = 2;
constexpr double kAxis = 18;
constexpr std::size_t kLeastRows = 12;

QString printable(ByteView bytes) {
  QString text = QString::fromUtf8(reinterpret_cast<const char*>(bytes.data()),
                                   static_cast<int>(bytes.size()));
  text.replace(u'\n', u'↵');
  return text.toHtmlEscaped().replace(u' ', u'·');
}

}  // namespace

RoundStrip::RoundStrip(Document& document, LinkedPosition& linked, const Theme& theme,
                       QWidget* parent)
    : QWidget(parent), m_document(document), m_linked(linked), m_theme(theme) {
  setMouseTracking(true);
  setAccessibleName(tr("Rounds of draft and verify"));
}

std::size_t RoundStrip::columns() const {
  return static_cast<std::size_t>(std::max(1.0, (width() + kColumnGap) / (kColumn + kColumnGap)));
}

std::size_t RoundStrip::firstShown() const {
  const std::size_t count = m_document.rounds().size();
  const std::size_t last = count - back();
  return last - std::min(last, columns());
}

std::size_t RoundStrip::back() const {
  const std::size_t count = m_document.rounds().size();
  return std::min(m_back, count - std::min(count, columns()));
}

std::vector<RoundStrip::Cell> RoundStrip::cellsOf(const RoundRecord& round) const {
  const Colors& colors = m_theme.colors();
  std::vector<Cell> cells;
  auto byte = static_cast<std::ptrdiff_t>(round.position);
  for (std::uint32_t i = 0; i < round.accepted; ++i) cells.push_back({colors.accepted.ink, byte++});
  for (std::uint32_t i = 0; i < round.corrected; ++i)
    cells.push_back({colors.corrected.ink, byte++});
  for (std::uint32_t i = 0; i < round.bonus; ++i) cells.push_back({colors.bonus.ink, byte++});
  for (std::uint32_t i = 0; i < round.ignored; ++i) cells.push_back({colors.untested, -1});
  return cells;
}

double RoundStrip::cellHeight() const {
  std::size_t rows = kLeastRows;
  const auto& rounds = m_document.rounds();
  for (std::size_t i = firstShown(); i < rounds.size(); ++i)
    rows = std::max<std::size_t>(rows, rounds[i].emitted() + rounds[i].ignored);
  return std::clamp((height() - kAxis) / static_cast<double>(rows), kLeastCell, kMostCell);
}

void RoundStrip::paintEvent(QPaintEvent*) {
  QPainter painter(this);
  const Colors& colors = m_theme.colors();
  const auto& rounds = m_document.rounds();
  const double cell = cellHeight();
  const double ground = height() - kAxis;
  double x = 0;
  for (std::size_t i = firstShown(); i < rounds.size() && x < width(); ++i) {
    double y = ground;
    for (const Cell& c : cellsOf(rounds[i])) {
      y -= cell;
      if (y < 0) break;
      const QRectF box(x, y, kColumn, std::max(1.0, cell - 1));
      painter.fillRect(box, c.color);
      if (c.byte >= 0 && m_linked.current() == static_cast<std::size_t>(c.byte)) {
        painter.setPen(QPen(colors.ink, 1.5));
        painter.drawRect(box.adjusted(-0.5, -0.5, 0.5, 0.5));
      }
    }
    x += kColumn + kColumnGap;
  }
  painter.setPen(colors.dim);
  painter.setFont(font());
  const QRectF axis(0, ground + 2, width(), kAxis - 2);
  painter.drawText(axis, Qt::AlignLeft | Qt::AlignVCenter, tr("round"));
  painter.drawText(axis, Qt::AlignRight | Qt::AlignVCenter,
                   back() > 0 ? tr("%1 newer →").arg(back()) : tr("newest →"));
}

const RoundRecord* RoundStrip::roundAt(QPointF position) const {
  const auto& rounds = m_document.rounds();
  if (position.x() < 0 || position.y() >= height() - kAxis) return nullptr;
  const std::size_t index =
      firstShown() + static_cast<std::size_t>(position.x() / (kColumn + kColumnGap));
  return index < rounds.size() ? &rounds[index] : nullptr;
}

QString RoundStrip::describe(const RoundRecord& round) const {
  QStringList tokens;
  for (const DraftToken& token : round.tokens) {
    tokens +=
        QStringLiteral("<tt>%1</tt>")
            .arg(printable(ByteView(round.draft).subspan(token.begin, token.end - token.begin)));
  }
  const auto milliseconds = [](double seconds) { return QString::number(seconds * 1e3, 'f', 2); };
  return tr("Round %1 · draft %2<br>%3 drafted = %4 accepted + %5 rejected + %6 never tested; "
            "%7 corrected, %8 bonus<br>draft %9 ms")
             .arg(round.index + 1)
             .arg(tokens.join(QStringLiteral(" | ")))
             .arg(round.drafted())
             .arg(round.accepted)
             .arg(round.rejected)
             .arg(round.ignored)
             .arg(round.corrected)
             .arg(round.bonus)
             .arg(milliseconds(round.times.draft)) +
         tr(" · verify %1 ms · correct %2 ms · roll back %3 ms")
             .arg(milliseconds(round.times.verify), milliseconds(round.times.correct),
                  milliseconds(round.times.rollback));
}

void RoundStrip::mouseMoveEvent(QMouseEvent* event) {
  const RoundRecord* round = roundAt(event->position());
  if (!round) {
    m_linked.hover(std::nullopt);
    return QToolTip::hideText();
  }
  const double above = height() - kAxis - event->position().y();
  const auto cells = cellsOf(*round);
  const auto cell = static_cast<std::size_t>(std::ceil(above / cellHeight()) - 1);
  const bool written = cell < cells.size() && cells[cell].byte >= 0;
  m_linked.hover(written ? std::optional(static_cast<std::size_t>(cells[cell].byte))
                         : std::nullopt);
  QToolTip::showText(event->globalPosition().toPoint(), describe(*round), this);
}

void RoundStrip::mousePressEvent(QMouseEvent*) {
  m_linked.select(m_linked.hovered());
}

void RoundStrip::wheelEvent(QWheelEvent* event) {
  const std::size_t count = m_document.rounds().size();
  const std::size_t most = count - std::min(count, columns());
  const bool back = event->angleDelta().y() > 0;
  m_back = back ? std::min(most, m_back + 3) : m_back - std::min<std::size_t>(m_back, 3);
  update();
  event->accept();
}

void RoundStrip::leaveEvent(QEvent*) {
  m_linked.hover(std::nullopt);
}

}  // namespace mb::ui
