#include "engine/checkpoint/model_writer.h"

#include "engine/checkpoint/mapped_file.h"
#include "engine/file_io.h"

namespace mb {

namespace {

constexpr std::size_t kLargestTokenizer = 64u << 20;

bool staysFloat32(const std::string& name) {
  const auto ends = [&](std::string_view end) { return name.ends_with(end); };
  return ends(".A_log") || ends(".D") || ends(".dt_proj.bias") ||
         name.find("norm") != std::string::npos;
}

void writeFiles(const std::filesystem::path& folder, const WeightSource& source,
                const std::string& config, DataType weights, const TensorProgress& progress,
                std::stop_token stop) {
  const auto typeOf = [weights](const std::string& name) {
    return staysFloat32(name) ? DataType::Float32 : weights;
  };
  writeSafetensors(folder / "model.safetensors", source, typeOf, progress, stop);
  writeFileAtomically(folder / "config.json", config);
}

}  // namespace

void writeModel(const std::filesystem::path& folder, const WeightSource& source, DataType weights) {
  makeFolder(folder);
  writeFiles(folder, source, configText(source.config(), weights), weights, {}, {});
}

void keepTokenizer(const std::filesystem::path& tokenizer, const std::filesystem::path& folder) {
  writeFileAtomically(folder / "tokenizer.json", readTextFile(tokenizer, kLargestTokenizer));
}

void convertModel(const Checkpoint& checkpoint, const std::filesystem::path& folder,
                  DataType weights, const TensorProgress& progress, std::stop_token stop) {
  writeFolderAtomically(folder, [&](const std::filesystem::path& fresh) {
    writeFiles(fresh, checkpoint, configText(checkpoint.config(), weights, checkpoint.configText()),
               weights, progress, stop);
    const auto tokenizer = checkpoint.tokenizerFile();
    if (!tokenizer.empty()) keepTokenizer(tokenizer, fresh);
  });
}

}  // namespace mb
