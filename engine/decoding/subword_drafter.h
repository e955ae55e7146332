// Drafting with a small subword Mamba (MambaByte, section 4), with token healing.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "engine/decoding/drafter.h"
#include "engine/decoding/token_chooser.h"
#include "engine/model/devices.h"
#include "engine/model/model.h"
#include "engine/tokenizer/tokenizer.h"

namespace mb {

/// Token healing is explained at DraftSettings.
class SubwordDrafter : public Drafter {
 public:
  /// Throws RequestError when the vocabularies of model and tokenizer do not fit.
  SubwordDrafter(std::shared_ptr<const Model> model, std::shared_ptr<const Tokenizer> tokenizer);

  std::string name() const override { return m_model->info().name; }
  const Model& model() const { return *m_model; }
  const Tokenizer& tokenizer() const { return *m_tokenizer; }
  void configure(const DraftSettings& settings) override;

  void reset(ByteView text, std::stop_token stop) override;
  Draft propose(std::size_t tokens, std::size_t maxBytes, std::stop_token stop) override;
  void append(ByteView bytes) override;
  std::unique_ptr<RunnerPair> pairWith(Runner& verifier) override;
  bool prepare(std::size_t tokens, std::size_t maxBytes, const RunPass& run) override;

  /// Longest end of a text that reset() reads: about what the drafter saw in training.
  static constexpr std::size_t kContextBytes = 4096;

 private:
  /// Pending bytes that are read as tokens now, whatever follows.
  struct Settled {
    std::vector<Token> tokens;
    std::size_t bytes = 0;
  };

  /// How far a proposal has come.
  struct Progress {
    Draft draft;
    ByteView agree;  ///< bytes of the text behind the current boundary
    double confidence = 1;
    std::size_t boundary = 0;
  };

  void startOver(Bytes text, std::stop_token stop);
  void follow(ByteView bytes, std::stop_token stop);
  Settled settle() const;
  void readPending(std::stop_token stop);
  void read(TokenView tokens, std::stop_token stop);
  void catchUp(std::stop_token stop);
  bool goOn(Progress& progress, std::size_t tokens, std::size_t maxBytes);
  void keepBoundaries(std::size_t first, std::size_t count, std::size_t firstLogits,
                      TokenView drawn);
  void reserveBoundaries(std::size_t count);
  void extend(std::size_t boundary, std::size_t most, std::stop_token stop);
  void takeStep(std::size_t i, Token token);
  /// Whether tokens are those that a runner can draw by itself: the most probable ones.
  bool runnerCanChoose() const {
    return m_settings.sampler.isGreedy() && m_settings.leastConfidence <= 0;
  }
  /// The same of a pair's runner.
  bool pairCanChoose() const {
    const SamplerSettings& sampler = m_settings.sampler;
    return runnerCanChoose() ||
           (m_pairWeighsBytes && (sampler.isGreedy() || sampler.repetitionPenalty == 1));
  }
  TokenChooser::Choice choose(const Progress& progress, bool prepared);
  TokenChooser::Choice drawFor(const Progress& progress);
  std::size_t sureBytes(const Progress& progress, bool prepared, const TokenChooser::Choice& choice,
                        std::size_t fresh) const;
  bool isPrepared(const Progress& progress) const;
  std::size_t mostRereading(ByteView agree) const;
  std::size_t confirmedSteps(TokenView settledTokens) const;
  void moveBase(std::size_t steps);
  void dropPending(std::size_t bytes);
  void forgetSteps();

  std::shared_ptr<const Model> m_model;
  std::shared_ptr<const Tokenizer> m_tokenizer;
  std::shared_ptr<const TokenTree> m_tree;
  std::unique_ptr<Runner> m_runner;
  TokenChooser m_chooser;
  bool m_pairWeighsBytes = false;
  DraftSettings m_settings;
  Sampler m_sampler;
  Bytes m_text;                 ///< everything followed so far
  Bytes m_pending;              ///< end of m_text behind the base boundary
  std::vector<Token> m_unread;  ///< tokens before the base that its state has not read yet
  bool m_ready = false;         ///< there is a base; it may have to catch up
  bool m_provisional = false;   ///< the base lies in the text's unfinished first piece
  // Boundaries, the drafter after some tokens: 0 is the base, computed when nothing is unread.
  std::vector<State> m_states;
  std::vector<std::vector<float>> m_logits;    ///< of the next token
  std::size_t m_computed = 1;                  ///< boundaries that are up to date
  std::vector<Token> m_steps;                  ///< chosen at boundary i, leading to boundary i + 1
  std::optional<std::size_t> m_firstPrepared;  ///< step that a pair drew for the next proposal
  std::size_t m_preparedBytes = 0;             ///< of that proposal, which the pair has looked at
  double m_preparedConfidence = 1;
};

/// The drafter in a folder. Throws what ModelLoader::open() throws, and FormatError for a folder
/// without a tokenizer.
std::shared_ptr<SubwordDrafter> openDrafter(ModelLoader& loader,
                                            const std::filesystem::path& folder,
                                            std::stop_token stop);

}  // namespace mb
