#include "engine/cuda/cuda_runner_pair.h"

#include <algorithm>
#include <cassert>
#include <utility>
#include <vector>

#include "engine/cuda/on_device.h"
#include "engine/error.h"
#include "kernels/cuda/spell.h"

namespace mb {

static_assert(DraftPass::kMostAgreeing <= cuda::kMostTokens);

CudaRunnerPair::CudaRunnerPair(CudaRunner& drafter, CudaRunner& verifier, const TokenBytes& bytes)
    : m_drafter(drafter), m_verifier(verifier), m_list(1), m_copy(1) {
  std::vector<std::uint32_t> begins{0};
  Bytes all;
  for (std::size_t token = 0; token < drafter.config().vocabSize; ++token) {
    const ByteView own = bytes(static_cast<Token>(token));
    all.insert(all.end(), own.begin(), own.end());
    begins.push_back(static_cast<std::uint32_t>(all.size()));
  }
  m_begins = cuda::DeviceArray<std::uint32_t>(begins.size());
  m_begins.upload(begins.data(), begins.size());
  m_bytes = cuda::DeviceArray<std::uint8_t>(all.size());
  m_bytes.upload(all.data(), all.size());
}

RunnerPair::Outcome CudaRunnerPair::run(const DraftPass& draft, const VerifyPass& verify,
                                        const ChunkRequest& request) {
  if (request.stop.stop_requested()) throw Stopped();
  assert(draft.agree.size() <= DraftPass::kMostAgreeing);
  cuda::Agreement agreement{.spelling = {m_begins.data(), m_bytes.data()}};
  agreement.size = static_cast<std::uint32_t>(draft.agree.size());
  std::ranges::copy(draft.agree, agreement.bytes);
  const cuda::TokenList& chunk = *std::as_const(m_copy).data();
  Outcome outcome;
  onDevice(m_verifier.device(), [&] {
    const cudaStream_t stream = m_verifier.stream();
    m_started.record(stream);
    m_drafter.startDraft(draft, agreement, stream);
    spell(draft, verify, agreement);
    m_drafted.record(stream);
    m_verifier.startVerifying(verify, draft, m_list.data(), request);
    outcome.kept = m_verifier.finishVerifying(verify, chunk, request);
    outcome.draftSeconds = m_drafted.secondsSince(m_started);
  });
  outcome.drawn = m_drafter.finishDraft(draft);
  outcome.chunk = {chunk.tokens, chunk.count};
  return outcome;
}

/// The verifier's chunk: its first token, what was drafted before, and the bytes of what is drawn.
void CudaRunnerPair::spell(const DraftPass& draft, const VerifyPass& verify,
                           const cuda::Agreement& agreement) {
  std::vector<Token> head{verify.first};
  head.insert(head.end(), draft.head.begin(), draft.head.end());
  assert(head.size() <= verify.most);
  cuda::spell(m_drafter.workspace(),
              {.head = head,
               .agreement = agreement,
               .draws = static_cast<std::uint32_t>(draft.to.size()),
               .tokens = static_cast<std::uint32_t>(draft.tokens),
               .most = static_cast<std::uint32_t>(1 + verify.most)},
              m_list.data(), m_copy.data(), m_verifier.stream());
}

}  // namespace mb
