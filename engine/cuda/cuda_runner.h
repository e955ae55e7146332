// Runs chunks on a CUDA device, on the stream of their model.
#pragma once

#include <memory>
#include <vector>

#include "engine/model/model.h"
#include "kernels/cuda/chunk.h"
#include "kernels/cuda/prefill.h"

namespace mb {

class CudaRunner : public Runner {
 public:
  /// `config` must outlive the runner.
  CudaRunner(std::shared_ptr<const cuda::DeviceWeights> weights,
             std::shared_ptr<const cuda::Stream> stream, const ModelConfig& config, int device);

  std::size_t maxChunk() const override { return m_most; }
  std::size_t maxRead() const override;
  void advance(const State& from, State& to, TokenView tokens,
               const ChunkRequest& request) override;
  TokenView advanceDrawing(const State& from, std::span<State> to, Token first,
                           const Drawing& drawing, const ChunkRequest& request) override;
  std::size_t advanceJudging(const State& from, State& to, TokenView tokens,
                             const Judgement& judgement, const ChunkRequest& request) override;
  void rewind(const State& from, State& to, std::size_t kept) override;
  std::span<const float> logits(std::size_t index) const override;
  const TapBlock& taps() const override { return m_taps; }

 private:
  void start(TokenView tokens, const ChunkRequest& request);
  void run(const State& from, State& to, TokenView tokens, const ChunkRequest& request);
  void launch(const State& from, State& to, TokenView tokens, const ChunkRequest& request);
  void launch(cuda::ChunkRun& chunk, const TapRequest& taps);
  void finish(const TapRequest& taps, std::uint32_t count);
  void read(const State& from, State& to, TokenView tokens, const ChunkRequest& request);
  void reserveTaps();
  std::size_t layerMeans(std::uint32_t count) const;
  void fetchTaps(const TapRequest& request, std::uint32_t count);
  void keepTaps(const TapRequest& request, std::uint32_t count);

  std::shared_ptr<const cuda::DeviceWeights> m_weights;
  std::shared_ptr<const cuda::Stream> m_stream;
  const ModelConfig& m_config;
  int m_device;
  std::uint32_t m_most;
  cuda::Workspace m_workspace;
  cuda::Prefill::Capacity m_readCapacity;
  std::unique_ptr<cuda::Prefill> m_prefill;  ///< since a text was first read with it
  cuda::DeviceArray<float> m_tapMeans;
  cuda::PinnedArray<float> m_hostTaps;
  std::vector<Token> m_lastTokens;  ///< of the last pass
  bool m_traced = false;            ///< it left what replay() needs
  LogitsWanted m_lastLogits = LogitsWanted::None;
  TapBlock m_taps;
};

}  // namespace mb
