// The thread that owns the engine.
#pragma once

#include <QThread>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>

#include "engine/decoding/subword_drafter.h"
#include "engine/error.h"
#include "engine/session/session.h"
#include "ui/bridge/messages.h"

namespace mb::ui {

/// Models on the device that was asked for, or on the CPU instead.
struct OpenedModels {
  std::shared_ptr<const Model> verifier;
  std::shared_ptr<SubwordDrafter> drafter;  ///< or null
  DeviceKind device = DeviceKind::Cpu;
  int cudaDevice = 0;
  std::string reason;   ///< why this device
  bool gaveUp = false;  ///< the one asked for failed
};

/// Throws FileError, FormatError, RequestError, DeviceError or Stopped.
using OpenModels = std::function<OpenedModels(const LoadModels&, std::stop_token)>;
OpenedModels openModels(const LoadModels& command, std::stop_token stop);

/// Commands go in through post(), results come out through take(); both are cheap and never wait
/// for the engine. No Qt signals cross the threads. Between commands the worker brings scores up to
/// date by itself, and then serves observations; any new command interrupts that.
class EngineWorker : public QThread {
 public:
  explicit EngineWorker(OpenModels open = openModels, QObject* parent = nullptr);
  /// Stops whatever runs and waits for the thread.
  ~EngineWorker() override;

  /// Queues a command. Editing, generating and loading interrupt the work in progress and take
  /// back queued runs and timings, which end with their events; but edits let a load finish.
  void post(Command command);
  /// Interrupts loading, generating and timing, and takes queued ones back. Returns at once; each
  /// of them still ends with its event.
  void stop();
  /// What happened since the last call.
  Batch take();

 protected:
  void run() override;

 private:
  class Listener;

  void takeBack(bool loadsToo);
  std::optional<Command> waitForWork();
  bool hasBackgroundWork() const;
  void perform(const LoadModels& command, std::stop_token stop);
  void perform(const EditText& command, std::stop_token stop);
  void perform(const Generate& command, std::stop_token stop);
  void perform(const SetTaps& command, std::stop_token stop);
  void perform(const Observe& command, std::stop_token stop);
  void perform(const TimePlain& command, std::stop_token stop);
  ModelsLoaded describe(const OpenedModels& models) const;
  void moveToCpu(const DeviceError& error, std::stop_token stop);
  /// Does work on the session; when its device fails, moves to the CPU and does it again there.
  template <class Work>
  void onWorkingDevice(std::stop_token stop, const Work& work);
  void workInBackground(std::stop_token stop);
  void score(std::stop_token stop);
  void observe(std::stop_token stop);
  void publish(Event event);
  void setActivity(std::optional<Activity> activity);

  // Shared, guarded by m_mutex.
  mutable std::mutex m_mutex;
  std::condition_variable m_wake;
  std::deque<Command> m_commands;
  Batch m_batch;
  std::size_t m_waitingTaps = 0;  ///< bytes whose taps are in the batch
  std::stop_source m_stop;        ///< of the work in progress
  bool m_inBackground = false;    ///< that work is nobody's command
  bool m_loading = false;         ///< that work reads models
  bool m_ending = false;

  // Of the worker's own thread.
  OpenModels m_open;
  LoadModels m_loaded;  ///< what the session's models came from
  OpenedModels m_models;
  std::unique_ptr<Session> m_session;
  std::chrono::steady_clock::time_point m_memoryRead;
  TapRequest m_taps;
  std::optional<Observe> m_observe;
  bool m_hasText = false;  ///< the session follows the window's text
  bool m_upToDate = true;  ///< scores cover the text, or failed to
};

}  // namespace mb::ui
