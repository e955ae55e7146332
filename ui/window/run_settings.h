// What a run is asked to do, its editors, and how it is remembered.
#pragma once

#include <QWidget>

#include "engine/decoding/generator.h"

class QCheckBox;
class QDoubleSpinBox;
class QSettings;
class QSpinBox;
class QGridLayout;

namespace mb::ui {

class Choice;

struct RunSettings {
  GenerationSettings generation;
  std::size_t bytes = 400;  ///< to write with one press of Generate

  /// Exact speculation of at most 4 tokens that the drafter gives 0.4, temperature 0.8, top-k 40,
  /// seed 7. Top-β, which the paper has, soon repeats itself: it lets a drafter stand that always
  /// says what is most probable.
  static RunSettings defaults();
  void save(QSettings& settings) const;
  static RunSettings load(const QSettings& settings);
};

/// The editors. The frequent ones form a row for the tool bar, the others a grid for a drop-down;
/// on a narrow window the row joins the grid.
class RunSettingsEditor : public QObject {
  Q_OBJECT

 public:
  explicit RunSettingsEditor(QWidget* parent);

  RunSettings settings() const;
  /// As chosen, whether or not there is a drafter.
  RunSettings chosen() const;
  void setSettings(const RunSettings& settings);
  /// Without a drafter there is nothing to speculate with.
  void setHasDrafter(bool hasDrafter);

  /// Container of the frequent editors.
  QWidget* row() const { return m_row; }
  /// Container of the rest.
  QWidget* grid() const { return m_grid; }

 signals:
  void changed();

 private:
  void buildRow();
  void buildGrid();
  void addToRow(const QString& label, QWidget* editor);
  void addToGrid(const QString& label, QWidget* editor);
  QSpinBox* integer(int least, int most, const QString& name, const QString& meaning);
  QCheckBox* flag(const QString& name, const QString& meaning);
  QDoubleSpinBox* real(double least, double most, double step, const QString& name,
                       const QString& meaning);
  void updateEnabled();

  QWidget* m_row;
  QWidget* m_grid;
  Choice* m_speculation;
  QSpinBox* m_draftTokens;
  QDoubleSpinBox* m_temperature;
  QSpinBox* m_topK;
  QSpinBox* m_seed;
  QSpinBox* m_bytes;
  QSpinBox* m_beta;
  QDoubleSpinBox* m_confidence;
  QCheckBox* m_cutsDrafts;
  QCheckBox* m_healing;
  QDoubleSpinBox* m_topP;
  QDoubleSpinBox* m_minP;
  QDoubleSpinBox* m_penalty;
  bool m_hasDrafter = true;
};

}  // namespace mb::ui
