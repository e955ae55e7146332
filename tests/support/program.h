// The command line program run from outside.
#pragma once

#include <QProcess>
#include <QStringList>
#include <filesystem>
#include <limits>

namespace mb::test {

constexpr int kPatience = 300'000;  // milliseconds; only a hang takes so long
constexpr int kFailed = 1;
constexpr int kBadArguments = 2;
constexpr int kInterrupted = 130;

struct Result {
  int status = -1;
  QByteArray out;
  QByteArray err;
  /// Standard output without the line end that follows the text.
  QByteArray text() const { return out.chopped(out.endsWith('\n') ? 1 : 0); }
};

inline Result resultOf(QProcess& process) {
  Result result;
  if (!process.waitForFinished(kPatience)) process.kill();
  if (process.exitStatus() == QProcess::NormalExit) result.status = process.exitCode();
  result.out = process.readAllStandardOutput();
  result.err = process.readAllStandardError();
  return result;
}

inline Result run(const QStringList& arguments) {
  QProcess process;
  process.start(MB_TEST_PROGRAM, arguments);
  return resultOf(process);
}

inline bool isOneLine(const QByteArray& text) {
  return text.size() > 1 && text.endsWith('\n') && text.count('\n') == 1;
}

inline QString path(const std::filesystem::path& file) {
  return QString::fromStdString(file.string());
}

/// The figure behind a name in lines of "name value"; not a number where there is none.
inline double figure(const QByteArray& lines, const QByteArray& name) {
  for (const QByteArray& line : lines.split('\n'))
    if (line.startsWith(name + ' ')) return line.mid(name.size() + 1).toDouble();
  return std::numeric_limits<double>::quiet_NaN();
}

}  // namespace mb::test
