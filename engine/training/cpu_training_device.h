// Training on the CPU, a stream a thread at a time.
#pragma once

#include <vector>

#include "engine/training/gradient.h"
#include "engine/training/parameters.h"
#include "engine/training/training_device.h"
#include "kernels/cpu/thread_pool.h"

namespace mb {

/// With as many threads, sums are the same, bit for bit.
class CpuTrainingDevice : public TrainingDevice {
 public:
  /// Layout and pool must outlive it.
  CpuTrainingDevice(const ParameterLayout& layout, std::vector<float> parameters,
                    std::size_t streams, cpu::ThreadPool& pool);

  std::string name() const override;
  std::size_t threads() const override { return m_backprops.size(); }
  double learn(std::span<const SegmentTokens> segments, float scale, std::stop_token stop) override;
  double gradientNorm() override;
  void update(const AdamWStep& step) override;
  double lossOf(TokenView text, std::size_t segment, std::stop_token stop) override;
  std::span<const float> parameters() const override { return m_held.parameters; }
  std::span<const float> kept() const override {
    return m_held.average.empty() ? m_held.parameters : m_held.average;
  }
  TrainedState state() const override { return m_held; }
  void setState(TrainedState state) override;
  std::vector<float> gradient() const override { return m_gradients[0]; }
  std::vector<float> stateGradient() const override;

 private:
  double run(const SegmentTokens& segment, std::size_t stream, std::size_t member, bool first,
             float scale, std::stop_token stop);
  void addGradients();

  const ParameterLayout& m_layout;
  cpu::ThreadPool& m_pool;
  TrainedState m_held;
  std::vector<std::vector<float>> m_reached;         ///< states that learn() came to
  std::vector<std::vector<float>> m_stateGradients;  ///< of each stream
  std::vector<Backprop<float>> m_backprops;          ///< of each thread
  std::vector<std::vector<float>> m_gradients;       ///< likewise; the first becomes their sum
  std::vector<double> m_norms;                       ///< squared, of each thread's share
};

}  // namespace mb
