// Models whose runners make pairs on the CPU: what a device does for a round in one go, step by
// step.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "engine/decoding/sampler.h"
#include "engine/model/runner_pair.h"
#include "tests/support/forwarding_model.h"

namespace mb::test {

/// Another model with runners that make pairs, and count what they do.
class PairedModel : public ForwardingModel {
 public:
  /// Of the pairs in which this model verifies, every `wrongEvery`-th run draws a token that is not
  /// the most probable, or, in turn, lets too little stand. 0 for none.
  explicit PairedModel(std::shared_ptr<const Model> model, std::size_t wrongEvery = 0)
      : ForwardingModel(std::move(model)), m_wrongEvery(wrongEvery) {}
  std::unique_ptr<Runner> newRunner() const override {
    return std::make_unique<PairedRunner>(*this);
  }

  mutable std::size_t passes = 0;    ///< that somebody waits for, outside of pairs
  mutable std::size_t rewinds = 0;   ///< likewise
  mutable std::size_t pairRuns = 0;  ///< of pairs in which this model verifies

 private:
  class PairedRunner : public ForwardingRunner {
   public:
    explicit PairedRunner(const PairedModel& model)
        : ForwardingRunner(model.ForwardingModel::newRunner()), m_model(model) {}
    void advance(const State& from, State& to, TokenView tokens,
                 const ChunkRequest& request) override {
      ++m_model.passes;
      ForwardingRunner::advance(from, to, tokens, request);
    }
    void rewind(const State& from, State& to, std::size_t kept) override {
      ++m_model.rewinds;
      ForwardingRunner::rewind(from, to, kept);
    }
    std::unique_ptr<RunnerPair> pairWith(Runner& drafter, const TokenBytes& bytes) override {
      auto* other = dynamic_cast<PairedRunner*>(&drafter);
      return other ? std::make_unique<HostPair>(*other, *this, bytes) : nullptr;
    }

   private:
    friend class PairedModel;
    const PairedModel& m_model;
  };

  class HostPair : public RunnerPair {
   public:
    HostPair(PairedRunner& drafter, PairedRunner& verifier, TokenBytes bytes)
        : m_drafter(drafter), m_verifier(verifier), m_bytes(std::move(bytes)) {}

    Outcome run(const DraftPass& draft, const VerifyPass& verify,
                const ChunkRequest& request) override {
      const std::size_t run = m_verifier.m_model.pairRuns++;
      const std::size_t wrongEvery = m_verifier.m_model.m_wrongEvery;
      const bool wrong = wrongEvery > 0 && run % wrongEvery == 0;
      const bool drawsWrong = wrong && run / wrongEvery % 2 == 0;
      drawTokens(draft);
      if (drawsWrong) m_drawn.back() = m_drawn.back() == 0 ? 1 : m_drawn.back() - 1;
      m_chunk.assign(1, verify.first);
      for (const Byte byte : spelled(draft, verify.most)) m_chunk.push_back(byte);
      m_verifier.m_logits.clear();
      m_verifier.m_runner->advance(verify.from, verify.to, m_chunk, request);
      std::size_t kept = standing(verify.judgement);
      if (wrong && !drawsWrong && kept > 1) --kept;
      m_verifier.m_runner->rewind(verify.from, verify.to, kept);
      return {m_drawn, m_chunk, kept, 0};
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
      while (true) {
        m_drawn.push_back(m_drawn.empty() && !draft.agree.empty()
                              ? agreeing(draft.agree)
                              : argmax(m_drafter.m_logits.back()));
        if (m_drawn.size() == draft.to.size()) return;
        read(m_drawn.back(), draft.to[m_drawn.size()]);
      }
    }

    Token agreeing(ByteView agree) const {
      const std::vector<float>& logits = m_drafter.m_logits.back();
      Token best = -1;
      for (std::size_t i = 0; i < logits.size(); ++i) {
        const ByteView bytes = m_bytes(static_cast<Token>(i));
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
        const ByteView bytes = m_bytes(token);
        if (taken == draft.tokens || bytes.empty()) break;
        const std::size_t known = std::min(bytes.size(), agree.size());
        agree = agree.subspan(known);
        if (!agree.empty()) break;
        text.insert(text.end(), bytes.begin() + static_cast<std::ptrdiff_t>(known), bytes.end());
        taken += bytes.size() > known;
      }
      text.resize(std::min(text.size(), most));
      return text;
    }

    /// By rank, or as greedy as the drawing; what would have to be sampled stands.
    bool stands(std::size_t i, const Judgement& judgement) const {
      const auto logits = m_verifier.m_runner->logits(i - 1);
      if (!judgement.beta) return judgement.drawing.temperature > 0 || argmax(logits) == m_chunk[i];
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
    TokenBytes m_bytes;
    std::vector<Token> m_drawn;
    std::vector<Token> m_chunk;
  };

  std::size_t m_wrongEvery;
};

}  // namespace mb::test
