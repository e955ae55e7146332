// The GUI's end of the engine: hands commands over, and brings what comes back into the models at a
// steady rate.
#pragma once

#include <QObject>
#include <QTimer>
#include <memory>

#include "ui/bridge/messages.h"
#include "ui/model/document.h"
#include "ui/model/trace_store.h"

namespace mb::ui {

class EngineWorker;

class EngineLink : public QObject {
  Q_OBJECT

 public:
  /// Follows the document's edits from now on.
  EngineLink(Document& document, TraceStore& traces, QObject* parent = nullptr);
  ~EngineLink() override;

  void load(const std::filesystem::path& verifier, const std::filesystem::path& drafter,
            const DeviceOptions& device);
  void generate(std::uint64_t run, std::size_t count, const GenerationSettings& settings);
  /// Ends loading, generating and timing at once.
  void stop();
  void setTaps(const TapRequest& request);
  void observe(std::size_t first, std::size_t last);
  void timePlain(const TimePlain& command);

  const std::optional<Activity>& activity() const { return m_activity; }
  std::size_t snapshots() const { return m_snapshots; }
  const std::optional<DeviceMemory>& deviceMemory() const { return m_deviceMemory; }

 signals:
  void modelsLoaded(const mb::ui::ModelsLoaded& models);
  void deviceLost(const mb::ui::DeviceLost& lost);
  /// The engine has new models and the text; it can generate.
  void ready();
  /// `problem` is empty when the task was stopped on purpose.
  void taskFailed(mb::ui::Task task, const QString& problem);
  void runFinished(const mb::ui::RunFinished& run);
  void plainTimed(const mb::ui::PlainTimed& timed);
  /// After every look at the engine, with or without news: the time to repaint.
  void ticked();

 private:
  void post(Command command);
  void tick();
  void apply(const Batch& batch);
  void announce(const Event& event);

  Document& m_document;
  TraceStore& m_traces;
  std::unique_ptr<EngineWorker> m_worker;
  QTimer m_timer;
  int m_quietTicks = 0;
  int m_cost = 0;  ///< milliseconds that the last look and its repaints took
  std::optional<Activity> m_activity;
  std::size_t m_snapshots = 0;
  std::optional<DeviceMemory> m_deviceMemory;
};

}  // namespace mb::ui
