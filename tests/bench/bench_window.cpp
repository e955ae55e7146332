// How the window bears a long text, how fast it follows an edit, and how fast a run stops. Prints;
// asserts nothing.
#include <QApplication>
#include <QElapsedTimer>
#include <QEventLoop>
#include <QTimer>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "engine/resources.h"
#include "kernels/memory.h"
#include "tests/support/playground.h"

namespace {

using namespace mb;
using namespace mb::test;

double residentMegabytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmRSS:")) return std::stod(line.substr(6)) / 1024;
  return 0;
}

/// How long the window's thread works on each event, those inside others not counted.
class TimedApplication : public QApplication {
 public:
  using QApplication::QApplication;

  bool notify(QObject* receiver, QEvent* event) override {
    if (m_depth > 0) return QApplication::notify(receiver, event);
    ++m_depth;
    QElapsedTimer clock;
    clock.start();
    const bool result = QApplication::notify(receiver, event);
    m_times.push_back(static_cast<double>(clock.nsecsElapsed()) * 1e-6);
    --m_depth;
    return result;
  }

  void clear() { m_times.clear(); }
  /// Milliseconds.
  double total() const { return std::accumulate(m_times.begin(), m_times.end(), 0.0); }
  /// Milliseconds; only events that did something noticeable count as frames.
  double percentile(double share) const {
    std::vector<double> frames;
    for (const double time : m_times)
      if (time > 0.5) frames.push_back(time);
    if (frames.empty()) return 0;
    std::ranges::sort(frames);
    return frames[static_cast<std::size_t>(share * static_cast<double>(frames.size() - 1))];
  }

 private:
  int m_depth = 0;
  std::vector<double> m_times;
};

/// In an event loop that sleeps, as the program's does.
void waitFor(const std::function<bool()>& condition) {
  QEventLoop loop;
  QTimer timer;
  QObject::connect(&timer, &QTimer::timeout, &loop, [&] {
    if (condition()) loop.quit();
  });
  timer.start(5);
  loop.exec();
}

void writeLongText(Playground& playground, TimedApplication& busy, std::size_t bytes) {
  std::printf("%9s %9s %9s %12s %12s %12s\n", "bytes", "MB", "bytes/s", "frame p50/ms", "p95/ms",
              "GUI share");
  constexpr int kSteps = 5;
  for (int step = 1; step <= kSteps; ++step) {
    busy.clear();
    QElapsedTimer clock;
    clock.start();
    const std::size_t before = playground.document().size();
    playground.window.runs().generateBytes(bytes / kSteps);
    waitFor([&] { return playground.window.runs().state() == ui::RunState::Idle; });
    const double seconds = static_cast<double>(clock.nsecsElapsed()) * 1e-9;
    const std::size_t written = playground.document().size() - before;
    std::printf("%9zu %9.0f %9.0f %12.1f %12.1f %11.1f%%\n", playground.document().size(),
                residentMegabytes(), static_cast<double>(written) / seconds, busy.percentile(0.5),
                busy.percentile(0.95), busy.total() / seconds / 10);
    std::fflush(stdout);
  }
}

/// Replaces one byte some way before the end; milliseconds to the first new scores and to the last.
std::pair<double, double> editBefore(Playground& playground, std::size_t tail, Byte byte) {
  ui::Document& document = playground.document();
  QElapsedTimer clock;
  double first = -1;
  const auto scored = QObject::connect(&document, &ui::Document::scoresChanged, &document,
                                       [&](std::size_t, std::size_t) {
                                         if (first < 0)
                                           first = static_cast<double>(clock.nsecsElapsed()) * 1e-6;
                                       });
  clock.start();
  document.replace(document.size() - tail, 1, {&byte, 1});
  waitFor([&] { return document.scoredTo() == document.size(); });
  const double all = static_cast<double>(clock.nsecsElapsed()) * 1e-6;
  QObject::disconnect(scored);
  return {first, all};
}

constexpr int kSamples = 9;

void edit(Playground& playground) {
  constexpr std::size_t kTail = 2048;
  std::vector<double> first, all;
  for (int i = 0; i < kSamples; ++i) {
    const auto [began, ended] = editBefore(playground, kTail, static_cast<Byte>('a' + i));
    first.push_back(began);
    all.push_back(ended);
  }
  std::ranges::sort(first);
  std::ranges::sort(all);
  std::printf(
      "edit 2 KB before the end: first scores after %.0f ms (worst %.0f), all after %.0f ms "
      "(worst %.0f), %d edits\n",
      first[kSamples / 2], first.back(), all[kSamples / 2], all.back(), kSamples);
}

/// From a click on Stop in the middle of a run until nothing runs.
void stop(Playground& playground) {
  constexpr std::size_t kEndless = 50'000'000;
  std::vector<double> milliseconds;
  for (int i = 0; i < kSamples; ++i) {
    const std::size_t before = playground.document().size();
    playground.window.runs().generateBytes(kEndless);
    waitFor([&] { return playground.document().size() > before + 300; });
    QElapsedTimer clock;
    clock.start();
    playground.click("Stop");
    waitFor([&] { return playground.isIdle(); });
    milliseconds.push_back(static_cast<double>(clock.nsecsElapsed()) * 1e-6);
  }
  std::ranges::sort(milliseconds);
  std::printf("stopped after %.0f ms (worst %.0f), %d runs\n", milliseconds[kSamples / 2],
              milliseconds.back(), kSamples);
}

}  // namespace

int main(int argc, char** argv) {
  keepLargeBlocksApart();
  TimedApplication application(argc, argv);
  const std::size_t bytes = argc > 1 ? std::stoul(argv[1]) : 100'000;
  Memory memory;
  Playground playground(memory);
  const std::string prompt = "It was a dark and stormy night; ";
  playground.document().setText({reinterpret_cast<const Byte*>(prompt.data()), prompt.size()});
  playground.open(findResource("models/books"), findResource("models/books-draft"));
  waitFor([&] { return playground.window.runs().canRun(); });
  std::printf("%s\n", playground.window.models().models()->verifier.info.device.c_str());
  writeLongText(playground, application, bytes);
  edit(playground);
  stop(playground);
  return 0;
}
