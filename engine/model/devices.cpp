#include "engine/model/devices.h"

#include "engine/checkpoint/checkpoint.h"
#include "engine/cpu/cpu_model.h"
#include "engine/error.h"
#include "engine/model/random_weights.h"

#ifdef MB_HAVE_CUDA
#include "engine/cuda/cuda_model.h"
#include "kernels/cuda/devices.h"
#include "kernels/cuda/memory.h"
#endif

namespace mb {

namespace {

#ifdef MB_HAVE_CUDA
DeviceMemory toMemory(const cuda::MemoryUse& use) {
  return {use.totalBytes - use.freeBytes, use.totalBytes};
}
#endif

}  // namespace

DeviceChoice chooseDevice() {
  DeviceChoice choice;
  choice.devices.push_back({DeviceKind::Cpu, 0, "CPU", {}});
#ifdef MB_HAVE_CUDA
  const cuda::DeviceList list = cuda::listDevices();
  for (const cuda::DeviceDescription& device : list.devices)
    choice.devices.push_back(
        {DeviceKind::Cuda, device.index, device.name, toMemory(device.memory)});
  if (choice.hasCuda()) {
    choice.kind = DeviceKind::Cuda;
    choice.reason = "the first CUDA device";
  } else {
    choice.reason = "no usable CUDA device (" + list.problem + ")";
  }
#else
  choice.reason = "built without CUDA";
#endif
  return choice;
}

std::optional<DeviceMemory> memoryOfCudaDevice([[maybe_unused]] int index) {
#ifdef MB_HAVE_CUDA
  try {
    return toMemory(cuda::memoryUse(index));
  } catch (const cuda::CudaError&) {
    return std::nullopt;
  }
#else
  return std::nullopt;
#endif
}

ModelLoader::ModelLoader(const DeviceOptions& options) : m_options(options) {
  const DeviceChoice choice = chooseDevice();
  m_reason = options.kind == DeviceKind::Auto || !choice.hasCuda() ? choice.reason : "as chosen";
  if (options.kind == DeviceKind::Auto) {
    m_options.kind = choice.kind;
    m_options.orCpu = true;
    if (choice.hasCuda()) m_options.cudaDevice = choice.devices[1].cudaDevice;
  } else if (options.kind == DeviceKind::Cuda && !choice.hasCuda()) {
    giveUp("CUDA is not usable here: " + choice.reason);
  }
  m_pool = std::make_shared<cpu::ThreadPool>(options.threads);
}

void ModelLoader::giveUp(const std::string& problem) {
  if (!m_options.orCpu) throw DeviceError(problem);
  m_options.kind = DeviceKind::Cpu;
  m_reason = problem;
  m_gaveUp = true;
}

std::shared_ptr<const Model> ModelLoader::build(const WeightSource& source, const ModelInfo& info,
                                                std::stop_token stop) {
#ifdef MB_HAVE_CUDA
  if (m_options.kind == DeviceKind::Cuda) {
    try {
      return std::make_shared<const CudaModel>(source, info, m_options.precision,
                                               m_options.cudaDevice, stop);
    } catch (const DeviceError& error) {
      giveUp(error.what());
    }
  }
#endif
  const CpuOptions options{m_options.precision, m_options.simd};
  return std::make_shared<const CpuModel>(source, info, options, m_pool, stop);
}

std::shared_ptr<const Model> ModelLoader::open(const std::filesystem::path& folder,
                                               std::stop_token stop) {
  const Checkpoint checkpoint(folder);
  ModelInfo info;
  info.folder = checkpoint.folder();
  info.name = std::filesystem::weakly_canonical(checkpoint.folder()).filename().string();
  info.files = checkpoint.weightFiles();
  info.tokenizer = checkpoint.tokenizerFile();
  info.storedType = nameOf(checkpoint.storedType());
  return build(checkpoint, info, stop);
}

double ModelLoader::measureMemoryBandwidth() const {
#ifdef MB_HAVE_CUDA
  if (m_options.kind == DeviceKind::Cuda) return measureCudaBandwidth(m_options.cudaDevice);
#endif
  return cpu::measureReadBandwidth(*m_pool);
}

std::shared_ptr<const Model> ModelLoader::openShape(const std::string& name, std::stop_token stop) {
  const auto config = namedShape(name);
  if (!config) {
    throw RequestError("shape " + name + " is unknown; known are " + std::string(namedShapes()));
  }
  ModelInfo info;
  info.name = name + " (random weights)";
  info.storedType = "none";
  return build(RandomWeights(*config, 1), info, stop);
}

}  // namespace mb
