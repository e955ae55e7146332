// How long each kind of work takes on the device.
#pragma once

#include <cuda_runtime_api.h>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/memory.h"

namespace mb::cuda::training {

/// Does nothing until it is switched on.
class StageClock {
 public:
  StageClock() = default;
  StageClock(const StageClock&) = delete;
  StageClock& operator=(const StageClock&) = delete;
  ~StageClock() {
    for (const Mark& mark : m_marks) cudaEventDestroy(mark.event);
  }

  void switchOn() { m_on = true; }
  /// What was launched since the mark before was this stage.
  void mark(const char* stage, cudaStream_t stream) {
    if (!m_on) return;
    Mark mark{nullptr, stage};
    check(cudaEventCreate(&mark.event), "cudaEventCreate");
    m_marks.push_back(mark);
    check(cudaEventRecord(mark.event, stream), "cudaEventRecord");
  }
  /// Seconds by stage since the last call. Waits.
  std::vector<std::pair<std::string, double>> take() {
    std::map<std::string, double> seconds;
    for (std::size_t i = 0; i < m_marks.size(); ++i) {
      check(cudaEventSynchronize(m_marks[i].event), "cudaEventSynchronize");
      float milliseconds = 0;
      if (i > 0)
        check(cudaEventElapsedTime(&milliseconds, m_marks[i - 1].event, m_marks[i].event),
              "cudaEventElapsedTime");
      seconds[m_marks[i].stage] += static_cast<double>(milliseconds) * 1e-3;
    }
    for (const Mark& mark : m_marks) cudaEventDestroy(mark.event);
    m_marks.clear();
    return {seconds.begin(), seconds.end()};
  }

 private:
  struct Mark {
    cudaEvent_t event;
    const char* stage;
  };

  bool m_on = false;
  std::vector<Mark> m_marks;
};

}  // namespace mb::cuda::training
