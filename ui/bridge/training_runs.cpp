#include "ui/bridge/training_runs.h"

#include <QDateTime>
#include <QFile>
#include <QJsonArray>
#include <QJsonDocument>
#include <QJsonObject>
#include <QStandardPaths>
#include <algorithm>
#include <vector>

#include "engine/training/trainer.h"

namespace mb::ui {

namespace {

/// A run of the bundled model takes 165 MB.
constexpr std::size_t kRunsKept = 3;
/// Enough for the last line of a log.
constexpr qint64 kLogTail = 4096;

QJsonObject readObject(const std::filesystem::path& name) {
  QFile file(QString::fromStdString(name.string()));
  if (!file.open(QIODevice::ReadOnly)) return {};
  return QJsonDocument::fromJson(file.readAll()).object();
}

/// The step of the last whole line.
std::uint64_t lastStep(const std::filesystem::path& log) {
  QFile file(QString::fromStdString(log.string()));
  if (!file.open(QIODevice::ReadOnly)) return 0;
  file.seek(std::max<qint64>(0, file.size() - kLogTail));
  const QList<QByteArray> lines = file.readAll().split('\n');
  if (lines.size() < 2) return 0;
  const QJsonObject last = QJsonDocument::fromJson(lines[lines.size() - 2]).object();
  return static_cast<std::uint64_t>(last.value("step").toDouble());
}

}  // namespace

std::filesystem::path TrainingRuns::standardFolder() {
  const QString data = QStandardPaths::writableLocation(QStandardPaths::AppDataLocation);
  return std::filesystem::path(data.toStdString()) / "training";
}

/// Oldest first.
std::vector<std::filesystem::path> TrainingRuns::folders() const {
  std::vector<std::filesystem::path> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(m_base, error))
    if (entry.is_directory(error)) found.push_back(entry.path());
  std::ranges::sort(found);
  return found;
}

std::filesystem::path TrainingRuns::newFolder() const {
  std::vector<std::filesystem::path> old = folders();
  std::error_code error;
  for (std::size_t i = 0; i + kRunsKept - 1 < old.size(); ++i)
    std::filesystem::remove_all(old[i], error);
  const QString name = QDateTime::currentDateTime().toString("yyyyMMdd-HHmmss-zzz");
  return m_base / name.toStdString();
}

std::optional<UnfinishedRun> TrainingRuns::unfinished() const {
  const std::vector<std::filesystem::path> all = folders();
  if (all.empty()) return std::nullopt;
  const std::filesystem::path& folder = all.back();
  const QJsonObject run = readObject(folder / "run.json");
  const QJsonArray files = run.value("files").toArray();
  UnfinishedRun found{
      .folder = folder,
      .text = QString::fromStdString(
          std::filesystem::path(files.at(0).toString().toStdString()).filename().string()),
      .step = lastStep(folder / "log.jsonl"),
      .steps =
          static_cast<std::uint64_t>(run.value("options").toObject().value("steps").toDouble())};
  const bool there = std::filesystem::exists(Trainer::newest(folder / "checkpoint"));
  return there && found.step < found.steps ? std::optional(found) : std::nullopt;
}

}  // namespace mb::ui
