// What to train, on what, where and for how long.
#pragma once

#include <QStringList>
#include <QWidget>
#include <optional>

#include "engine/training/training_plan.h"
#include "ui/bridge/messages.h"

class QHBoxLayout;
class QSpinBox;
class QToolButton;

namespace mb::ui {

class Choice;

class TrainForm : public QWidget {
  Q_OBJECT

 public:
  explicit TrainForm(QWidget* parent);

  /// Models that can be gone on with, and the processors there are.
  void setModels(const ModelsLoaded& models);
  void setFiles(const QStringList& files);
  const QStringList& files() const { return m_files; }
  /// Text and model, in words.
  QString summary() const;
  /// Everything but the run's folder.
  TrainingPlan plan() const;

 signals:
  void changed();

 private:
  void buildRows();
  void addTo(QHBoxLayout& row, const QString& name, QWidget* editor);
  void fillModels();
  void fillDevices(const std::vector<DeviceEntry>& devices);
  void chooseFiles();
  void suggestRate();

  QToolButton* m_text;
  Choice* m_model;
  Choice* m_device;
  QSpinBox* m_budget;
  Choice* m_unit;
  Choice* m_rate;
  QStringList m_files;
  std::vector<DescribedModel> m_models;  ///< that are open
  std::vector<DeviceEntry> m_devices;
};

}  // namespace mb::ui
