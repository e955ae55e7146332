#include "ui/panels/next_byte_panel.h"

#include <QListView>
#include <QPainter>
#include <QStyledItemDelegate>
#include <algorithm>
#include <cmath>

#include "ui/text/utf8.h"
#include "ui/widgets/byte_names.h"
#include "ui/widgets/title_bar.h"

namespace mb::ui {

namespace {

constexpr int kRowHeight = 22;
constexpr int kLeastRowHeight = 15;
constexpr std::size_t kContextBytes = 24;

/// A candidate as a bar: glyph, hex, probability.
class CandidateDelegate : public QStyledItemDelegate {
 public:
  CandidateDelegate(const Theme& theme, QObject* parent)
      : QStyledItemDelegate(parent), m_theme(theme) {}

  /// Rows share the height of the list, within limits.
  QSize sizeHint(const QStyleOptionViewItem& option, const QModelIndex& index) const override {
    const auto* view = qobject_cast<const QAbstractItemView*>(option.widget);
    const int rows = std::max(1, index.model()->rowCount());
    const int room = view ? (view->viewport()->height() - 2) / rows : kRowHeight;
    return {200, std::clamp(room, kLeastRowHeight, kRowHeight)};
  }

  void paint(QPainter* painter, const QStyleOptionViewItem& option,
             const QModelIndex& index) const override {
    const Colors& colors = m_theme.colors();
    const bool rest = index.data(CandidateModel::RestRole).toBool();
    const bool taken = index.data(CandidateModel::TakenRole).toBool();
    const double probability = index.data(CandidateModel::ProbabilityRole).toDouble();
    const QRect row = option.rect.adjusted(8, 0, -8, 0);
    if (option.state & QStyle::State_MouseOver || option.state & QStyle::State_Selected) {
      painter->fillRect(option.rect, colors.field);
    }
    const Byte byte = static_cast<Byte>(index.data(CandidateModel::ByteRole).toInt());
    const double scale = std::min(1.0, row.height() / static_cast<double>(kRowHeight));
    painter->setFont(Theme::monoFont(0.95 * scale));
    painter->setPen(rest ? colors.dim : colors.ink);
    painter->drawText(QRect(row.left(), row.top(), 18, row.height()), Qt::AlignCenter,
                      rest ? QStringLiteral("…") : byteGlyph(byte));
    painter->setFont(Theme::monoFont(0.75 * std::sqrt(scale)));
    painter->setPen(colors.dim);
    painter->drawText(QRect(row.left() + 22, row.top(), 34, row.height()), Qt::AlignVCenter,
                      rest ? CandidateDelegate::tr("rest") : byteHex(byte));
    const int inset = row.height() > kLeastRowHeight + 3 ? 4 : 2;
    const QRect track(row.left() + 58, row.top() + inset, std::max(10, row.width() - 58 - 66),
                      row.height() - 2 * inset);
    painter->setRenderHint(QPainter::Antialiasing);
    painter->setPen(Qt::NoPen);
    painter->setBrush(colors.field);
    painter->drawRoundedRect(track, 4, 4);
    QRectF bar(track);
    bar.setWidth(std::max(2.0, track.width() * probability));
    const bool main = taken || (index.row() == 0 && index.data(CandidateModel::EndRole).toBool());
    painter->setBrush(rest ? colors.untested : (main ? colors.accent : colors.bar));
    painter->drawRoundedRect(bar, std::min(4.0, bar.width() / 2), 4);
    painter->setRenderHint(QPainter::Antialiasing, false);
    painter->setFont(Theme::monoFont(0.78 * std::sqrt(scale)));
    painter->setPen(taken ? colors.ink : colors.dim);
    painter->drawText(row, Qt::AlignRight | Qt::AlignVCenter,
                      QStringLiteral("%1 %").arg(probability * 100, 0, 'f', 1));
  }

