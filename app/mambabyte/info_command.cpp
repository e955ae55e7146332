// mambabyte info: what a model is, and what this machine runs it on.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "app/mambabyte/command.h"
#include "engine/export/run_export.h"
#include "kernels/cpu/ops.h"

namespace mb::cli {

namespace {

struct Arguments {
  std::string model;
  std::string json;
  DeviceArguments device;
};

void printModel(const Model& model) {
  const ModelConfig& c = model.config();
  const ModelInfo& info = model.info();
  std::printf("model        %s\n", info.name.c_str());
  std::printf("folder       %s\n", info.folder.c_str());
  std::printf("kind         %s\n", c.isByteLevel() ? "byte-level Mamba-1" : "subword Mamba-1");
  std::printf("parameters   %zu\n", c.parameterCount());
  std::printf(
      "shape        d_model %zu, layers %zu, d_inner %zu, d_state %zu, d_conv %zu, "
      "dt_rank %zu, vocabulary %zu\n",
      c.dModel, c.layers, c.dInner, c.dState, c.dConv, c.dtRank, c.vocabSize);
  std::printf("norm         %s, epsilon %g\n", c.norm == NormKind::Rms ? "RMSNorm" : "LayerNorm",
              c.normEpsilon);
  std::printf("head         %s\n", c.tiedHead ? "tied to the embedding" : "separate");
  std::printf("stored as    %s, kept as %s\n", info.storedType.c_str(),
              nameOf(info.precision).c_str());
  std::printf("weights      %zu bytes read a step\n", info.weightBytes);
  std::printf("state        %zu bytes, whatever the length of the text\n",
              model.newState().bytes());
  std::printf("hash         %s\n", hashOfFiles(info.files).c_str());
  std::printf("device       %s\n", info.device.c_str());
}

void printMachine() {
  std::string levels;
  for (const cpu::SimdLevel& level : cpu::availableSimdLevels())
    levels += (levels.empty() ? "" : ", ") + std::string(level.name);
  std::printf("simd         %s\n", levels.c_str());
  const DeviceChoice choice = chooseDevice();
  if (!choice.hasCuda()) std::printf("cuda         %s\n", choice.reason.c_str());
  for (const DeviceEntry& device : choice.devices)
    if (device.kind == DeviceKind::Cuda)
      std::printf("cuda         %d: %s, %.1f of %.1f GB in use\n", device.cudaDevice,
                  device.name.c_str(), static_cast<double>(device.memory.used) * 1e-9,
                  static_cast<double>(device.memory.total) * 1e-9);
}

int inform(const Arguments& arguments) {
  ModelLoader loader(arguments.device.options());
  const auto model = loader.open(modelFolder(arguments.model, "books"), interruption());
  printModel(*model);
  printMachine();
  if (!arguments.json.empty()) writeJson(arguments.json, describeModel(described(*model)));
  return 0;
}

}  // namespace

Run addInfo(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *app.add_subcommand("info", "Describe a model and this machine");
  command.add_option("--model", arguments->model, "Model folder; default the bundled model");
  command.add_option("--json", arguments->json, "File for the description");
  arguments->device.addTo(command);
  return [arguments] { return inform(*arguments); };
}

}  // namespace mb::cli
