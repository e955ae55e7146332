// A model on the CPU.
#pragma once

#include <memory>
#include <stop_token>
#include <string>

#include "engine/cpu/cpu_weights.h"
#include "engine/model/model.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/thread_pool.h"

namespace mb {

struct CpuOptions {
  WeightPrecision precision = WeightPrecision::BFloat16;
  /// Name of an instruction set as availableSimdLevels() lists them; empty takes the fastest.
  std::string simd;
};

class CpuModel : public Model {
 public:
  /// Runners of this model run on `pool`. Throws FormatError, Stopped, or RequestError for an
  /// instruction set this processor lacks.
  CpuModel(const WeightSource& source, ModelInfo info, const CpuOptions& options,
           std::shared_ptr<cpu::ThreadPool> pool, std::stop_token stop = {});

  const ModelConfig& config() const override { return m_weights->config; }
  const ModelInfo& info() const override { return m_info; }
  std::unique_ptr<Runner> newRunner() const override;
  std::shared_ptr<const Model> onOwnThread() const override;

 private:
  CpuModel(const CpuModel&) = default;

  const cpu::Ops* m_ops;
  std::string m_simd;
  std::shared_ptr<cpu::ThreadPool> m_pool;
  std::shared_ptr<const CpuWeights> m_weights;
  ModelInfo m_info;
};

}  // namespace mb
