// mambabyte convert: writes a model in the transformers layout, its weights in a type of choice.
#include <cstdio>

#include "app/mambabyte/command.h"
#include "engine/checkpoint/model_writer.h"

namespace mb::cli {

namespace {

struct Arguments {
  std::string model;
  std::string out;
  std::string dtype = "bf16";
};

void sayWhenOfAnotherForm(const ModelConfig& config) {
  if (config.norm == NormKind::Layer)
    std::fprintf(stderr,
                 "mambabyte: transformers has no Mamba with LayerNorm; config.json is in the form "
                 "of state-spaces, which this program opens\n");
}

void write(const Checkpoint& checkpoint, const Arguments& arguments) {
  Progress progress("written");
  convertModel(
      checkpoint, arguments.out, arguments.dtype == "f32" ? DataType::Float32 : DataType::BFloat16,
      [&](std::uint64_t done, std::uint64_t total) { progress.show(done, total); }, interruption());
}

int convert(const Arguments& arguments) {
  const Checkpoint checkpoint(arguments.model);
  write(checkpoint, arguments);
  sayWhenOfAnotherForm(checkpoint.config());
  const std::filesystem::path folder = arguments.out;
  std::printf("parameters %zu\nbytes %ju\ndtype %s\nmodel %s\n",
              checkpoint.config().parameterCount(),
              std::filesystem::file_size(folder / "model.safetensors"), arguments.dtype.c_str(),
              folder.c_str());
  return 0;
}

}  // namespace

Run addConvert(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *app.add_subcommand(
      "convert", "Write a model in the transformers layout, to ship or to open elsewhere");
  command.add_option("--model", arguments->model, "Model folder, of any layout")->required();
  command.add_option("--out", arguments->out, "New or empty folder")->required();
  command
      .add_option("--dtype", arguments->dtype,
                  "Weights as stored: bf16 (A_log, D, norms and the bias of Δ stay f32), or f32")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->capture_default_str();
  return [arguments] { return convert(*arguments); };
}

}  // namespace mb::cli
