// Models whose runners make pairs on the CPU: what a device does for a round in one go, step by
// step.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "engine/decoding/sampler.h"
#include "engine/decoding/token_chooser.h"
#include "engine/model/runner_pair.h"
#include "tests/support/forwarding_model.h"

namespace mb::test {

/// What a pair does wrongly: every so many runs, or never.
struct PairFaults {
  std::size_t draws = 0;   ///< the last token drawn is another one
  std::size_t judges = 0;  ///< too little stands
};

/// Another model with runners that make pairs, and count what they do.
class PairedModel : public ForwardingModel {
 public:
  /// `faults` are of the pairs in which this model verifies.
  explicit PairedModel(std::shared_ptr<const Model> model, PairFaults faults = {})
      : ForwardingModel(std::move(model)), m_faults(faults) {}
  std::unique_ptr<Runner> newRunner() const override {
    return std::make_unique<PairedRunner>(*this);
  }

  std::size_t longestChunk = 64;     ///< where that is less than the model's
  std::size_t cheapestChunk = 64;    ///< likewise
  mutable std::size_t passes = 0;    ///< that somebody waits for, outside of pairs
  mutable std::size_t rewinds = 0;   ///< likewise
  mutable std::size_t pairRuns = 0;  ///< of pairs in which this model verifies

 private:
  class PairedRunner : public ForwardingRunner {
   public:
    explicit PairedRunner(const PairedModel& model)
        : ForwardingRunner(model.ForwardingModel::newRunner()), m_model(model) {}
    std::size_t maxChunk() const override {
      return std::min(ForwardingRunner::maxChunk(), m_model.longestChunk);
    }
    std::size_t cheapChunk() const override {
      return std::min({maxChunk(), ForwardingRunner::cheapChunk(), m_model.cheapestChunk});
    }
    void advance(const State& from, State& to, TokenView tokens,
                 const ChunkRequest& request) override {
      ++m_model.passes;
      ForwardingRunner::advance(from, to, tokens, request);
    }
    void rewind(const State& from, State& to, std::size_t kept) override {
      ++m_model.rewinds;
      ForwardingRunner::rewind(from, to, kept);
    }
    std::unique_ptr<RunnerPair> pairWith(Runner& drafter,
                                         std::shared_ptr<const TokenTree> tokens) override {
      auto* other = dynamic_cast<PairedRunner*>(&drafter);
      return other ? std::make_unique<HostPair>(*other, *this, std::move(tokens)) : nullptr;
    }

   private:
    friend class PairedModel;
    const PairedModel& m_model;
  };

  class HostPair : public RunnerPair {
   public:
    HostPair(PairedRunner& drafter, PairedRunner& verifier, std::shared_ptr<const TokenTree> tokens)
        : m_drafter(drafter),
          m_verifier(verifier),
          m_tokens(std::move(tokens)),
          m_chooser(m_tokens) {}

    bool weighsBytes() const override { return true; }

    Outcome run(const DraftPass& draft, const VerifyPass& verify,
                const ChunkRequest& request) override {
      const std::size_t run = m_verifier.m_model.pairRuns++;
      const PairFaults& faults = m_verifier.m_model.m_faults;
      const auto isIn = [run](std::size_t every) { return every > 0 && run % every == 0; };
      drawTokens(draft);
      if (isIn(faults.draws)) m_drawn.back() = m_drawn.back() == 0 ? 1 : m_drawn.back() - 1;
      m_chunk.assign(1, verify.first);
      for (const Byte byte : spelled(draft, verify.most)) m_chunk.push_back(byte);
      m_verifier.m_logits.clear();
      m_verifier.m_runner->advance(verify.from, verify.to, m_chunk, request);
      std::size_t kept = standing(verify.judgement);
      if (isIn(faults.judges) && kept > 1) --kept;
      m_verifier.m_runner->rewind(verify.from, verify.to, kept);
      const double confidence = m_confidences.empty() ? draft.confidence : m_confidences.back();
      return {m_drawn, m_chunk, kept, confidence, 0};
    }

   private:
    void drawTokens(const DraftPass& draft) {
      State state = *draft.from;
      const auto read = [&](Token token, State& to) {
        m_drafter.m_runner->advance(state, to, {&token, 1}, {});
        m_drafter.keepLogits(0);
        state = to;
      };
      m_drafter.m_logits.clear();
      for (const Token token : draft.known) read(token, draft.to.front());
      m_drawn.clear();
      m_confidences.clear();
      ByteView agree = draft.agree;
      double before = draft.confidence;
      std::size_t tokens = 0;  // that bring bytes
      while (true) {
        const auto [token, confidences] = choose(draft, agree);
        m_drawn.push_back(token);
        for (const double confidence : confidences) m_confidences.push_back(before * confidence);
        if (!confidences.empty()) before = m_confidences.back();
        tokens += !confidences.empty();
        if (m_drawn.size() == draft.to.size() ||
            (draft.weighsBytes() &&
             (tokens == draft.tokens || sureBytes(draft) < m_confidences.size())))
          return;
        const std::size_t size = m_tokens->tokenizer().bytes(token).size();
        agree = draft.weighsBytes() ? agree.subspan(std::min(size, agree.size())) : ByteView();
        read(token, draft.to[m_drawn.size()]);
      }
    }

