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
static_assert(DraftPass::kMostKeys <= cuda::kMostTokens);

CudaRunnerPair::CudaRunnerPair(CudaRunner& drafter, CudaRunner& verifier,
                               std::shared_ptr<const TokenTree> tokens)
    : m_drafter(drafter), m_verifier(verifier), m_tokens(std::move(tokens)), m_list(1), m_copy(1) {
  uploadSpelling();
  if (weighsBytes()) uploadTree();
}

void CudaRunnerPair::uploadSpelling() {
  std::vector<std::uint32_t> begins{0};
  Bytes all;
  for (std::size_t token = 0; token < m_drafter.config().vocabSize; ++token) {
    const ByteView own = m_tokens->tokenizer().bytes(static_cast<Token>(token));
    all.insert(all.end(), own.begin(), own.end());
    begins.push_back(static_cast<std::uint32_t>(all.size()));
  }
  m_begins = cuda::DeviceArray<std::uint32_t>(begins.size());
  m_begins.upload(begins.data(), begins.size());
  m_bytes = cuda::DeviceArray<std::uint8_t>(all.size());
  m_bytes.upload(all.data(), all.size());
}

void CudaRunnerPair::uploadTree() {
  const std::span<const Token> sorted = m_tokens->tokenizer().sortedTokens();
  m_sorted = cuda::DeviceArray<std::int32_t>(sorted.size());
  m_sorted.upload(sorted.data(), sorted.size());
  std::vector<std::int32_t> places(m_drafter.config().vocabSize, -1);
  for (std::size_t i = 0; i < sorted.size(); ++i)
    places[static_cast<std::size_t>(sorted[i])] = static_cast<std::int32_t>(i);
  m_places = cuda::DeviceArray<std::int32_t>(places.size());
  m_places.upload(places.data(), places.size());
  std::vector<cuda::TokenNode> nodes;
  for (const TokenTree::Node& node : m_tokens->nodes())
    nodes.push_back({node.first, node.last, node.whole, node.children, node.childCount, node.byte});
  m_nodes = cuda::DeviceArray<cuda::TokenNode>(nodes.size());
  m_nodes.upload(nodes.data(), nodes.size());
}

RunnerPair::Outcome CudaRunnerPair::run(const DraftPass& draft, const VerifyPass& verify,
                                        const ChunkRequest& request) {
  if (request.stop.stop_requested()) throw Stopped();
  assert(draft.agree.size() <= DraftPass::kMostAgreeing);
  cuda::ChunkRun draws;
  draws.agreement.spelling = {m_begins.data(), m_bytes.data()};
  draws.agreement.size = static_cast<std::uint32_t>(draft.agree.size());
  std::ranges::copy(draft.agree, draws.agreement.bytes);
  if (draft.weighsBytes()) {
    assert(weighsBytes() && (draft.drawing.temperature <= 0 || !draft.drawing.keys.empty()));
    draws.draftTokens = static_cast<std::uint32_t>(draft.tokens);
    draws.leastConfidence = draft.leastConfidence;
    draws.confidence = draft.confidence;
    draws.tree = {m_nodes.data(), m_sorted.data(), m_places.data(),
                  static_cast<std::uint32_t>(m_sorted.size())};
  }
  const cuda::TokenList& chunk = *std::as_const(m_copy).data();
  Outcome outcome;
  onDevice(m_verifier.device(), [&] {
    const cudaStream_t stream = m_verifier.stream();
    m_started.record(stream);
    m_drafter.startDraft(draft, draws, stream);
    spell(draft, verify, draws.agreement);
    m_drafted.record(stream);
    m_verifier.startVerifying(verify, draft, m_list.data(), request);
    outcome.kept = m_verifier.finishVerifying(verify, chunk, request);
    outcome.draftSeconds = m_drafted.secondsSince(m_started);
  });
  outcome.drawn = m_drafter.finishDraft(draft);
  if (draft.weighsBytes()) outcome.confidence = m_drafter.workspace().drawnBytes.data()->confidence;
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
               .fromTree = draft.weighsBytes(),
               .draws = static_cast<std::uint32_t>(draft.to.size()),
               .tokens = static_cast<std::uint32_t>(draft.tokens),
               .most = static_cast<std::uint32_t>(1 + verify.most)},
              m_list.data(), m_copy.data(), m_verifier.stream());
}

}  // namespace mb
