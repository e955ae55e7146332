#include "engine/model/devices.h"

#include "engine/checkpoint/checkpoint.h"
#include "engine/cpu/cpu_model.h"
#include "engine/error.h"
#include "engine/model/random_weights.h"

#ifdef MB_HAVE_CUDA
#include "engine/cuda/cuda_model.h"
#include "kernels/cuda/devices.h"
#endif

namespace mb {

DeviceChoice chooseDevice() {
  DeviceChoice choice;
#ifdef MB_HAVE_CUDA
  const cuda::DeviceList list = cuda::listDevices();
  for (const cuda::DeviceDescription& device : list.devices)
    choice.cudaDevices.push_back(device.name);
  if (list.devices.empty()) {
    choice.reason = "no CUDA device found (" + list.problem + ")";
  } else {
    choice.reason = list.devices.front().name + " found, used when asked for";
  }
#else
  choice.reason = "built without CUDA";
#endif
  return choice;
}

ModelLoader::ModelLoader(const DeviceOptions& options) : m_options(options) {
  if (options.kind == DeviceKind::Cuda && chooseDevice().cudaDevices.empty())
    throw DeviceError("CUDA is not usable here: " + chooseDevice().reason);
  m_pool = std::make_shared<cpu::ThreadPool>(options.threads);
}

std::shared_ptr<const Model> ModelLoader::build(const WeightSource& source, ModelInfo info,
                                                std::stop_token stop) const {
#ifdef MB_HAVE_CUDA
  if (m_options.kind == DeviceKind::Cuda) {
    return std::make_shared<const CudaModel>(source, std::move(info), m_options.precision,
                                             m_options.cudaDevice, stop);
  }
#endif
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

double ModelLoader::measureMemoryBandwidth() const {
#ifdef MB_HAVE_CUDA
  if (m_options.kind == DeviceKind::Cuda) return measureCudaBandwidth(m_options.cudaDevice);
#endif
  return cpu::measureReadBandwidth(*m_pool);
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
