// Runs chunks on a CUDA device, on the stream of their model.
#pragma once

#include <memory>
#include <vector>

#include "engine/model/runner_pair.h"
#include "kernels/cuda/chunk.h"
#include "kernels/cuda/judge.h"
#include "kernels/cuda/prefill.h"

namespace mb {

class CudaRunner : public Runner {
 public:
  /// `config` must outlive the runner.
  CudaRunner(std::shared_ptr<const cuda::DeviceWeights> weights,
             std::shared_ptr<const cuda::Stream> stream, const ModelConfig& config, int device);

  std::size_t maxChunk() const override { return m_most; }
  std::size_t cheapChunk() const override;
  std::size_t maxRead() const override;
  std::size_t maxTappedRead() const override;
  void advance(const State& from, State& to, TokenView tokens,
               const ChunkRequest& request) override;
  TokenView advanceDrawing(const State& from, std::span<State> to, Token first,
                           const Drawing& drawing, const ChunkRequest& request) override;
  std::size_t advanceJudging(const State& from, State& to, TokenView tokens,
                             const Judgement& judgement, const ChunkRequest& request) override;
  void rewind(const State& from, State& to, std::size_t kept) override;
  std::span<const float> logits(std::size_t index) const override;
  const TapBlock& taps() const override { return m_taps; }
  std::unique_ptr<RunnerPair> pairWith(Runner& drafter,
                                       std::shared_ptr<const TokenTree> tokens) override;

  // For a pair of runners on one device. What starts is in `stream` when the call returns; it has
  // to be waited for before the call that finishes it, and before any other pass.

  int device() const { return m_device; }
  const cuda::Stream& stream() const { return *m_stream; }
  const cuda::Workspace& workspace() const { return m_workspace; }
  const ModelConfig& config() const { return m_config; }
  bool canDraft() const;
  bool canWeighDraftedBytes() const { return cuda::canDrawFromTree(m_workspace); }
  /// `chunk` says which tokens agree, and of which tree they are, if any.
  void startDraft(const DraftPass& pass, cuda::ChunkRun chunk, cudaStream_t stream);
  TokenView finishDraft(const DraftPass& pass);
  bool canVerify() const;
  /// Takes the chunk from `list`; in this runner's own stream.
  void startVerifying(const VerifyPass& pass, const DraftPass& draft, const cuda::TokenList* list,
                      const ChunkRequest& request);
  /// Waits. Returns how many tokens of the chunk, which is `list`'s, stand.
  std::size_t finishVerifying(const VerifyPass& pass, const cuda::TokenList& list,
                              const ChunkRequest& request);

 private:
  void start(TokenView tokens, const ChunkRequest& request);
  void run(const State& from, State& to, TokenView tokens, const ChunkRequest& request);
  void launch(cuda::ChunkRun& chunk, const TapRequest& taps);
  void launchJudging(const State& from, State& to, cuda::ChunkRun& chunk,
                     const cuda::Judgement& judgement, const TapRequest& taps);
  std::size_t keepJudged(const State& from, State& to) const;
  void finish(const TapRequest& taps, std::uint32_t count);
  void read(const State& from, State& to, TokenView tokens, const ChunkRequest& request);
  std::size_t tapValues() const;
  std::size_t meansOfToken() const;
  void reserveTaps(std::size_t tokens);
  std::size_t layerMeans(std::uint32_t count) const;
  cuda::TapMeans tapMeans(const TapRequest& request, std::uint32_t count);
  void fetchTaps(const TapRequest& request, std::uint32_t count);
  void keepTaps(const TapRequest& request, std::uint32_t count);
  void cutTaps(std::size_t count);

  std::shared_ptr<const cuda::DeviceWeights> m_weights;
  std::shared_ptr<const cuda::Stream> m_stream;
  const ModelConfig& m_config;
  int m_device;
  std::uint32_t m_most;
  cuda::Workspace m_workspace;
  cuda::Prefill::Capacity m_readCapacity;
  cuda::Prefill::Capacity m_tappedCapacity;  ///< what is left beside taps; none where they are not
  std::unique_ptr<cuda::Prefill> m_prefill;  ///< since a text was first read with it
  cuda::DeviceArray<float> m_tapMeans;       ///< [tokens][3][L], then [tokens][3][bins]
  cuda::PinnedArray<float> m_hostTaps;
  std::vector<Token> m_lastTokens;  ///< of the last pass
  bool m_traced = false;            ///< it left what replay() needs
  LogitsWanted m_lastLogits = LogitsWanted::None;
  TapBlock m_taps;
};

}  // namespace mb
