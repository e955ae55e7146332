// A drafter and a verifier on one CUDA device: their kernels follow each other in one stream.
#pragma once

#include <cstdint>
#include <memory>

#include "engine/cuda/cuda_runner.h"
#include "engine/model/runner_pair.h"
#include "engine/tokenizer/token_tree.h"
#include "kernels/cuda/chunk.h"
#include "kernels/cuda/memory.h"

namespace mb {

class CudaRunnerPair : public RunnerPair {
 public:
  /// Both runners, which must outlive the pair, are on the device that is current. `tokens` are the
  /// drafter's.
  CudaRunnerPair(CudaRunner& drafter, CudaRunner& verifier,
                 std::shared_ptr<const TokenTree> tokens);

  bool weighsBytes() const override { return m_drafter.canWeighDraftedBytes(); }
  Outcome run(const DraftPass& draft, const VerifyPass& verify,
              const ChunkRequest& request) override;

 private:
  void uploadSpelling();
  void uploadTree();
  void spell(const DraftPass& draft, const VerifyPass& verify, const cuda::Agreement& agreement);

  CudaRunner& m_drafter;
  CudaRunner& m_verifier;
  std::shared_ptr<const TokenTree> m_tokens;
  cuda::DeviceArray<std::uint32_t> m_begins;  ///< of the bytes of each token, and their end
  cuda::DeviceArray<std::uint8_t> m_bytes;
  cuda::DeviceArray<cuda::TokenNode> m_nodes;  ///< none where bytes are not weighed
  cuda::DeviceArray<std::int32_t> m_sorted;
  cuda::DeviceArray<std::int32_t> m_places;
  cuda::DeviceArray<cuda::TokenList> m_list;  ///< the chunk, from one kernel to the next
  cuda::PinnedArray<cuda::TokenList> m_copy;  ///< for the host
  cuda::Event m_started;
  cuda::Event m_drafted;
};

}  // namespace mb
