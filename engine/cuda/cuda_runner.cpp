#include "engine/cuda/cuda_runner.h"

#include <algorithm>
#include <cassert>
#include <cuda_runtime_api.h>
#include <utility>

#include "engine/cuda/cuda_runner_pair.h"
#include "engine/cuda/on_device.h"
#include "engine/error.h"
#include "kernels/cuda/taps.h"

namespace mb {

namespace {

using cuda::check;
using cuda::DeviceArray;
using cuda::PinnedArray;

class CudaValues : public DeviceValues {
 public:
  CudaValues(int device, std::size_t size) : m_device(device), m_values(size) {}
  CudaValues(const CudaValues& other) : CudaValues(other.m_device, other.m_values.size()) {
    check(cudaMemcpy(m_values.data(), other.m_values.data(), m_values.bytes(),
                     cudaMemcpyDeviceToDevice),
          "copying a state");
  }

  CudaValues(CudaValues&&) = default;  // keeps the address that kernels were given

  std::unique_ptr<DeviceValues> clone() const override {
    return onDevice(m_device, [&] { return std::make_unique<CudaValues>(*this); });
  }
  void download(std::span<float> values) const override {
    onDevice(m_device, [&] {
      check(cudaMemcpy(values.data(), m_values.data(), m_values.bytes(), cudaMemcpyDeviceToHost),
            "reading a state");
    });
  }

  int device() const { return m_device; }
  DeviceArray<float>& values() { return m_values; }

