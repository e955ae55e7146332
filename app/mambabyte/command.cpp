#include "app/mambabyte/command.h"

#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>
#include <unistd.h>

#include "engine/export/run_export.h"
#include "engine/file_io.h"
#include "engine/resources.h"

namespace mb::cli {

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kProgressInterval = std::chrono::milliseconds(200);

}  // namespace

void DeviceArguments::addTo(CLI::App& command) {
  command.add_option("--device", device, "Processor: auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command.add_option("--dtype", dtype, "Weights in memory: bf16, or f32 for reference work")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->capture_default_str();
  command.add_option("--threads", threads, "CPU threads; 0 takes every processor")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command.add_option("--simd", simd, "CPU instruction set (info lists them); default the fastest");
}

DeviceOptions DeviceArguments::options() const {
  DeviceOptions options;
  options.kind = device == "auto"   ? DeviceKind::Auto
                 : device == "cuda" ? DeviceKind::Cuda
                                    : DeviceKind::Cpu;
  options.precision = dtype == "f32" ? WeightPrecision::Float32 : WeightPrecision::BFloat16;
  options.simd = simd;
  options.threads = threads;
  return options;
}

Between::Between(double least, double most) {
  std::ostringstream range;
  range << least << " to " << most;
  name_ = "NUMBER " + range.str();
  desc_function_ = [description = name_] { return description; };
  func_ = [least, most, text = range.str()](std::string& input) {
    double value = 0;
    if (CLI::detail::lexical_cast(input, value) && value >= least && value <= most)
      return std::string();
    return "expected a number from " + text + ", found " + input;
  };
}

AtLeast::AtLeast(std::uint64_t least) {
  name_ = "NUMBER from " + std::to_string(least);
  desc_function_ = [description = name_] { return description; };
  func_ = [least](std::string& input) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(input.data(), input.data() + input.size(), value);
    if (error == std::errc() && end == input.data() + input.size() && value >= least)
      return std::string();
    return "expected a whole number from " + std::to_string(least) + ", found " + input;
  };
}

CLI::Option* addRecipeOption(CLI::App& command, const std::string& description,
                             std::function<void(const Recipe&)> choose) {
  std::vector<std::string> names;
  for (const Recipe& recipe : recipes()) names.emplace_back(recipe.name);
  return command
      .add_option_function<std::string>(
          "--recipe", [choose](const std::string& name) { choose(findRecipe(name)); }, description)
      ->check(CLI::IsMember(names))
      ->trigger_on_parse();
}

std::filesystem::path modelFolder(const std::string& given, const std::string& bundled) {
  return given.empty() ? findResource("models/" + bundled) : std::filesystem::path(given);
}

void sayWhenGivenUp(const ModelLoader& loader) {
  if (loader.gaveUp())
    std::fprintf(stderr, "mambabyte: %s; running on the CPU\n", loader.reason().c_str());
}

std::stop_token interruption() {
  // A signal handler may only set a flag; a thread that sleeps in between passes it on.
  static std::atomic<bool> interrupted{false};
  static std::stop_source source;
  static std::jthread watcher([](std::stop_token end) {
    while (!end.stop_requested()) {
      if (interrupted) source.request_stop();
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  std::signal(SIGINT, [](int) {
    interrupted = true;
    std::signal(SIGINT, SIG_DFL);  // a second Ctrl+C ends the program at once
  });
  return source.get_token();
}

Progress::Progress(std::string name, std::string unit)
    : m_name(std::move(name)), m_unit(std::move(unit)), m_visible(isatty(STDERR_FILENO)) {}

Progress::~Progress() {
  if (m_visible && m_shown != Clock::time_point()) std::fprintf(stderr, "\r\033[K");
}

void Progress::show(std::uint64_t done, std::uint64_t total) {
  if (!m_visible || Clock::now() - m_shown < kProgressInterval) return;
  m_shown = Clock::now();
  std::fprintf(stderr, "\r\033[K%s: %llu of %llu %s", m_name.c_str(),
               static_cast<unsigned long long>(done), static_cast<unsigned long long>(total),
               m_unit.c_str());
}

void writeJson(const std::string& file, const nlohmann::json& json) {
  if (!file.empty()) writeFileAtomically(file, toJsonText(json) + "\n");
}

}  // namespace mb::cli
