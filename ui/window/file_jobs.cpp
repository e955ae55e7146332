#include "ui/window/file_jobs.h"

#include <QSaveFile>

namespace mb::ui {

FileJobs::FileJobs(QObject* parent) : QObject(parent) {
  m_pool.setMaxThreadCount(1);
}

FileJobs::~FileJobs() {
  m_pool.waitForDone();
}

void FileJobs::write(const QString& path, std::function<QByteArray()> content) {
  m_pool.start([this, path, content = std::move(content)] {
    const QByteArray bytes = content();
    QSaveFile file(path);
    if (file.open(QIODevice::WriteOnly) && file.write(bytes) == bytes.size() && file.commit())
      emit wrote(path);
    else
      emit failed(tr("%1 cannot be written: %2").arg(path, file.errorString()));
  });
}

}  // namespace mb::ui
