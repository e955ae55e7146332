// Files written away from the window's thread.
#pragma once

#include <QByteArray>
#include <QObject>
#include <QThreadPool>
#include <functional>

namespace mb::ui {

/// One file after the other, in the order they were asked for. Destruction waits for the last.
class FileJobs : public QObject {
  Q_OBJECT

 public:
  explicit FileJobs(QObject* parent = nullptr);
  ~FileJobs() override;

  /// Calls `content` in another thread and writes what it returns, whole or not at all.
  void write(const QString& path, std::function<QByteArray()> content);

 signals:
  void wrote(const QString& path);
  void failed(const QString& problem);

 private:
  QThreadPool m_pool;
};

}  // namespace mb::ui
