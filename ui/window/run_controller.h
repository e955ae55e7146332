// Generate, pause, step, stop: what runs, how much is left, and how fast it goes.
#pragma once

#include <QElapsedTimer>
#include <QObject>

#include "ui/bridge/engine_link.h"
#include "ui/model/document.h"
#include "ui/panels/speculation_panel.h"
#include "ui/window/run_settings.h"

namespace mb::ui {

enum class RunState { Idle, Running, Paused };

class RunController : public QObject {
  Q_OBJECT

 public:
  RunController(Document& document, EngineLink& link, RunSettingsEditor& settings,
                SpeculationPanel& speculation, QObject* parent = nullptr);

  RunState state() const { return m_state; }
  bool canRun() const { return m_ready && !m_document.isEmpty(); }
  /// Bytes still to write when paused or running.
  std::size_t remaining() const { return m_remaining; }

  /// Starts a run, or goes on with a paused one.
  void generate();
  void generateBytes(std::size_t count);
  /// Stops, but keeps what is left to write.
  void pause();
  /// Writes one byte.
  void step();
  void stop();
  /// Drops the text behind `position` and goes on from there.
  void continueFrom(std::size_t position);
  /// Puts `byte` at `position` in place of everything from there on, and goes on.
  void choose(std::size_t position, Byte byte);
  /// Times the bytes of this run with and without the drafter, the newest of them when there are
  /// many.
  void compareWithPlain(std::size_t mostBytes);

  /// Bytes a second of the run in progress, or of the last one; 0 before the first.
  double bytesPerSecond() const;
  /// How many times as fast as plain decoding; 0 when not measured.
  double timesPlain() const { return m_comparison.ratio(); }
  const RunFinished& lastRun() const { return m_last; }

 signals:
  void stateChanged();
  void figuresChanged();
  void failed(const QString& problem);

 private:
  void start(std::size_t count, bool fresh);
  void finish(const RunFinished& run);
  void setState(RunState state);
  void setReady();

  Document& m_document;
  EngineLink& m_link;
  RunSettingsEditor& m_settings;
  SpeculationPanel& m_speculation;
  RunState m_state = RunState::Idle;
  bool m_ready = false;
  bool m_pausing = false;
  std::uint64_t m_run = 0;  ///< id of the run in progress; what earlier ones report is dropped
  GenerationSettings m_generation;  ///< of that run
  std::size_t m_remaining = 0;
  std::size_t m_startSize = 0;
  QElapsedTimer m_clock;
  RunFinished m_last;
  PlainComparison m_comparison;
};

}  // namespace mb::ui
