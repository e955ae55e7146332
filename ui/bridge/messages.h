// What the window and the engine's thread say to each other. Plain C++ types only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/decoding/generator.h"
#include "engine/decoding/records.h"
#include "engine/export/run_export.h"
#include "engine/model/devices.h"
#include "engine/model/taps.h"
#include "engine/types.h"

namespace mb::ui {

/// Every change of the text gets a new revision; what the engine says about an older one is
/// dropped.
using Revision = std::uint64_t;

// ---- to the engine

struct LoadModels {
  std::filesystem::path verifier;
  std::filesystem::path drafter;  ///< empty for none
  DeviceOptions device;
};

/// The text as the window sees it: first cut to `size`, then changed.
struct EditText {
  Revision revision = 0;
  std::size_t size = 0;
  std::size_t at = 0;
  std::size_t removed = 0;
  Bytes inserted;
  std::vector<Origin> origins;  ///< of the inserted bytes
  /// Bytes whose scores the window has. Those that are on their way to it will be dropped, since
  /// they speak of an older revision, and are to be sent again.
  std::size_t known = 0;
};

struct Generate {
  std::uint64_t run = 0;  ///< handed back with RunFinished
  std::size_t count = 0;
  GenerationSettings settings;
};

struct SetTaps {
  TapRequest request;
};

/// Report the taps of bytes already read. Replaces an earlier wish that is still open.
struct Observe {
  std::size_t first = 0;
  std::size_t last = 0;
};

/// Time decoding of the bytes [first, last), plainly and as these settings say, with nobody looking
/// at either.
struct TimePlain {
  std::size_t first = 0;
  std::size_t last = 0;
  GenerationSettings generation;
};

using Command = std::variant<LoadModels, EditText, Generate, SetTaps, Observe, TimePlain>;

// ---- to the window

struct ScoredBytes {
  std::size_t first = 0;
  std::vector<ByteRecord> records;
};

struct ReadTaps {
  std::size_t first = 0;
  std::size_t count = 0;
  TapBlock block;
};

struct ModelsLoaded {
  DescribedModel verifier;
  std::optional<DescribedModel> drafter;
  DeviceKind device = DeviceKind::Cpu;  ///< that they run on; never Auto
  int cudaDevice = 0;
  std::string deviceReason;
  bool gaveUp = false;               ///< deviceReason says why it is not the device asked for
  std::vector<DeviceEntry> devices;  ///< that there are
};

/// A device failed. The models now run on the CPU, and the work goes on there.
struct DeviceLost {
  std::string problem;
  ModelsLoaded now;
};

enum class Task : std::uint8_t { Load, Score, Generate, TimePlain };

struct TaskFailed {
  Task task = Task::Load;
  std::string problem;
};

struct RunFinished {
  std::uint64_t run = 0;
  std::size_t bytes = 0;
  double seconds = 0;
  bool stopped = false;
};

struct PlainTimed {
  std::size_t bytes = 0;
  double plainSeconds = 0;
  double speculativeSeconds = 0;
};

struct NextExpected {
  std::size_t position = 0;  ///< size of the text it follows
  Prediction prediction;
};

using Event = std::variant<ModelsLoaded, DeviceLost, TaskFailed, RunFinished, PlainTimed>;

/// A piece of work that takes long enough to be shown.
struct Activity {
  Task task = Task::Load;
  std::size_t done = 0;
  std::size_t total = 0;  ///< 0 when nobody knows
};

/// Everything the engine has to say since the window last asked.
struct Batch {
  Revision revision = 0;  ///< of the text that bytes, rounds, taps and next speak of
  std::vector<ScoredBytes> bytes;
  std::vector<RoundRecord> rounds;
  std::vector<ReadTaps> taps;
  std::optional<NextExpected> next;
  std::vector<Event> events;
  std::optional<Activity> activity;  ///< work in progress, if any
  std::size_t snapshots = 0;
  std::optional<DeviceMemory> deviceMemory;  ///< of the CUDA device in use, lately

  bool isEmpty() const {
    return bytes.empty() && rounds.empty() && taps.empty() && !next && events.empty();
  }
};

}  // namespace mb::ui