 private:
  const Theme& m_theme;
};

}  // namespace

void CandidateModel::setPrediction(const Prediction& prediction, int taken) {
  if (!m_filled) {
    beginInsertRows({}, 0, static_cast<int>(kCandidates));
    m_filled = true;
    m_prediction = prediction;
    m_taken = taken;
    return endInsertRows();
  }
  m_prediction = prediction;
  m_taken = taken;
  emit dataChanged(index(0), index(static_cast<int>(kCandidates)));
}

void CandidateModel::clear() {
  if (!m_filled) return;
  beginRemoveRows({}, 0, static_cast<int>(kCandidates));
  m_filled = false;
  endRemoveRows();
}

int CandidateModel::rowCount(const QModelIndex& parent) const {
  return parent.isValid() || !m_filled ? 0 : static_cast<int>(kCandidates) + 1;
}

float CandidateModel::rest() const {
  float sum = 0;
  for (const Candidate& candidate : m_prediction.candidates) sum += candidate.probability;
  return std::max(0.0f, 1 - sum);
}

QVariant CandidateModel::data(const QModelIndex& index, int role) const {
  if (!index.isValid() || index.row() >= rowCount()) return {};
  const bool others = isRest(index.row());
  const Candidate candidate = others
                                  ? Candidate{0, rest()}
                                  : m_prediction.candidates[static_cast<std::size_t>(index.row())];
  switch (role) {
    case ByteRole: return candidate.byte;
    case ProbabilityRole: return candidate.probability;
    case TakenRole: return !others && candidate.byte == m_taken;
    case RestRole: return others;
    case EndRole: return m_taken < 0;
    case Qt::DisplayRole:
    case Qt::AccessibleTextRole:
      return tr("%1, %2 percent")
          .arg(others ? tr("all other bytes") : byteName(candidate.byte))
          .arg(static_cast<double>(candidate.probability) * 100, 0, 'f', 1);
    case Qt::ToolTipRole:
      return others ? tr("Probability of all 246 other bytes together")
                    : tr("Click to go on from here with %1").arg(byteName(candidate.byte));
    default: return {};
  }
}

Qt::ItemFlags CandidateModel::flags(const QModelIndex& index) const {
  if (!index.isValid()) return {};
  const Qt::ItemFlags common = Qt::ItemIsEnabled | Qt::ItemNeverHasChildren;
  return isRest(index.row()) ? common : common | Qt::ItemIsSelectable;
}

NextBytePanel::NextBytePanel(Document& document, LinkedPosition& linked, const Theme& theme,
                             QWidget* parent)
    : Panel(QStringLiteral("next-byte"), tr("Next byte"), parent),
      m_document(document),
      m_linked(linked),
      m_model(new CandidateModel(this)),
      m_list(new QListView(this)) {
  m_list->setModel(m_model);
  m_list->setItemDelegate(new CandidateDelegate(theme, m_list));
  m_list->setMouseTracking(true);
  m_list->setFrameShape(QFrame::NoFrame);
  m_list->setUniformItemSizes(true);
  m_list->setHorizontalScrollBarPolicy(Qt::ScrollBarAlwaysOff);
  m_list->setStyleSheet(QStringLiteral("QListView { border: none; padding: 6px 0; }"));
  m_list->setAccessibleName(tr("Candidates for the next byte"));
  m_list->setMinimumHeight(4 * kRowHeight);
  m_list->setResizeMode(QListView::Adjust);
  connect(m_list, &QListView::clicked, this, &NextBytePanel::choose);
  connect(m_list, &QListView::activated, this, &NextBytePanel::choose);
  for (const auto signal : {&Document::nextChanged, &Document::roundsChanged})
    connect(&document, signal, this, &Panel::markDirty);
  connect(&document, &Document::scoresChanged, this, &Panel::markDirty);
  connect(&document, &Document::textChanged, this, &Panel::markDirty);
  connect(&linked, &LinkedPosition::changed, this, &Panel::markDirty);
  connect(&theme, &Theme::changed, m_list->viewport(), qOverload<>(&QWidget::update));
  setContent(m_list, tr("Type a prompt: the bytes that may follow appear here"));
}

/// The end of the text before a position, as it reads.
QString NextBytePanel::context(std::size_t position) const {
  std::size_t first = position - std::min(position, kContextBytes);
  while (first < position && (m_document.byte(first) & 0xc0) == 0x80) ++first;
  const Bytes bytes = m_document.bytes(first, position);
  const QString text = QString::fromUtf8(reinterpret_cast<const char*>(bytes.data()),
                                         static_cast<int>(bytes.size()));
  return (first > 0 ? QStringLiteral("…") : QString()) + text.simplified();
}

void NextBytePanel::refresh() {
  const std::optional<std::size_t> byte = m_linked.current();
  m_position = m_document.size();
  if (byte && *byte < m_document.size() && m_document.isScored(*byte)) {
    m_position = *byte;
    m_model->setPrediction(m_document.record(*byte).prediction, m_document.byte(*byte));
  } else if (m_document.next()) {
    m_model->setPrediction(m_document.next()->prediction, -1);
  } else if (!m_document.isEmpty() && m_document.isScored(m_document.size() - 1)) {
    m_position = m_document.size() - 1;  // while text flows: the newest byte
    m_model->setPrediction(m_document.record(m_position).prediction, m_document.byte(m_position));
  } else {
    m_model->clear();
  }
  setEmpty(m_model->rowCount() == 0);
  titleBar().setNote(m_model->rowCount() == 0
                         ? QString()
                         : tr("after “%1” · hover any byte · click to take another path")
                               .arg(context(m_position)));
}

void NextBytePanel::choose(const QModelIndex& index) {
  if (!index.isValid() || index.data(CandidateModel::RestRole).toBool()) return;
  const int byte = index.data(CandidateModel::ByteRole).toInt();
  emit candidateChosen(m_position, static_cast<Byte>(byte));
}

}  // namespace mb::ui
