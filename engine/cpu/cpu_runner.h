// Runs chunks on the CPU: one wake-up of the team per chunk, barriers between the stages of a
// layer.
#pragma once

#include <memory>
#include <vector>

#include "engine/cpu/cpu_weights.h"
#include "engine/model/model.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/thread_pool.h"

namespace mb {

class CpuRunner : public Runner {
 public:
  /// `weights` and `ops` must outlive the runner. Runners that share a pool must not run at once.
  CpuRunner(std::shared_ptr<const CpuWeights> weights, const cpu::Ops& ops,
            std::shared_ptr<cpu::ThreadPool> pool);

  std::size_t maxChunk() const override { return kMaxChunk; }
  std::size_t cheapChunk() const override { return m_ops.cheapInputs; }
  void advance(const State& from, State& to, TokenView tokens,
               const ChunkRequest& request) override;
  void rewind(const State& from, State& to, std::size_t kept) override;
  std::span<const float> logits(std::size_t index) const override;
  const TapBlock& taps() const override { return m_taps; }

  /// Long enough that weights read from memory are paid for by arithmetic, short enough that a stop
  /// or an edit is noticed soon.
  static constexpr std::size_t kMaxChunk = 64;

 private:
  /// Activations of a chunk, one token a row. Rows are a cache line apart from a power of two, or
  /// the rows of a tile would fall on the same cache sets.
  struct Rows {
    Rows() = default;
    Rows(std::size_t count, std::size_t width)
        : values(count * (width + kBlockRows)), stride(width + kBlockRows) {}
    float* row(std::size_t i) { return values.data() + i * stride; }
    const float* row(std::size_t i) const { return values.data() + i * stride; }

    AlignedArray<float> values;
    std::size_t stride = 0;
  };
  /// What a layer leaves behind for rewind().
  struct LayerTrace {
    Rows uz;         ///< u at 0, z at layout.inner
    Rows convolved;  ///< u'
    Rows delta;
    Rows deltaBC;  ///< δ, B, C
  };
  struct Step;  // one advance() in progress

  void reserve(std::size_t count);
  void runMember(Step& step, std::size_t member);
  void runLayer(Step& step, std::size_t layer, std::size_t member);
  void scanChannels(Step& step, std::size_t layer, cpu::Range channels);
  void runHead(Step& step, std::size_t member);
  void normalize(const NormWeights& norm, std::size_t first, std::size_t count);
  void moveConvolution(const float* before, float* after, const LayerTrace& trace, std::size_t kept,
                       cpu::Range channels) const;
  cpu::ScanArgs scanArgs(std::size_t layer, const State& from, State& to, std::size_t count,
                         cpu::Range channels);
  void collectTaps(const ChunkRequest& request, std::size_t count);
  cpu::Range channelRange(std::size_t member) const;

  std::shared_ptr<const CpuWeights> m_weights;
  const cpu::Ops& m_ops;
  std::shared_ptr<cpu::ThreadPool> m_pool;
  cpu::Barrier m_barrier;
  std::size_t m_capacity = 0;
  std::size_t m_lastCount = 0;
  LogitsWanted m_lastLogits = LogitsWanted::None;
  std::vector<LayerTrace> m_traces;
  Rows m_residual;    ///< x
  Rows m_normalized;  ///< h
  Rows m_gated;       ///< y ⊙ SiLU(z)
  Rows m_logits;
  Rows m_stateSquared;              ///< only with taps
  Rows m_meanDecay;                 ///< likewise
  AlignedArray<float> m_tapGroups;  ///< [layers][capacity][inner / 16][3], only with taps
  TapBlock m_taps;
};

}  // namespace mb
