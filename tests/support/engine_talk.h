// The window's end of an engine's thread, without a window: commands out, batches in.
#pragma once

#include <QTest>
#include <optional>
#include <vector>

#include "tests/support/recorded_run.h"
#include "tests/support/test_models.h"
#include "ui/bridge/engine_worker.h"

/// QTRY_VERIFY that listens first.
#define TRY(talk, condition) QTRY_VERIFY_WITH_TIMEOUT((talk).listen() && (condition), 60'000)

namespace mb::test {

/// Keeps everything the worker has said, as a document would: what belongs to another revision than
/// the newest is dropped.
class EngineTalk {
 public:
  explicit EngineTalk(ui::OpenModels open = ui::openModels) : m_worker(std::move(open)) {
    m_worker.start();
  }

  ui::EngineWorker& worker() { return m_worker; }

  /// Takes what is new. True, for use in QTRY_VERIFY.
  bool listen() {
    const ui::Batch batch = m_worker.take();
    activity = batch.activity;
    snapshots = batch.snapshots;
    events.insert(events.end(), batch.events.begin(), batch.events.end());
    for (const ui::ScoredBytes& bytes : batch.bytes) reported += bytes.records.size();
    if (batch.revision != revision) return true;
    for (const ui::ScoredBytes& bytes : batch.bytes) heard.bytesScored(bytes.first, bytes.records);
    for (const RoundRecord& round : batch.rounds) heard.roundFinished(round);
    for (const ui::ReadTaps& taps : batch.taps) heard.tapsRead(taps.first, taps.count, taps.block);
    if (batch.next) next = batch.next;
    const Bytes written = heard.bytes(std::min(text.size(), heard.records.size()));
    text.insert(text.end(), written.begin(), written.end());
    return true;
  }
  /// Whether everything is known of the whole text.
  bool isUpToDate() const {
    return heard.records.size() == text.size() && next && next->position == text.size();
  }

  void load(const std::filesystem::path& verifier, const std::filesystem::path& drafter = {},
            DeviceKind kind = DeviceKind::Cpu) {
    DeviceOptions device;
    device.kind = kind;
    device.threads = 2;
    m_worker.post(ui::LoadModels{verifier, drafter, device});
  }
  /// Puts `inserted` in place of `removed` bytes of the text as it is known here.
  void edit(std::size_t at, std::size_t removed, ByteView inserted) {
    const std::vector<Origin> origins(inserted.size(), Origin::Prompt);
    m_worker.post(ui::EditText{++revision, text.size(), at, removed,
                               Bytes(inserted.begin(), inserted.end()), origins,
                               heard.records.size()});
    const auto place = text.begin() + static_cast<std::ptrdiff_t>(at);
    text.insert(text.erase(place, place + static_cast<std::ptrdiff_t>(removed)), inserted.begin(),
                inserted.end());
    heard.cut(at);
    heard.taps.erase(heard.taps.lower_bound(at), heard.taps.end());
    next.reset();
  }
  void setText(ByteView bytes) { edit(0, text.size(), bytes); }
  std::uint64_t generate(std::size_t count, const GenerationSettings& settings) {
    m_worker.post(ui::Generate{++run, count, settings});
    return run;
  }

  template <class Event>
  std::vector<Event> all() const {
    std::vector<Event> found;
    for (const ui::Event& event : events)
      if (const auto* wanted = std::get_if<Event>(&event)) found.push_back(*wanted);
    return found;
  }
  template <class Event>
  std::optional<Event> last() const {
    const std::vector<Event> found = all<Event>();
    return found.empty() ? std::nullopt : std::optional(found.back());
  }
  std::optional<ui::RunFinished> finished(std::uint64_t id) const {
    for (const auto& event : all<ui::RunFinished>())
      if (event.run == id) return event;
    return std::nullopt;
  }

  Bytes text;
  Recorder heard;
  std::size_t reported = 0;  ///< records that have come, dropped ones too
  ui::Revision revision = 0;
  std::uint64_t run = 0;
  std::optional<ui::NextExpected> next;
  std::vector<ui::Event> events;
  std::optional<ui::Activity> activity;
  std::size_t snapshots = 0;

 private:
  ui::EngineWorker m_worker;
};

}  // namespace mb::test
