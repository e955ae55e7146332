#include "engine/model/devices.h"

#include "engine/checkpoint/checkpoint.h"
#include "engine/cpu/cpu_model.h"
#include "engine/error.h"
#include "engine/model/random_weights.h"

#ifdef MB_HAVE_CUDA
#include "kernels/cuda/devices.h"
#endif

namespace mb {

std::string nameOf(WeightPrecision precision) {
  return precision == WeightPrecision::BFloat16 ? "bf16" : "f32";
}

DeviceChoice chooseDevice() {
  DeviceChoice choice;
#ifdef MB_HAVE_CUDA
  const cuda::DeviceList list = cuda::listDevices();
  for (const cuda::DeviceDescription& device : list.devices)
    choice.cudaDevices.push_back(device.name);
  choice.reason = list.devices.empty()
                      ? "no CUDA device found (" + list.problem + ")"
                      : list.devices.front().name + " found; this version computes on the CPU";
#else
  choice.reason = "built without CUDA";
#endif
  return choice;
}

ModelLoader::ModelLoader(const DeviceOptions& options) : m_options(options) {
  if (options.kind == DeviceKind::Cuda)
    throw DeviceError("CUDA is not usable here: " + chooseDevice().reason);
  m_pool = std::make_shared<cpu::ThreadPool>(options.threads);
}

std::shared_ptr<const Model> ModelLoader::build(const WeightSource& source, ModelInfo info,
                                                std::stop_token stop) const {
  const CpuOptions options{m_options.precision, m_options.simd};
  return std::make_shared<const CpuModel>(source, std::move(info), options, m_pool, stop);
}

std::shared_ptr<const Model> ModelLoader::open(const std::filesystem::path& folder,
                                               std::stop_token stop) const {
  const Checkpoint checkpoint(folder);
  ModelInfo info;
  info.folder = checkpoint.folder();
  info.name = std::filesystem::weakly_canonical(checkpoint.folder()).filename().string();
  info.files = checkpoint.weightFiles();
  info.tokenizer = checkpoint.tokenizerFile();
  info.storedType = nameOf(checkpoint.storedType());
  return build(checkpoint, std::move(info), stop);
}

std::shared_ptr<const Model> ModelLoader::openShape(const std::string& name,
                                                    std::stop_token stop) const {
  const auto config = namedShape(name);
  if (!config) {
    throw RequestError("shape " + name + " is unknown; known are " + std::string(namedShapes()));
  }
  ModelInfo info;
  info.name = name + " (random weights)";
  info.storedType = "none";
  return build(RandomWeights(*config, 1), std::move(info), stop);
}

}  // namespace mb