 private:
  int m_device;
  DeviceArray<float> m_values;
};

/// The state's values on this device, if it has them there.
CudaValues* valuesOn(int device, const State& state) {
  auto* values = dynamic_cast<CudaValues*>(state.onDevice());
  return values && values->device() == device ? values : nullptr;
}

const float* readable(int device, const State& state) {
  if (CudaValues* values = valuesOn(device, state)) return values->values().data();
  auto made = std::make_unique<CudaValues>(device, state.shape().size());
  if (!state.isUntouched()) made->values().upload(state.values().data(), state.shape().size());
  const float* data = made->values().data();
  state.keepOnDevice(std::move(made));
  return data;
}

float* writable(int device, State& state) {
  std::unique_ptr<CudaValues> values;
  if (CudaValues* present = valuesOn(device, state)) {
    values = std::make_unique<CudaValues>(std::move(*present));
  } else {
    values = std::make_unique<CudaValues>(device, state.shape().size());
  }
  float* data = values->values().data();
  state.moveToDevice(std::move(values));
  return data;
}

/// Memory for reading long texts: what a tenth of the weights and 64 MiB leave beside the traces of
/// chunks and a state.
std::size_t prefillBudget(const cuda::DeviceWeights& weights, const cuda::Workspace& workspace,
                          const ModelConfig& config) {
  const std::size_t most = weights.bytes() / 10 + (64u << 20);
  const std::size_t taken = 3 * workspace.traceInput.bytes() + StateShape(config).bytes();
  return most > taken ? most - taken : 0;
}

/// With the first `draws` of its keys.
cuda::Drawing drawingOf(const Drawing& drawing, std::size_t draws) {
  constexpr std::size_t kAll = 0x7fffffff;
  cuda::Drawing result{.temperature = drawing.temperature,
                       .topK = static_cast<std::uint32_t>(std::min(drawing.topK, kAll)),
                       .topP = drawing.topP,
                       .minP = drawing.minP};
  std::copy_n(drawing.keys.begin(), draws, result.keys);
  return result;
}

/// Bytes that a draft's tokens usually add, or more: a chunk's kernel for a few bytes takes hardly
/// less time than one for twice as many, but launching both does.
std::size_t usualBytes(const DraftPass& draft) {
  constexpr std::size_t kFewest = 4;
  const std::size_t bytesOfToken = draft.leastConfidence > 0 ? 1 : 3;
  return std::max(kFewest, draft.tokens * bytesOfToken);
}

cuda::Judgement judgementOf(const Judgement& judgement, std::size_t guesses) {
  cuda::Judgement result;
  result.byRank = judgement.beta.has_value();
  if (result.byRank)
    result.beta =
        static_cast<std::uint32_t>(std::min<std::size_t>(*judgement.beta, kByteVocabulary));
  else
    result.drawing = drawingOf(judgement.drawing, guesses);
  return result;
}

}  // namespace

CudaRunner::CudaRunner(std::shared_ptr<const cuda::DeviceWeights> weights,
                       std::shared_ptr<const cuda::Stream> stream, const ModelConfig& config,
                       int device)
    : m_weights(std::move(weights)),
      m_stream(std::move(stream)),
      m_config(config),
      m_device(device),
      m_most(cuda::mostTokens(*m_weights)),
      m_workspace(*m_weights, m_most),
      m_readCapacity(
          cuda::Prefill::capacityOf(*m_weights, prefillBudget(*m_weights, m_workspace, config))) {
  if (!cuda::Prefill::canTap(*m_weights)) return;
  const std::size_t budget = prefillBudget(*m_weights, m_workspace, config);
  m_tappedCapacity =
      cuda::Prefill::capacityOf(*m_weights, budget - std::min(budget, tapValues() * sizeof(float)),
                                meansOfToken() * sizeof(float));
}

/// Up to 16 take hardly more time than a few; then comes the kernel for 32.
std::size_t CudaRunner::cheapChunk() const {
  return std::min<std::size_t>(m_most, 16);
}

std::size_t CudaRunner::maxRead() const {
  return std::max(m_most, m_readCapacity.tokens);
}

std::size_t CudaRunner::maxTappedRead() const {
  return std::max(m_most, m_tappedCapacity.tokens);
}

void CudaRunner::advance(const State& from, State& to, TokenView tokens,
                         const ChunkRequest& request) {
  assert(from.shape() == StateShape(m_config) && to.shape() == from.shape());
  checkChunk(m_config, tokens, request.taps.enabled ? maxTappedRead() : maxRead());
  if (request.stop.stop_requested()) throw Stopped();
  start(tokens, request);
  if (tokens.empty()) {
    if (&from != &to) to = from;
    return;
  }
  onDevice(m_device, [&] {
    tokens.size() <= m_most ? run(from, to, tokens, request) : read(from, to, tokens, request);
  });
  to.setPosition(from.position() + tokens.size());
}

TokenView CudaRunner::advanceDrawing(const State& from, std::span<State> to, Token first,
                                     const Drawing& drawing, const ChunkRequest& request) {
  const std::size_t draws = std::min<std::size_t>(drawing.keys.size(), m_most - 1);
  cuda::ChunkRun chunk{.tokens = {&first, 1}};
  chunk.logits = true;
  chunk.draws = static_cast<std::uint32_t>(draws);
  chunk.drawing = drawingOf(drawing, draws);
  if (draws == 0 || request.logits == LogitsWanted::None ||
      !cuda::canDraw(*m_weights, m_workspace, chunk.drawing))
    return Runner::advanceDrawing(from, to, first, drawing, request);
  checkChunk(m_config, {&first, 1}, 1);
  if (request.stop.stop_requested()) throw Stopped();
  start({&first, 1}, request);
  to = to.first(std::min(to.size(), draws + 1));
  onDevice(m_device, [&] {
    chunk.stateIn = readable(m_device, from);
    std::vector<float*> states;
    for (State& state : to) states.push_back(writable(m_device, state));
    chunk.statesOut = states;
    launch(chunk, request.taps);
    finish(request.taps, chunk.draws + 1);
  });
  const std::int32_t* drawn = std::as_const(m_workspace).drawn.data();
  m_lastTokens.insert(m_lastTokens.end(), drawn, drawn + draws);
  m_traced = false;
  for (std::size_t i = 0; i < to.size(); ++i) to[i].setPosition(from.position() + i + 1);
  to.back().setPosition(from.position() + draws + 1);
  return TokenView(m_lastTokens).subspan(1);
}

std::size_t CudaRunner::advanceJudging(const State& from, State& to, TokenView tokens,
                                       const Judgement& judgement, const ChunkRequest& request) {
  if (tokens.size() < 2 || tokens.size() > m_most || request.logits == LogitsWanted::None ||
      !cuda::canJudge(*m_weights))
    return Runner::advanceJudging(from, to, tokens, judgement, request);
  assert(&from != &to);
  checkChunk(m_config, tokens, m_most);
  if (request.stop.stop_requested()) throw Stopped();
  start(tokens, request);
  onDevice(m_device, [&] {
    cuda::ChunkRun chunk{.tokens = tokens};
    launchJudging(from, to, chunk, judgementOf(judgement, tokens.size() - 1), request.taps);
    finish(request.taps, static_cast<std::uint32_t>(tokens.size()));
  });
  return keepJudged(from, to);
}

void CudaRunner::rewind(const State& from, State& to, std::size_t kept) {
  assert(kept <= m_lastTokens.size() && m_lastTokens.size() <= m_most && &from != &to);
  if (kept == 0) {
    to = from;
    return;
  }
  onDevice(m_device, [&] {
    const float* start = readable(m_device, from);
    if (m_traced) {
      cuda::replay(*m_weights, m_workspace, static_cast<std::uint32_t>(kept), start,
                   writable(m_device, to), *m_stream);
    } else {  // single tokens leave nothing to replay
      cuda::runChunk(*m_weights, m_workspace,
                     {.tokens = TokenView(m_lastTokens).first(kept),
                      .stateIn = start,
                      .stateOut = writable(m_device, to)},
                     *m_stream);
    }
  });
  to.setPosition(from.position() + kept);
}

std::span<const float> CudaRunner::logits(std::size_t index) const {
  assert(m_lastLogits != LogitsWanted::None && !m_lastTokens.empty());
  if (m_lastTokens.size() > m_most) {
    if (m_lastLogits == LogitsWanted::Last) index = 0;
    return {m_prefill->logits() + index * m_config.vocabSize, m_config.vocabSize};
  }
  if (m_lastLogits == LogitsWanted::Last) index = m_lastTokens.size() - 1;
  return {m_workspace.logits.data() + index * m_config.vocabSize, m_config.vocabSize};
}

std::unique_ptr<RunnerPair> CudaRunner::pairWith(Runner& drafter,
                                                 std::shared_ptr<const TokenTree> tokens) {
  auto* other = dynamic_cast<CudaRunner*>(&drafter);
  if (!other || other == this || other->m_device != m_device || !other->canDraft() || !canVerify())
    return nullptr;
  return onDevice(
      m_device, [&] { return std::make_unique<CudaRunnerPair>(*other, *this, std::move(tokens)); });
}

bool CudaRunner::canDraft() const {
  return cuda::canDraw(*m_weights, m_workspace, {});
}

bool CudaRunner::canVerify() const {
  return m_config.isByteLevel() && cuda::canJudge(*m_weights);
}

void CudaRunner::startDraft(const DraftPass& pass, cuda::ChunkRun chunk, cudaStream_t stream) {
  const std::size_t draws = pass.to.size();
  assert(draws > 0 && !pass.known.empty() && pass.known.size() + draws - 1 <= m_most);
  checkChunk(m_config, pass.known, m_most);
  start(pass.known, {});
  m_traced = false;
  chunk.tokens = pass.known;
  chunk.stateIn = readable(m_device, *pass.from);
  std::vector<float*> states(pass.known.size() - 1, writable(m_device, pass.to.front()));
  for (State& state : pass.to) states.push_back(writable(m_device, state));
  chunk.statesOut = states;
  chunk.logits = true;
  chunk.draws = static_cast<std::uint32_t>(draws);
  chunk.readsLast = false;
  chunk.drawing = drawingOf(pass.drawing, pass.drawing.keys.size());
  cuda::runChunk(*m_weights, m_workspace, chunk, stream);
}

TokenView CudaRunner::finishDraft(const DraftPass& pass) {
  const TokenView all(std::as_const(m_workspace).drawn.data(), pass.to.size());
  const TokenView drawn(all.begin(), std::ranges::find(all, cuda::kNoToken));
  m_lastTokens.insert(m_lastTokens.end(), drawn.begin(), drawn.end() - 1);
  const std::uint64_t first = pass.from->position() + pass.known.size();
  for (std::size_t i = 0; i < drawn.size(); ++i) pass.to[i].setPosition(first + i);
  return drawn;
}

void CudaRunner::startVerifying(const VerifyPass& pass, const DraftPass& draft,
                                const cuda::TokenList* list, const ChunkRequest& request) {
  assert(&pass.from != &pass.to && pass.most > 0 && pass.most < m_most);
  cuda::ChunkRun chunk;
  chunk.list = list;
  chunk.usuallyListed = static_cast<std::uint32_t>(1 + draft.head.size() + usualBytes(draft));
  chunk.mostListed = static_cast<std::uint32_t>(1 + pass.most);
  launchJudging(pass.from, pass.to, chunk, judgementOf(pass.judgement, pass.most), request.taps);
}

std::size_t CudaRunner::finishVerifying(const VerifyPass& pass, const cuda::TokenList& list,
                                        const ChunkRequest& request) {
  m_lastLogits = LogitsWanted::All;
  m_taps = {};
  finish(request.taps, static_cast<std::uint32_t>(1 + pass.most));
  m_lastTokens.assign(list.tokens, list.tokens + list.count);
  cutTaps(list.count);
  return keepJudged(pass.from, pass.to);
}

void CudaRunner::start(TokenView tokens, const ChunkRequest& request) {
  m_lastTokens.assign(tokens.begin(), tokens.end());
  m_lastLogits = request.logits;
  m_taps = {};
}

void CudaRunner::run(const State& from, State& to, TokenView tokens, const ChunkRequest& request) {
  cuda::ChunkRun chunk{.tokens = tokens, .stateIn = readable(m_device, from)};
  chunk.stateOut = writable(m_device, to);
  chunk.logits = request.logits != LogitsWanted::None;
  chunk.trace = tokens.size() > 1;
  m_traced = chunk.trace;
  launch(chunk, request.taps);
  finish(request.taps, static_cast<std::uint32_t>(tokens.size()));
}

void CudaRunner::launch(cuda::ChunkRun& chunk, const TapRequest& taps) {
  chunk.taps = taps.enabled;
  if (chunk.taps) reserveTaps(m_most);
  cuda::runChunk(*m_weights, m_workspace, chunk, *m_stream);
}

/// Starts a chunk, and behind it what finds which of its tokens stand and goes back to the last.
void CudaRunner::launchJudging(const State& from, State& to, cuda::ChunkRun& chunk,
                               const cuda::Judgement& judgement, const TapRequest& taps) {
  chunk.stateIn = readable(m_device, from);
  chunk.stateOut = writable(m_device, to);
  chunk.logits = true;
  chunk.trace = true;
  m_traced = true;
  launch(chunk, taps);
  cuda::judge(*m_weights, m_workspace, chunk.tokens, chunk.list, judgement, *m_stream);
  cuda::replayStanding(*m_weights, m_workspace, chunk.stateIn, chunk.stateOut, *m_stream);
}

/// When the device is done with it.
std::size_t CudaRunner::keepJudged(const State& from, State& to) const {
  const std::size_t kept = *m_workspace.kept.data();
  to.setPosition(from.position() + kept);
  return kept;
}

/// Waits for a chunk that leaves `count` tokens, and fetches their taps.
void CudaRunner::finish(const TapRequest& taps, std::uint32_t count) {
  if (taps.enabled) {
    cuda::reduceTaps(*m_weights, m_workspace, count, tapMeans(taps, count), *m_stream);
    fetchTaps(taps, count);
  }
  m_stream->wait();
  if (taps.enabled) keepTaps(taps, count);
}

void CudaRunner::read(const State& from, State& to, TokenView tokens, const ChunkRequest& request) {
  using Logits = cuda::Prefill::Logits;
  const bool tapped = request.taps.enabled;
  const auto count = static_cast<std::uint32_t>(tokens.size());
  if (tapped) reserveTaps(m_tappedCapacity.tokens);
  if (!m_prefill) m_prefill = std::make_unique<cuda::Prefill>(*m_weights, m_readCapacity);
  cuda::Prefill::Run run{.tokens = tokens, .stateIn = readable(m_device, from)};
  run.stateOut = writable(m_device, to);
  run.logits = request.logits == LogitsWanted::None   ? Logits::None
               : request.logits == LogitsWanted::Last ? Logits::Last
                                                      : Logits::All;
  if (tapped) run.taps = tapMeans(request.taps, count);
  m_prefill->run(run, *m_stream);
  if (tapped) fetchTaps(request.taps, count);
  m_stream->wait();
  if (tapped) keepTaps(request.taps, count);
}

/// Of all channels of a chunk's tokens.
std::size_t CudaRunner::tapValues() const {
  return m_config.layers * m_most * kTapKinds * m_weights->layout.paddedInner;
}

/// Most means of a token.
std::size_t CudaRunner::meansOfToken() const {
  return kTapKinds * (m_config.layers + tapBins(m_config.dInner, ~0u));
}

/// Takes the memory for taps of so many tokens, which is left out of that for reading long texts
/// from when taps are first wanted.
void CudaRunner::reserveTaps(std::size_t tokens) {
  if (m_workspace.taps.size() == 0) {
    if (m_tappedCapacity.tokens > 0) {
      m_prefill.reset();
      m_readCapacity = m_tappedCapacity;
    }
    m_workspace.taps = DeviceArray<float>(tapValues());
  }
  if (m_hostTaps.size() >= tokens * meansOfToken()) return;
  m_hostTaps = {};
  m_tapMeans = {};
  m_tapMeans = DeviceArray<float>(tokens * meansOfToken());
  m_hostTaps = PinnedArray<float>(tokens * meansOfToken());
}

std::size_t CudaRunner::layerMeans(std::uint32_t count) const {
  return count * kTapKinds * m_config.layers;
}

cuda::TapMeans CudaRunner::tapMeans(const TapRequest& request, std::uint32_t count) {
  return {.byLayer = m_tapMeans.data(),
          .byChannel = m_tapMeans.data() + layerMeans(count),
          .layer = static_cast<std::uint32_t>(std::min(request.layer, m_config.layers - 1)),
          .bins = static_cast<std::uint32_t>(tapBins(m_config.dInner, request.bins))};
}

void CudaRunner::fetchTaps(const TapRequest& request, std::uint32_t count) {
  const std::size_t bins = tapBins(m_config.dInner, request.bins);
  check(cudaMemcpyAsync(m_hostTaps.data(), m_tapMeans.data(),
                        (layerMeans(count) + count * kTapKinds * bins) * sizeof(float),
                        cudaMemcpyDeviceToHost, *m_stream),
        "fetching taps");
}

void CudaRunner::keepTaps(const TapRequest& request, std::uint32_t count) {
  m_taps.count = count;
  m_taps.layers = m_config.layers;
  m_taps.layer = std::min(request.layer, m_config.layers - 1);
  m_taps.bins = tapBins(m_config.dInner, request.bins);
  const float* channels = m_hostTaps.data() + layerMeans(count);
  m_taps.byLayer.assign(std::as_const(m_hostTaps).data(), channels);
  m_taps.byChannel.assign(channels, channels + count * kTapKinds * m_taps.bins);
}

/// Keeps those of the first `count` tokens.
void CudaRunner::cutTaps(std::size_t count) {
  if (m_taps.count <= count) return;
  m_taps.count = count;
  m_taps.byLayer.resize(count * kTapKinds * m_taps.layers);
  m_taps.byChannel.resize(count * kTapKinds * m_taps.bins);
}

}  // namespace mb
