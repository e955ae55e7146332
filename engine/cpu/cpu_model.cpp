#include "engine/cpu/cpu_model.h"

#include "engine/cpu/cpu_runner.h"
#include "engine/error.h"

namespace mb {

namespace {

cpu::SimdLevel chooseLevel(const std::string& wanted) {
  std::string names;
  for (const cpu::SimdLevel& level : cpu::availableSimdLevels()) {
    if (wanted.empty() || level.name == wanted) return level;
    names += (names.empty() ? "" : ", ") + std::string(level.name);
  }
  throw RequestError("instruction set " + wanted + " is not available; this processor has " +
                     names);
}

std::string describe(std::string_view level, std::size_t threads) {
  return "CPU, " + std::string(level) + ", " + std::to_string(threads) +
         (threads == 1 ? " thread" : " threads");
}

}  // namespace

CpuModel::CpuModel(const WeightSource& source, ModelInfo info, const CpuOptions& options,
                   std::shared_ptr<cpu::ThreadPool> pool, std::stop_token stop)
    : m_pool(std::move(pool)), m_info(std::move(info)) {
  const cpu::SimdLevel level = chooseLevel(options.simd);
  m_ops = level.ops;
  m_simd = level.name;
  m_weights = std::make_shared<const CpuWeights>(source, options.precision, *m_pool, stop);
  m_info.precision = options.precision;
  m_info.weightBytes = m_weights->bytesPerStep();
  m_info.device = describe(level.name, m_pool->size());
}

std::unique_ptr<Runner> CpuModel::newRunner() const {
  return std::make_unique<CpuRunner>(m_weights, *m_ops, m_pool);
}

std::shared_ptr<const Model> CpuModel::onOwnThread() const {
  const std::shared_ptr<CpuModel> other(new CpuModel(*this));
  other->m_pool = std::make_shared<cpu::ThreadPool>(1);
  other->m_info.device = describe(m_simd, 1);
  return other;
}

}  // namespace mb
