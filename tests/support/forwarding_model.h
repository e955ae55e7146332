// A model that stands in for another one: what a test does not change goes to that.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "engine/model/model.h"

namespace mb::test {

class ForwardingModel : public Model {
 public:
  explicit ForwardingModel(std::shared_ptr<const Model> model) : m_model(std::move(model)) {}
  const ModelConfig& config() const override { return m_model->config(); }
  const ModelInfo& info() const override { return m_model->info(); }
  std::unique_ptr<Runner> newRunner() const override { return m_model->newRunner(); }

 private:
  std::shared_ptr<const Model> m_model;
};

/// Draws and judges nothing by itself, whatever the other one can.
class ForwardingRunner : public Runner {
 public:
  explicit ForwardingRunner(std::unique_ptr<Runner> runner) : m_runner(std::move(runner)) {}
  std::size_t maxChunk() const override { return m_runner->maxChunk(); }
  std::size_t cheapChunk() const override { return m_runner->cheapChunk(); }
  void advance(const State& from, State& to, TokenView tokens,
               const ChunkRequest& request) override {
    m_logits.clear();
    m_runner->advance(from, to, tokens, request);
  }
  void rewind(const State& from, State& to, std::size_t kept) override {
    m_runner->rewind(from, to, kept);
  }
  std::span<const float> logits(std::size_t i) const override {
    return m_logits.empty() ? m_runner->logits(i) : std::span<const float>(m_logits.at(i));
  }
  const TapBlock& taps() const override { return m_runner->taps(); }

 protected:
  void keepLogits(std::size_t i) {
    const auto logits = m_runner->logits(i);
    m_logits.emplace_back(logits.begin(), logits.end());
  }

  std::unique_ptr<Runner> m_runner;
  std::vector<std::vector<float>> m_logits;  ///< of several passes; those of the last where empty
};

}  // namespace mb::test