    TokenChooser::Choice choose(const DraftPass& draft, ByteView agree) {
      if (!draft.weighsBytes()) return {mostProbable(agree), {}};
      const std::vector<float>& logits = m_drafter.m_logits.back();
      const Drawing& drawing = draft.drawing;
      if (drawing.temperature <= 0) return m_chooser.mostProbable(logits, agree, true);
      Sampler sampler = samplerFor(drawing);
      const auto race = [&](std::span<const float> byteLogits, ByteView bytes) {
        const std::size_t at =
            std::min(m_confidences.size() + bytes.size(), drawing.keys.size() - 1);
        return sampler.raceWithKey(byteLogits, drawing.keys[at]);
      };
      return m_chooser.draw(logits, agree, race);
    }

    static Sampler samplerFor(const Drawing& drawing) {
      return Sampler({.temperature = drawing.temperature,
                      .topK = drawing.topK,
                      .topP = drawing.topP,
                      .minP = drawing.minP});
    }

    Token mostProbable(ByteView agree) const {
      const std::vector<float>& logits = m_drafter.m_logits.back();
      if (agree.empty()) return argmax(logits);
      Token best = -1;
      for (std::size_t i = 0; i < logits.size(); ++i) {
        const ByteView bytes = m_tokens->tokenizer().bytes(static_cast<Token>(i));
        const std::size_t common = std::min(bytes.size(), agree.size());
        if (common == 0 || !std::ranges::equal(bytes.first(common), agree.first(common))) continue;
        if (best < 0 || logits[i] > logits[static_cast<std::size_t>(best)])
          best = static_cast<Token>(i);
      }
      return std::max(best, 0);
    }

    Bytes spelled(const DraftPass& draft, std::size_t most) const {
      Bytes text(draft.head.begin(), draft.head.end());
      ByteView agree = draft.agree;
      std::size_t taken = 0;
      for (const Token token : m_drawn) {
        const ByteView bytes = m_tokens->tokenizer().bytes(token);
        if (taken == draft.tokens || bytes.empty()) break;
        const std::size_t known = std::min(bytes.size(), agree.size());
        agree = agree.subspan(known);
        if (!agree.empty() && !draft.weighsBytes()) break;
        text.insert(text.end(), bytes.begin() + static_cast<std::ptrdiff_t>(known), bytes.end());
        taken += bytes.size() > known;
      }
      std::size_t end = most;
      if (draft.weighsBytes()) end = std::min(end, draft.head.size() + sureBytes(draft));
      text.resize(std::min(text.size(), end));
      return text;
    }

    /// Of what the tokens bring.
    std::size_t sureBytes(const DraftPass& draft) const {
      const auto isUnsure = [&](double confidence) { return confidence < draft.leastConfidence; };
      return static_cast<std::size_t>(std::ranges::find_if(m_confidences, isUnsure) -
                                      m_confidences.begin());
    }

    bool stands(std::size_t i, const Judgement& judgement) const {
      const auto logits = m_verifier.m_runner->logits(i - 1);
      if (!judgement.beta)
        return samplerFor(judgement.drawing)
                   .raceWithKey(logits, judgement.drawing.keys[i - 1])
                   .token == m_chunk[i];
      const float own = logits[static_cast<std::size_t>(m_chunk[i])];
      const auto better = std::ranges::count_if(logits, [&](float l) { return l > own; });
      return static_cast<std::size_t>(better) < *judgement.beta;
    }

    std::size_t standing(const Judgement& judgement) const {
      std::size_t kept = 1;
      while (kept < m_chunk.size() && stands(kept, judgement)) ++kept;
      return kept;
    }

    PairedRunner& m_drafter;
    PairedRunner& m_verifier;
    std::shared_ptr<const TokenTree> m_tokens;
    TokenChooser m_chooser;
    std::vector<Token> m_drawn;
    std::vector<double> m_confidences;  ///< of the bytes that they bring, in draws that weigh bytes
    std::vector<Token> m_chunk;
  };

  PairFaults m_faults;
};

}  // namespace mb::test
