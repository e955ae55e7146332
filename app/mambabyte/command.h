// What the subcommands share: model and device options, progress, interruption, JSON files.
#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <stop_token>
#include <string>

#include "engine/model/devices.h"
#include "engine/training/recipe.h"

namespace mb::cli {

/// --device, --dtype, --threads, --simd.
struct DeviceArguments {
  std::string device = "auto";
  std::string dtype = "bf16";
  std::string simd;
  std::size_t threads = 0;

  void addTo(CLI::App& command);
  DeviceOptions options() const;
};

/// Accepts numbers from `least` to `most`; unlike CLI::Range not "nan".
struct Between : CLI::Validator {
  Between(double least, double most);
};

/// Accepts decimal digits of at least `least`; a minus sign must not become a huge number.
struct AtLeast : CLI::Validator {
  explicit AtLeast(std::uint64_t least);
};

/// --recipe; calls `choose` before the values of other options are set, so that they win over what
/// the recipe brings along.
CLI::Option* addRecipeOption(CLI::App& command, const std::string& description,
                             std::function<void(const Recipe&)> choose);

/// The folder given, or the bundled model of that name.
std::filesystem::path modelFolder(const std::string& given, const std::string& bundled);

/// A line on standard error when models run on the CPU because a device failed.
void sayWhenGivenUp(const ModelLoader& loader);

/// Triggered by Ctrl+C.
std::stop_token interruption();

/// "name: done of total bytes", or other units, on standard error while a terminal watches, at most
/// five times a second.
class Progress {
 public:
  explicit Progress(std::string name, std::string unit = "bytes");
  ~Progress();
  void show(std::uint64_t done, std::uint64_t total);

 private:
  std::string m_name;
  std::string m_unit;
  bool m_visible;
  std::chrono::steady_clock::time_point m_shown;
};

/// Writes JSON to a file when a name was given.
void writeJson(const std::string& file, const nlohmann::json& json);

/// A subcommand: adds itself to the application and returns its exit status when it was called.
using Run = std::function<int()>;
Run addGenerate(CLI::App& app);
Run addEval(CLI::App& app);
Run addInfo(CLI::App& app);
Run addConvert(CLI::App& app);
Run addBench(CLI::App& app);
Run addTokenizer(CLI::App& app);
Run addTrain(CLI::App& app);
Run addDistill(CLI::App& app);

}  // namespace mb::cli
