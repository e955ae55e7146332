// What the model expected at a byte, or expects next; a click takes another path.
#pragma once

#include <QAbstractListModel>

#include "ui/model/document.h"
#include "ui/model/linked_position.h"
#include "ui/panels/panel.h"
#include "ui/theme/theme.h"

class QListView;

namespace mb::ui {

/// The candidates of one position, and what is left for all other bytes.
class CandidateModel : public QAbstractListModel {
  Q_OBJECT

 public:
  enum Role { ByteRole = Qt::UserRole, ProbabilityRole, TakenRole, RestRole, EndRole };

  using QAbstractListModel::QAbstractListModel;

  /// `taken` is the byte that stands at the position, or -1 for the end of the text.
  void setPrediction(const Prediction& prediction, int taken);
  void clear();
  const Prediction& prediction() const { return m_prediction; }

  int rowCount(const QModelIndex& parent = {}) const override;
  QVariant data(const QModelIndex& index, int role) const override;
  Qt::ItemFlags flags(const QModelIndex& index) const override;

 private:
  bool isRest(int row) const { return row == static_cast<int>(kCandidates); }
  float rest() const;

  Prediction m_prediction;
  int m_taken = -1;
  bool m_filled = false;
};

class NextBytePanel : public Panel {
  Q_OBJECT

 public:
  NextBytePanel(Document& document, LinkedPosition& linked, const Theme& theme, QWidget* parent);

  /// Position whose candidates are shown; the document's size for what comes next.
  std::size_t position() const { return m_position; }
  CandidateModel& candidates() { return *m_model; }
  QListView& list() { return *m_list; }

 signals:
  /// The user wants `byte` at `position` instead of what follows there now.
  void candidateChosen(std::size_t position, mb::Byte byte);

 protected:
  void refresh() override;

 private:
  QString context(std::size_t position) const;
  void choose(const QModelIndex& index);

  Document& m_document;
  LinkedPosition& m_linked;
  CandidateModel* m_model;
  QListView* m_list;
  std::size_t m_position = 0;
};

}  // namespace mb::ui
