#include "ui/window/dialogs.h"

#include <QAction>
#include <QDialogButtonBox>
#include <QHeaderView>
#include <QLocale>
#include <QTableWidget>
#include <QVBoxLayout>

namespace mb::ui {

namespace {

using Rows = QList<QStringList>;

QTableWidget* makeTable(const QStringList& header, const Rows& rows, QWidget* parent) {
  auto* table =
      new QTableWidget(static_cast<int>(rows.size()), static_cast<int>(header.size()), parent);
  table->setHorizontalHeaderLabels(header);
  table->verticalHeader()->hide();
  table->setEditTriggers(QAbstractItemView::NoEditTriggers);
  table->setSelectionBehavior(QAbstractItemView::SelectRows);
  table->setShowGrid(false);
  table->setWordWrap(true);
  for (int row = 0; row < rows.size(); ++row)
    for (int column = 0; column < header.size(); ++column)
      table->setItem(row, column, new QTableWidgetItem(rows[row].value(column)));
  table->horizontalHeader()->setDefaultAlignment(Qt::AlignLeft | Qt::AlignVCenter);
  table->horizontalHeader()->setSectionResizeMode(QHeaderView::ResizeToContents);
  table->horizontalHeader()->setStretchLastSection(true);
  table->resizeRowsToContents();
  return table;
}

void finish(QDialog* dialog, QWidget* content, QSize size) {
  auto* buttons = new QDialogButtonBox(QDialogButtonBox::Close, dialog);
  QObject::connect(buttons, &QDialogButtonBox::rejected, dialog, &QDialog::reject);
  auto* column = new QVBoxLayout(dialog);
  column->addWidget(content, 1);
  column->addWidget(buttons);
  dialog->resize(size);
}

QString bytes(std::size_t count) {
  return QLocale().formattedDataSize(static_cast<qint64>(count), 1,
                                     QLocale::DataSizeTraditionalFormat);
}

QStringList column(const DescribedModel& model) {
  const ModelConfig& c = model.config;
  const auto number = [](std::size_t n) { return QLocale().toString(static_cast<qulonglong>(n)); };
  QStringList files;
  for (const auto& file : model.info.files)
    files += QString::fromStdString(file.filename().string());
  return {QString::fromStdString(model.info.name),
          c.isByteLevel() ? DetailsDialog::tr("byte-level Mamba-1")
                          : DetailsDialog::tr("subword Mamba-1"),
          number(c.parameterCount()),
          number(c.vocabSize),
          number(c.dModel),
          number(c.layers),
          number(c.dInner),
          number(c.dState),
          number(c.dConv),
          number(c.dtRank),
          c.norm == NormKind::Rms ? DetailsDialog::tr("RMSNorm") : DetailsDialog::tr("LayerNorm"),
          c.tiedHead ? DetailsDialog::tr("tied to the embedding") : DetailsDialog::tr("separate"),
          DetailsDialog::tr("%1 in the file, %2 in memory")
              .arg(QString::fromStdString(model.info.storedType),
                   QString::fromStdString(nameOf(model.info.precision))),
          bytes(model.info.weightBytes),
          DetailsDialog::tr("%1, whatever the length of the text")
              .arg(bytes(StateShape(model.config).bytes())),
          QString::fromStdString(model.info.device),
          files.join(QStringLiteral(", ")),
          QString::fromStdString(model.info.folder.string())};
}

}  // namespace

DetailsDialog::DetailsDialog(const ModelsLoaded& models, QWidget* parent) : QDialog(parent) {
  setWindowTitle(tr("Model details"));
  const QStringList names = {tr("name"),    tr("kind"),        tr("parameters"), tr("vocabulary"),
                             tr("d_model"), tr("layers"),      tr("d_inner"),    tr("d_state"),
                             tr("d_conv"),  tr("dt_rank"),     tr("norm"),       tr("head"),
                             tr("weights"), tr("read a step"), tr("state"),      tr("device"),
                             tr("files"),   tr("folder")};
  const QStringList verifier = column(models.verifier);
  const QStringList drafter = models.drafter ? column(*models.drafter) : QStringList();
  Rows rows;
  for (int i = 0; i < names.size(); ++i)
    rows.append({names[i], verifier.value(i), drafter.value(i)});
  QTableWidget* table = makeTable({QString(), tr("verifier"), tr("drafter")}, rows, this);
  table->setAccessibleName(tr("Details of the open models"));
  finish(this, table, {820, 640});
}

ShortcutsDialog::ShortcutsDialog(const QList<QAction*>& actions, QWidget* parent)
    : QDialog(parent) {
  setWindowTitle(tr("Keyboard shortcuts"));
  Rows rows;
  for (const QAction* action : actions) {
    if (action->shortcut().isEmpty()) continue;
    QString name = action->text();
    rows.append({name.remove(u'&').remove(QStringLiteral("…")),
                 action->shortcut().toString(QKeySequence::NativeText)});
  }
  rows.append({tr("Zoom the text"), tr("Ctrl+wheel")});
  rows.append({tr("Zoom the plots; pan them"), tr("wheel; Shift+wheel or drag")});
  rows.append({tr("Fit the plots"), tr("double click")});
  QTableWidget* table = makeTable({tr("Action"), tr("Keys")}, rows, this);
  table->setAccessibleName(tr("Actions and their keys"));
  finish(this, table, {460, 620});
}

}  // namespace mb::ui
